--- Runs a script in an interpreter of its own, like the one that runs the specs.

local unpack = table.unpack or unpack -- luacheck: ignore 143

local M = {}

-- The interpreter: what stands before the script's name on the command line that runs the specs.
local lowest = 0
while arg[lowest - 1] do
	lowest = lowest - 1
end
M.interpreter = arg[lowest]

local IS_WINDOWS = package.config:sub(1, 1) == "\\"

local function quote(text)
	return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- The name of a new file. On Windows os.tmpname names one of the root directory.
local function temporary()
	return (IS_WINDOWS and os.getenv("TEMP") or "") .. os.tmpname()
end

local function write(file, text)
	local handle = assert(io.open(file, "w"))
	handle:write(text)
	handle:close()
end

-- How long a child may run, in seconds.
local LIMIT = 20

-- Makes the command that runs a script, and the files that are to be removed afterwards. LuaSocket, which the specs
-- load, ignores SIGPIPE: the child does not inherit that. The status travels on a last line: io.popen does not tell it
-- in every Lua.
local function command(script, ...)
	local arguments, count = { ... }, select("#", ...)
	local variables = {}
	if type(arguments[count]) == "table" then
		for name, value in pairs(arguments[count]) do
			variables[#variables + 1] = IS_WINDOWS and ("set %s=%s\n"):format(name, (value:gsub("%%", "%%%%")))
				or name .. "=" .. quote(value)
		end
		count = count - 1
	end
	script = script:format(unpack(arguments, 1, count))
	local file = temporary()
	write(file, script)
	if IS_WINDOWS then
		local batch = file .. ".bat"
		write(batch, ('@echo off\n%s"%s" "%s" 2>&1\necho %%errorlevel%%\n'):format(
			table.concat(variables), M.interpreter, file))
		return batch, { file, batch }
	end
	return ("env --default-signal=PIPE %s timeout -k 1 %d %s %s 2>&1; echo $?"):format(
		table.concat(variables, " "), LIMIT, M.interpreter, file), { file }
end

local function split(output)
	local text, status = output:match("^(.-)(%d+)\n$")
	return text, tonumber(status)
end

local function open(before, ...)
	local line, files = command(...)
	local pipe = assert(io.popen(before .. line))
	return pipe, function()
		local output = pipe:read("*a")
		pipe:close()
		for _, file in ipairs(files) do
			os.remove(file)
		end
		return split(output)
	end
end

--- Runs a script and waits for its end.
-- @tparam string script the script, a format for its arguments
-- @param ... arguments of the format, then perhaps a table of environment variables
-- @treturn string what it printed, errors too
-- @treturn number its exit status
function M.run(...)
	local _, finish = open("", ...)
	return finish()
end

--- The same, with a hundred descriptors.
-- @param ... as of `run`
function M.run_short_of_descriptors(...)
	local _, finish = open("ulimit -n 100; ", ...)
	return finish()
end

--- Starts a script, to read what it prints while it runs.
-- @param ... as of `run`
-- @return the pipe to read from
-- @treturn function waits for its end and returns what `run` does, as far as it has not been read
function M.open(...)
	return open("", ...)
end

--- Starts a script, for what must happen while it runs.
-- @param ... as of `run`
-- @treturn table `tell(text)` gives the script a line to read, if it still runs; `has_ended()` says if it has ended;
-- `finish()` waits for its end and returns what `run` does
function M.start(...)
	local line, files = command(...)
	local output = temporary()
	local flag = output .. ".ended"
	local whole = IS_WINDOWS and "%s >%s & echo ended >%s" or "{ %s; } >%s; : >%s"
	local pipe = assert(io.popen(whole:format(line, output, flag), "w"))
	return {
		tell = function(text)
			pipe:write(text, "\n")
			pipe:flush()
		end,
		has_ended = function()
			local handle = io.open(flag)
			if handle then
				handle:close()
			end
			return handle ~= nil
		end,
		finish = function()
			pipe:close()
			local handle = assert(io.open(output))
			local text = handle:read("*a")
			handle:close()
			for _, file in ipairs({ output, flag, unpack(files) }) do
				os.remove(file)
			end
			return split(text)
		end,
	}
end

-- Begins a script that forks: `fork` and `wait`; nil if this Lua has no way.
if rawget(_G, "jit") then
	M.FORK = [[
		local ffi = require("ffi")
		ffi.cdef("int fork(void); int waitpid(int pid, int *status, int options);")
		local fork = ffi.C.fork
		local function wait(pid)
			ffi.C.waitpid(pid, nil, 0)
		end
	]]
elseif pcall(require, "posix.unistd") then
	M.FORK = [[
		local fork = require("posix.unistd").fork
		local wait = require("posix.sys.wait").wait
	]]
end

return M

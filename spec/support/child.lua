--- Runs a script in an interpreter of its own, like the one that runs the specs.

local M = {}

-- The interpreter: what stands before the script's name on the command line that runs the specs.
local lowest = 0
while arg[lowest - 1] do
	lowest = lowest - 1
end
M.interpreter = arg[lowest]

local function quote(text)
	return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- How long a child may run, in seconds.
local LIMIT = 20

-- Writes a script to a file and returns its name, and the command that runs it.
local function prepare(script, ...)
	local arguments, count = { ... }, select("#", ...)
	local variables = {}
	if type(arguments[count]) == "table" then
		for name, value in pairs(arguments[count]) do
			variables[#variables + 1] = name .. "=" .. quote(value)
		end
		count = count - 1
	end
	script = script:format((table.unpack or unpack)(arguments, 1, count)) -- luacheck: ignore 143
	local file = os.tmpname()
	local handle = assert(io.open(file, "w"))
	handle:write(script)
	handle:close()
	-- The status travels on a last line: io.popen does not tell it in every Lua.
	return file, ("env %s timeout -k 1 %d %s %s 2>&1; echo $?"):format(
		table.concat(variables, " "), LIMIT, M.interpreter, file)
end

-- Reads what a script has printed, to its end, and its exit status.
local function finish(pipe, file)
	local output = pipe:read("*a")
	pipe:close()
	os.remove(file)
	local text, status = output:match("^(.-)(%d+)\n$")
	return text, tonumber(status)
end

--- Runs a script and waits for its end.
-- @tparam string script the script, a format for its arguments
-- @param ... arguments of the format, then perhaps a table of environment variables
-- @treturn string what it printed, errors too
-- @treturn number its exit status
function M.run(script, ...)
	local file, command = prepare(script, ...)
	return finish(assert(io.popen(command)), file)
end

--- Starts a script, for a test that has something to do meanwhile.
-- @param ... as for `run`
-- @treturn table `has_ended()`: whether the script has; `finish()`: waits for its end, returns what `run` returns
function M.start(...)
	local file, command = prepare(...)
	local flag = file .. ".ended"
	local pipe = assert(io.popen(command .. "; : >" .. flag))
	return {
		has_ended = function()
			local handle = io.open(flag)
			if handle then
				handle:close()
			end
			return handle ~= nil
		end,
		finish = function()
			local text, status = finish(pipe, file)
			os.remove(flag)
			return text, status
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

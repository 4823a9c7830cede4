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

-- Makes the command that runs a script, and the file that holds it. LuaSocket, which the specs load, ignores SIGPIPE:
-- the child does not inherit that. The status travels on a last line: io.popen does not tell it in every Lua.
local function command(script, ...)
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
	return ("env --default-signal=PIPE %s timeout -k 1 %d %s %s 2>&1; echo $?"):format(
		table.concat(variables, " "), LIMIT, M.interpreter, file), file
end

local function split(output)
	local text, status = output:match("^(.-)(%d+)\n$")
	return text, tonumber(status)
end

--- Runs a script and waits for its end.
-- @tparam string script the script, a format for its arguments
-- @param ... arguments of the format, then perhaps a table of environment variables
-- @treturn string what it printed, errors too
-- @treturn number its exit status
function M.run(script, ...)
	local line, file = command(script, ...)
	local pipe = assert(io.popen(line))
	local output = pipe:read("*a")
	pipe:close()
	os.remove(file)
	return split(output)
end

--- Starts a script, for what must happen while it runs.
-- @tparam string script the script, as of `run`
-- @param ... as of `run`
-- @treturn function gives the script a line to read, if it still runs
-- @treturn function waits for its end, and returns what `run` does
function M.start(script, ...)
	local line, file = command(script, ...)
	local output = os.tmpname()
	local pipe = assert(io.popen(("{ %s; } >%s"):format(line, output), "w"))
	local function tell(text)
		pipe:write(text, "\n")
		pipe:flush()
	end
	local function finish()
		pipe:close()
		local handle = assert(io.open(output))
		local text = handle:read("*a")
		handle:close()
		os.remove(output)
		os.remove(file)
		return split(text)
	end
	return tell, finish
end

return M

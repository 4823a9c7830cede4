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

--- Runs a script and waits for its end.
-- @tparam string script the script, a format for its arguments
-- @param ... arguments of the format, then perhaps a table of environment variables
-- @treturn string what it printed, errors too
-- @treturn number its exit status
function M.run(script, ...)
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
	local pipe = assert(io.popen(("env %s timeout -k 1 %d %s %s 2>&1; echo $?"):format(
		table.concat(variables, " "), LIMIT, M.interpreter, file)))
	local output = pipe:read("*a")
	pipe:close()
	os.remove(file)
	local text, status = output:match("^(.-)(%d+)\n$")
	return text, tonumber(status)
end

return M

-- Checks of the arguments of loops. Internal.

local error, select, tostring, type = error, select, tostring, type

local expect = {}

-- Whether a value is a client, or has the methods of a client that loops need.
local function is_client(value)
	return type(value) == "table" and type(value.step) == "function" and type(value.check_keep_alive) == "function"
		and type(value.set_ioloop) == "function"
end

local function describe(value)
	return type(value) == "table" and tostring(value) or type(value)
end

--- Checks an item for an ioloop. Returns an error message, or nil.
function expect.explain_item(value)
	if type(value) ~= "function" and not is_client(value) then
		return "expecting a client or a function, got: " .. describe(value)
	end
end

--- Raises, in the name of the caller's caller, unless the value is a client or a function.
function expect.item(value)
	local problem = expect.explain_item(value)
	if problem then
		error(problem, 3)
	end
end

--- Raises, in the name of the caller's caller, unless the value is a client.
function expect.client(value)
	if not is_client(value) then
		error("expecting a client, got: " .. describe(value), 3)
	end
end

--- Raises, in the name of the caller's caller, unless these are arguments for a timer.
function expect.timer(seconds, func)
	if type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
		local what = type(seconds) == "number" and tostring(seconds) or type(seconds)
		error("expecting a number of seconds from 0, got: " .. what, 3)
	elseif type(func) ~= "function" then
		error("expecting a function, got: " .. type(func), 3)
	end
end

--- Whether a function of the program is not to be called again: it has returned `false`, and nothing else. Calls of
-- this library that have failed return an error message too.
function expect.is_end(value, ...)
	return value == false and select("#", ...) == 0
end

return expect

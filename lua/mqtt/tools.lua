-- Small helpers for programs and specs. This file knows no MQTT.

--- Helpers for bytes, numbers and tables.
-- @module mqtt.tools
local tools = {}

local each, error, type = pairs, error, type
local floor = math.floor
local byte, format = string.byte, string.format
local sort = table.sort

--- Bytes as upper-case hexadecimal digits.
-- @tparam string bytes any string
-- @treturn string two digits for each byte
-- @usage tools.hex("MQTT") --> "4D515454"
function tools.hex(bytes)
	return (bytes:gsub(".", function(char)
		return format("%02X", byte(char))
	end))
end

--- Hexadecimal digits of a commented listing: blanks, and comments from `--` to the end of a line, are dropped.
-- Raises an error if other characters are left, or an odd number of digits.
-- @tparam string listing one or more lines
-- @treturn string the digits
-- @usage tools.extract_hex("20 02 -- CONNACK\n 0000") --> "20020000"
function tools.extract_hex(listing)
	local digits = listing:gsub("%-%-[^\n]*", ""):gsub("%s+", "")
	local stray = digits:match("[^%x]")
	if stray then
		error(format("expecting hexadecimal digits, got: %q", stray), 2)
	end
	if #digits % 2 ~= 0 then
		error("expecting an even number of hexadecimal digits, got: " .. #digits, 2)
	end
	return digits
end

--- Quotient of two numbers, rounded down.
-- @tparam number x dividend
-- @tparam number y divisor
-- @treturn number quotient
function tools.div(x, y)
	return floor(x / y)
end

-- Numbers sort before strings.
local function key_before(a, b)
	local a_type, b_type = type(a), type(b)
	if a_type == b_type then
		return a < b
	end
	return a_type == "number"
end

--- Iterates over a table in the order of its keys: numbers first, then strings.
-- Raises an error at the call if a key has another type.
-- @tparam table tbl the table
-- @treturn function iterator of key and value
function tools.sortedpairs(tbl)
	local keys = {}
	for key in each(tbl) do
		local key_type = type(key)
		if key_type ~= "number" and key_type ~= "string" then
			error("sortedpairs failed to make a stable iteration order for key of type " .. key_type, 2)
		end
		keys[#keys + 1] = key
	end
	sort(keys, key_before)
	local i = 0
	return function()
		i = i + 1
		local key = keys[i]
		if key ~= nil then
			return key, tbl[key]
		end
	end
end

return tools

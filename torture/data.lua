--- Random numbers that are the same on every Lua, and plain data as text.
-- A program of the torture is plain data: a table of tables, strings, numbers and booleans. It can be printed, sent and
-- shrunk.

local M = {}

-- The minimal standard generator of Park and Miller: exact in doubles and in integers.
local MODULUS, FACTOR = 2147483647, 16807
-- The factor that a seed is multiplied by, and how many numbers are thrown away until near seeds differ.
local SPREAD, WARM_UP = 7919, 5

--- Makes a source of random numbers.
-- @tparam number seed a whole number
-- @tparam ?number stream the number of the source: a seed has several
-- @treturn function `random(n)`: a whole number from 1 to n
function M.random(seed, stream)
	local state = (seed % MODULUS * SPREAD + (stream or 0) * FACTOR + 1) % (MODULUS - 1) + 1
	local function random(n)
		state = state * FACTOR % MODULUS
		return math.floor(state / MODULUS * n) + 1
	end
	for _ = 1, WARM_UP do
		random(1)
	end
	return random
end

-- The keys that are not in the array part, in an order that is always the same.
local function sorted_keys(value)
	local keys = {}
	for key in pairs(value) do
		if not (type(key) == "number" and key >= 1 and key <= #value) then
			keys[#keys + 1] = key
		end
	end
	table.sort(keys, function(a, b)
		return tostring(a) < tostring(b)
	end)
	return keys
end

local function scalar(value)
	if type(value) == "string" then
		return (("%q"):format(value):gsub("\\\n", "\\n"))
	elseif type(value) == "number" then
		return (("%.14g"):format(value):gsub("^%-?inf$", { inf = "1/0", ["-inf"] = "-1/0" }))
	end
	return tostring(value)
end

local function is_flat(value)
	for _, item in pairs(value) do
		if type(item) == "table" then
			return false
		end
	end
	return true
end

--- Writes data as a Lua expression.
-- @param value the data
-- @tparam ?string indent the beginning of each line; none: all in one line
-- @treturn string the expression
function M.write(value, indent)
	if type(value) ~= "table" then
		return scalar(value)
	end
	local parts, deeper = {}, indent and not is_flat(value) and indent .. "  "
	for _, item in ipairs(value) do
		parts[#parts + 1] = M.write(item, deeper or indent)
	end
	for _, key in ipairs(sorted_keys(value)) do
		local name = type(key) == "string" and key:match("^[%a_][%w_]*$") or "[" .. scalar(key) .. "]"
		parts[#parts + 1] = name .. "=" .. M.write(value[key], deeper or indent)
	end
	if deeper and parts[1] then
		return "{\n" .. deeper .. table.concat(parts, ",\n" .. deeper) .. "\n" .. indent .. "}"
	end
	return "{" .. table.concat(parts, ", ") .. "}"
end

--- Reads what `write` has written.
-- @tparam string text the expression
-- @return the data
function M.read(text)
	return assert((loadstring or load)("return " .. text, "=data"))() -- luacheck: globals loadstring
end

--- Whether a text matches a pattern of a list, parted by `;`.
-- @tparam string text the text
-- @tparam string patterns the patterns
-- @treturn boolean
function M.matches(text, patterns)
	for pattern in tostring(patterns):gmatch("[^;]+") do
		if text:find(pattern) then
			return true
		end
	end
	return false
end

--- Copies data.
-- @param value the data
-- @return the copy
function M.copy(value)
	if type(value) ~= "table" then
		return value
	end
	local copy = {}
	for key, item in pairs(value) do
		copy[key] = M.copy(item)
	end
	return copy
end

return M

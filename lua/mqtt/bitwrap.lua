-- Chooses the bit operations of the running Lua; for Lua 5.1, which has none, they are computed here.

--- Bit operations on unsigned 32-bit integers: `lshift`, `rshift`, `bor`, `band`.
-- @module mqtt.bitwrap
local floor = math.floor

-- luacheck: globals jit
if type(jit) == "table" then
	return require("bit")
elseif _VERSION == "Lua 5.2" then
	return require("bit32")
elseif _VERSION ~= "Lua 5.1" then
	return require("mqtt.bit53")
end

local SIZE = 2 ^ 32

local function band(x, y)
	local result, weight = 0, 1
	while x > 0 and y > 0 do
		local x_bit, y_bit = x % 2, y % 2
		if x_bit + y_bit == 2 then
			result = result + weight
		end
		x, y, weight = (x - x_bit) / 2, (y - y_bit) / 2, weight * 2
	end
	return result
end

return {
	lshift = function(x, n)
		return x * 2 ^ n % SIZE
	end,
	rshift = function(x, n)
		return floor(x % SIZE / 2 ^ n)
	end,
	bor = function(x, y)
		x, y = x % SIZE, y % SIZE
		return x + y - band(x, y)
	end,
	band = function(x, y)
		return band(x % SIZE, y % SIZE)
	end,
}

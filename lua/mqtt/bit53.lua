-- Bit operations by the operators of Lua 5.3: older versions cannot parse this file, see mqtt.bitwrap.

--- Bit operations for Lua 5.3 and later.
-- @module mqtt.bit53
return {
	--- `x` shifted left by `n` bits.
	lshift = function(x, n)
		return x << n
	end,
	--- `x` shifted right by `n` bits.
	rshift = function(x, n)
		return x >> n
	end,
	--- Bits set in `x` or `y`.
	bor = function(x, y)
		return x | y
	end,
	--- Bits set in `x` and `y`.
	band = function(x, y)
		return x & y
	end,
}

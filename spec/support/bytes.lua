--- Bytes for the specs of the protocol.
local extract_hex = require("mqtt.tools").extract_hex

local M = {}

--- Bytes from their hexadecimal listing.
-- @tparam string listing digits, blanks, comments
-- @treturn string bytes
function M.unhex(listing)
	return (extract_hex(listing):gsub("..", function(digits)
		return string.char(tonumber(digits, 16))
	end))
end

--- A read_func that gives some bytes and then fails. It raises when it is asked for nothing.
-- @tparam string bytes
-- @param[opt] failure what it fails with
-- @treturn function read_func
function M.reader(bytes, failure)
	local pos = 1
	return function(size)
		assert(size > 0, "read_func was asked for no bytes")
		local part = bytes:sub(pos, pos + size - 1)
		if #part < size then
			return false, failure or "no more bytes"
		end
		pos = pos + size
		return part
	end
end

return M

-- The parts of the wire format that both protocol versions share. The codec in mqtt.core reads and makes packets;
-- mqtt.packet has their tables.

--- Elements of the MQTT wire format.
-- Clauses refer to MQTT 5.0.
-- A `read_func` gets a size above 0, and returns exactly this number of bytes, or false and an error.
-- @module mqtt.protocol
local protocol = {}

local error, ipairs, setmetatable, tostring, type = error, ipairs, setmetatable, tostring, type
local byte, char, format = string.byte, string.char, string.format
local concat = table.concat
local floor = math.floor
local unpack = table.unpack or unpack -- luacheck: globals unpack

local core = require("mqtt.core")
local plain = require("mqtt.calls").plain
local packet = require("mqtt.packet")
local shape = packet.shape

--- Packet types by name, and their names by number (2.1.2).
protocol.packet_type = packet.types
local packet_type = protocol.packet_type

--- Metatable of packets without methods.
protocol.packet_mt = packet.mt
--- Metatable of CONNACK packets, with `reason_string()`.
protocol.connack_packet_mt = packet.connack_mt
--- Names of CONNACK codes of both versions, by code.
protocol.connack_rc = packet.connack_rc

--- A packet for people to read: `NAME{key=value, ...}`, keys sorted.
-- @function packet_tostring
-- @tparam table packet packet
-- @treturn string text
protocol.packet_tostring = packet.tostring

--- Largest value of a variable byte integer (1.5.5).
protocol.max_variable_length = 268435455
local max_variable_length = protocol.max_variable_length

-- Integers -----------------------------------------------------------------------------------------------------------

-- Raises an error, at the caller of the function that got `value`, unless `value` is an integer from `min` to `max`.
local function check_integer(value, min, max)
	if type(value) ~= "number" or value < min or value > max or value % 1 ~= 0 then
		error(format("expecting an integer from %d to %.0f, got: %s", min, max, tostring(value)), 3)
	end
end

-- The lowest `size` bytes of an integer, the highest byte first.
local function big_endian(value, size)
	local bytes = {}
	for i = size, 1, -1 do
		bytes[i] = value % 256
		value = floor(value / 256)
	end
	return char(unpack(bytes))
end

-- The bytes of a variable byte integer, as numbers (1.5.5).
local function var_length(value)
	local low, rest = value % 128, floor(value / 128)
	if rest == 0 then
		return low
	end
	return low + 128, var_length(rest)
end

--- Makes a byte.
-- @tparam number value 0 to 255
-- @treturn string 1 byte
function protocol.make_uint8(value)
	check_integer(value, 0, 0xFF)
	return char(value)
end

--- Makes a byte that may only be 0 or 1.
-- @tparam number value 0 or 1
-- @treturn string 1 byte
function protocol.make_uint8_0_or_1(value)
	check_integer(value, 0, 1)
	return char(value)
end

--- Makes a two byte integer (1.5.2).
-- @tparam number value 0 to 65535
-- @treturn string 2 bytes
function protocol.make_uint16(value)
	check_integer(value, 0, 0xFFFF)
	return big_endian(value, 2)
end

--- Makes a two byte integer that may not be 0.
-- @tparam number value 1 to 65535
-- @treturn string 2 bytes
function protocol.make_uint16_nonzero(value)
	check_integer(value, 1, 0xFFFF)
	return big_endian(value, 2)
end

--- Makes a four byte integer (1.5.3).
-- @tparam number value 0 to 4294967295
-- @treturn string 4 bytes
function protocol.make_uint32(value)
	check_integer(value, 0, 0xFFFFFFFF)
	return big_endian(value, 4)
end

--- Makes a variable byte integer (1.5.5).
-- @tparam number value 0 to 268435455
-- @treturn number... its 1 to 4 bytes, each as a number
function protocol.make_var_length(value)
	check_integer(value, 0, max_variable_length)
	return var_length(value)
end

--- Makes a variable byte integer that may not be 0.
-- @tparam number value 1 to 268435455
-- @treturn number... its 1 to 4 bytes, each as a number
function protocol.make_var_length_nonzero(value)
	check_integer(value, 1, max_variable_length)
	return var_length(value)
end

--- Makes a string or binary data: its length as a two byte integer, then its bytes (1.5.4, 1.5.6).
-- @tparam string str at most 65535 bytes
-- @treturn string bytes
function protocol.make_string(str)
	if type(str) ~= "string" or #str > 0xFFFF then
		error("expecting a string of at most 65535 bytes, got: "
			.. (type(str) == "string" and #str .. " bytes" or type(str)), 2)
	end
	return big_endian(#str, 2) .. str
end

--- Makes a fixed header (2.1.1).
-- @tparam number ptype packet type, 1 to 15
-- @tparam number flags flags of the packet type, 0 to 15
-- @tparam number len remaining length
-- @treturn string 2 to 5 bytes
function protocol.make_header(ptype, flags, len)
	check_integer(ptype, 1, 15)
	check_integer(flags, 0, 15)
	check_integer(len, 0, max_variable_length)
	return char(ptype * 16 + flags, var_length(len))
end

local function check_read_func(read_func)
	if type(read_func) ~= "function" then
		error("expecting read_func to be a function, got: " .. type(read_func), 3)
	end
end

-- Reads an integer of `size` bytes.
local function read_integer(read_func, size)
	local bytes, err = read_func(size)
	if not bytes then
		return false, err
	end
	local value = 0
	for i = 1, size do
		value = value * 256 + byte(bytes, i)
	end
	return value
end

-- Passes on a value that was read, if it is an integer from `min` to `max`.
local function in_range(value, err, min, max)
	if not value then
		return false, err
	end
	if value < min or value > max then
		return false, format("expecting an integer from %d to %d, got: %d", min, max, value)
	end
	return value
end

-- Reads a variable byte integer (1.5.5).
local function read_var_length(read_func)
	local value, weight = 0, 1
	for _ = 1, 4 do
		local bytes, err = read_func(1)
		if not bytes then
			return false, err
		end
		local digit = byte(bytes)
		if digit < 128 then
			return value + digit * weight
		end
		value, weight = value + (digit - 128) * weight, weight * 128
	end
	return false, "malformed variable byte integer: expecting at most 4 bytes" -- [MQTT-1.5.5-1]
end

--- Reads a byte.
-- @tparam function read_func source of bytes
-- @treturn[1] number 0 to 255
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_uint8(read_func)
	check_read_func(read_func)
	return read_integer(read_func, 1)
end

--- Reads a byte that may only be 0 or 1.
-- @tparam function read_func source of bytes
-- @treturn[1] number 0 or 1
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_uint8_0_or_1(read_func)
	check_read_func(read_func)
	local value, err = read_integer(read_func, 1)
	return in_range(value, err, 0, 1)
end

--- Reads a two byte integer (1.5.2).
-- @tparam function read_func source of bytes
-- @treturn[1] number 0 to 65535
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_uint16(read_func)
	check_read_func(read_func)
	return read_integer(read_func, 2)
end

--- Reads a two byte integer that may not be 0.
-- @tparam function read_func source of bytes
-- @treturn[1] number 1 to 65535
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_uint16_nonzero(read_func)
	check_read_func(read_func)
	local value, err = read_integer(read_func, 2)
	return in_range(value, err, 1, 0xFFFF)
end

--- Reads a four byte integer (1.5.3).
-- @tparam function read_func source of bytes
-- @treturn[1] number 0 to 4294967295
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_uint32(read_func)
	check_read_func(read_func)
	return read_integer(read_func, 4)
end

--- Reads a variable byte integer (1.5.5).
-- @tparam function read_func source of bytes
-- @treturn[1] number 0 to 268435455
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_var_length(read_func)
	check_read_func(read_func)
	return read_var_length(read_func)
end

--- Reads a variable byte integer that may not be 0.
-- @tparam function read_func source of bytes
-- @treturn[1] number 1 to 268435455
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_var_length_nonzero(read_func)
	check_read_func(read_func)
	local value, err = read_var_length(read_func)
	return in_range(value, err, 1, max_variable_length)
end

--- Reads a string or binary data (1.5.4, 1.5.6).
-- @tparam function read_func source of bytes
-- @treturn[1] string its bytes
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_string(read_func)
	check_read_func(read_func)
	local size, err = read_integer(read_func, 2)
	if not size then
		return false, err
	elseif size == 0 then
		return ""
	end
	local str
	str, err = read_func(size)
	if not str then
		return false, err
	end
	return str
end

-- Packet identifiers and quality of service --------------------------------------------------------------------------

--- Whether a number is a quality of service (4.3).
-- @tparam number value any number
-- @treturn boolean true for 0, 1 and 2
function protocol.check_qos(value)
	return value == 0 or value == 1 or value == 2
end

--- Whether a number is a packet identifier (2.2.1).
-- @tparam number value any number
-- @treturn boolean true for 1 to 65535
function protocol.check_packet_id(value)
	return value >= 1 and value <= 0xFFFF
end

--- The next packet identifier after another; 1 follows 65535 (2.2.1).
-- @tparam[opt] number current packet identifier
-- @treturn number packet identifier, 1 without an argument
function protocol.next_packet_id(current)
	if current == nil or current == 0xFFFF then
		return 1
	end
	check_integer(current, 1, 0xFFFF)
	return current + 1
end

-- Packet types that always have a packet identifier (2.2.1).
local with_packet_id = {}
for _, name in ipairs({ "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK" }) do
	with_packet_id[packet_type[name]] = true
end

--- Whether a packet has a packet identifier (2.2.1).
-- @tparam table args packet, as for `make_packet`
-- @treturn boolean true if the packet has one
function protocol.packet_id_required(args)
	if type(args) ~= "table" or type(args.type) ~= "number" then
		error("expecting args to be a table with a number as its type", 2)
	end
	if args.type == packet_type.PUBLISH then
		return (args.qos or 0) > 0
	end
	return with_packet_id[args.type] or false
end

-- Packets to send ----------------------------------------------------------------------------------------------------

local combined_mt = {
	__tostring = function(self)
		if #self == 1 then -- made by make_packet
			return tostring(self[1])
		end
		local parts = {}
		for i, part in ipairs(self) do
			parts[i] = tostring(part)
		end
		return concat(parts)
	end,

	-- Number of bytes.
	len = function(self)
		local len = 0
		for _, part in ipairs(self) do
			len = len + part:len()
		end
		return len
	end,

	-- Adds a part.
	append = function(self, part)
		self[#self + 1] = part
	end,
}
combined_mt.__index = combined_mt

--- Joins parts of a packet: `tostring` gives the bytes, `:len()` their number, `:append(part)` adds a part.
-- @param ... strings, or results of this function
-- @treturn table the object
function protocol.combine(...)
	return setmetatable({ ... }, combined_mt)
end

-- Whole packets ------------------------------------------------------------------------------------------------------

-- Reads a packet. Returns its first byte, as a number, and the bytes after the fixed header.
local function read_packet(read_func)
	local first, err = read_func(1)
	if not first then
		return false, err
	end
	local len
	len, err = read_var_length(read_func)
	if not len then
		return false, err
	end
	local body = ""
	if len > 0 then
		body, err = read_func(len)
		if not body then
			return false, err
		end
	end
	return byte(first), body
end

--- Reads the fixed header and the rest of a packet. The caller parses the rest.
-- @tparam function read_func source of bytes
-- @treturn[1] number packet type
-- @treturn[1] number flags of the fixed header
-- @treturn[1] table input: `read_func` gives the bytes after the fixed header, `available` says how many are left
-- @treturn[2] boolean false
-- @return[2] error
function protocol.start_parse_packet(read_func)
	check_read_func(read_func)
	local first, body = read_packet(read_func)
	if not first then
		return false, body
	end
	local pos = 1
	local input = { available = #body }
	function input.read_func(size)
		if size > input.available then
			return false, format("expecting %d more bytes, got: %d", size, input.available)
		end
		pos = pos + size
		input.available = input.available - size
		return body:sub(pos - size, pos - 1)
	end
	return floor(first / 16), first % 16, input
end

-- The first value of a CONNECT is its version.
local function shape_connect(ptype, version, ...)
	return shape(version, ptype, version, ...)
end

--- Parses the bytes after the fixed header of a CONNECT (3.1).
-- @tparam table input from `start_parse_packet`
-- @tparam[opt] number version the protocol version that the CONNECT must have; any if absent
-- @treturn[1] table packet
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_packet_connect_input(input, version)
	return shape_connect(core.decode_connect(input.read_func(input.available), version))
end

--- Reads a CONNECT, as a server does with the first packet of a connection (3.1).
-- @tparam function read_func source of bytes
-- @tparam[opt] number version the protocol version that the CONNECT must have; any if absent
-- @treturn[1] table packet
-- @treturn[2] boolean false
-- @return[2] error
function protocol.parse_packet_connect(read_func, version)
	check_read_func(read_func)
	local ptype, flags, input = protocol.start_parse_packet(read_func)
	if not ptype then
		return false, flags
	elseif ptype ~= packet_type.CONNECT then
		return false, "expecting CONNECT (1), got: " .. tostring(packet_type[ptype]) .. " (" .. ptype .. ")"
	elseif flags ~= 0 then
		return false, "CONNECT: unexpected flags value: " .. flags
	end
	return protocol.parse_packet_connect_input(input, version)
end

--- The functions of `mqtt.protocol4` and `mqtt.protocol5`.
-- @tparam number version protocol version
-- @treturn table `make_packet` and `parse_packet`
function protocol.for_version(version)
	local codec = core.codec[version]
	local decode, encode, encode_publish = codec.decode, codec.encode, codec.encode_publish
	local PUBLISH = packet_type.PUBLISH

	local function make_packet(args)
		if type(args) ~= "table" then
			error("expecting args to be a table, got: " .. type(args), 2)
		end
		local bytes, err
		if args.type == PUBLISH and args.properties == nil and args.user_properties == nil then
			bytes, err = encode_publish(args.topic, args.payload, args.qos, args.retain, args.dup, args.packet_id)
		else
			bytes, err = encode(plain(args))
		end
		if not bytes then
			error(err, 2)
		end
		return setmetatable({ bytes }, combined_mt)
	end

	local function parse_packet(read_func)
		check_read_func(read_func)
		local first, body = read_packet(read_func)
		if not first then
			return false, body
		end
		return shape(version, decode(first, body))
	end

	return { make_packet = make_packet, parse_packet = parse_packet }
end

return protocol

-- The elements of the wire format in mqtt.protocol, and what surrounds packets there.

local protocol = require("mqtt.protocol")
local tools = require("mqtt.tools")
local bytes = require("spec.support.bytes")
local child = require("spec.support.child")
local unhex, reader = bytes.unhex, bytes.reader

-- What calling a function from here raises.
local function raised(func, ...)
	local args = { ... }
	local ok, err = pcall(function()
		func(args[1], args[2])
		return nil -- a tail call would have no position
	end)
	assert.is_false(ok)
	return err
end

describe("mqtt.protocol", function()
	-- name, then values and their bytes; `refused` are values that raise, `malformed` bytes that do not parse.
	local elements = {
		{ "uint8", { [0] = "00", [1] = "01", [0x32] = "32", [0xFF] = "FF" }, refused = { -1, 256, 0.5 } },
		{ "uint8_0_or_1", { [0] = "00", [1] = "01" }, refused = { -1, 2 }, malformed = { "02", "FF" } },
		{
			"uint16", {
				[0] = "0000", [1] = "0001", [0x32] = "0032", [0xFF] = "00FF", [0x100] = "0100", [0x7F4A] = "7F4A",
				[0xBEEF] = "BEEF", [0xFF00] = "FF00", [0xFFFF] = "FFFF",
			},
			refused = { -1, 65536, 1.5 }, malformed = { "01" },
		},
		{
			"uint16_nonzero", { [1] = "0001", [0x32] = "0032", [0xFF00] = "FF00", [0xFFFF] = "FFFF" },
			refused = { -1, 0, 65536 }, malformed = { "0000", "01" },
		},
		{
			"uint32", {
				[0] = "00000000", [1] = "00000001", [0x100] = "00000100", [0xFFFF] = "0000FFFF",
				[0x7FFFFFFF] = "7FFFFFFF", [0xDEADBEEF] = "DEADBEEF", [0xFFFFFFFF] = "FFFFFFFF",
			},
			refused = { -1, 4294967296 }, malformed = { "010203" },
		},
		{
			"var_length", {
				[0] = "00", [1] = "01", [127] = "7F", [128] = "8001", [16383] = "FF7F", [16384] = "808001",
				[2097151] = "FFFF7F", [2097152] = "80808001", [268435455] = "FFFFFF7F",
			},
			refused = { -1, 268435456 }, malformed = { "80", "FFFFFFFF", "FFFFFFFF01", "FFFFFFFFFF" },
		},
		{
			"var_length_nonzero", {
				[1] = "01", [127] = "7F", [128] = "8001", [16384] = "808001", [268435455] = "FFFFFF7F",
			},
			refused = { -1, 0, 268435456 }, malformed = { "00", "FFFFFFFF" },
		},
		{ "string", { [""] = "0000", [" "] = "000120", MQTT = "00044D515454" }, refused = { ("x"):rep(65536), 1 },
			malformed = { "00", "0001" } },
	}

	for _, element in ipairs(elements) do
		local name, values = element[1], element[2]
		local make, parse = protocol["make_" .. name], protocol["parse_" .. name]

		it("makes and parses " .. name, function()
			for value, digits in pairs(values) do
				local made = make(value)
				if type(made) == "number" then
					made = string.char(make(value))
				end
				assert.equal(digits, tools.hex(made))
				assert.same({ value }, { parse(reader(unhex(digits))) })
			end
		end)

		it("refuses to make " .. name .. " of other values, at the caller's position", function()
			for _, value in ipairs(element.refused) do
				assert.matches("^spec/protocol_spec.lua:%d+: expecting a", raised(make, value))
			end
			assert.matches("^spec/protocol_spec.lua:%d+: expecting a", raised(make, nil))
		end)

		it("fails to parse " .. name, function()
			for _, digits in ipairs(element.malformed or {}) do
				local value, err = parse(reader(unhex(digits)))
				assert.is_false(value)
				assert.is_string(err)
			end
			local signal = {}
			assert.same({ false, signal }, { parse(reader("", signal)) })
			assert.matches("^spec/protocol_spec.lua:%d+: expecting read_func to be a function, got: string",
				raised(parse, "bytes"))
		end)
	end

	it("makes fixed headers", function()
		assert.equal("1000", tools.hex(protocol.make_header(1, 0, 0)))
		assert.equal("3D8001", tools.hex(protocol.make_header(3, 0x0D, 128)))
		for _, args in ipairs({ { 0, 0, 0 }, { 16, 0, 0 }, { 1, 16, 0 }, { 1, 0, 268435456 } }) do
			assert.has_error(function()
				protocol.make_header(args[1], args[2], args[3])
			end)
		end
	end)

	it("knows packet types both ways", function()
		local count = 0
		for key, value in pairs(protocol.packet_type) do
			assert.equal(key, protocol.packet_type[value])
			count = count + 1
		end
		assert.equal(30, count)
		assert.equal("CONNECT", protocol.packet_type[1])
		assert.equal(15, protocol.packet_type.AUTH)
	end)

	it("counts packet identifiers", function()
		for current, following in pairs({ [1] = 2, [2] = 3, [65533] = 65534, [65534] = 65535, [65535] = 1 }) do
			assert.equal(following, protocol.next_packet_id(current))
		end
		assert.equal(1, protocol.next_packet_id())
		for _, wrong in ipairs({ 0, -1, 65536, 1.5, "1", {} }) do
			assert.has_error(function()
				protocol.next_packet_id(wrong)
			end)
		end
	end)

	it("checks packet identifiers and quality of service", function()
		for id, valid in pairs({ [-1] = false, [0] = false, [1] = true, [100] = true, [65535] = true, [65536] = false }) do
			assert.equal(valid, protocol.check_packet_id(id))
		end
		assert.has_error(function()
			protocol.check_packet_id()
		end)
		for qos, valid in pairs({ [-1] = false, [0] = true, [1] = true, [2] = true, [3] = false }) do
			assert.equal(valid, protocol.check_qos(qos))
		end
	end)

	it("knows which packets have a packet identifier", function()
		local with = {
			PUBACK = true, PUBREC = true, PUBREL = true, PUBCOMP = true, SUBSCRIBE = true, SUBACK = true,
			UNSUBSCRIBE = true, UNSUBACK = true,
		}
		for number, name in ipairs(protocol.packet_type) do
			assert.equal(with[name] or false, protocol.packet_id_required({ type = number }), name)
		end
		for qos = 0, 2 do
			assert.equal(qos > 0, protocol.packet_id_required({ type = protocol.packet_type.PUBLISH, qos = qos }))
		end
		for _, wrong in ipairs({ 1, {}, { type = "PUBACK" } }) do
			assert.has_error(function()
				protocol.packet_id_required(wrong)
			end)
		end
	end)

	it("combines parts of a packet", function()
		local part = protocol.combine("b", "")
		local whole = protocol.combine("a", part)
		part:append("c")
		whole:append("d")
		assert.equal("abcd", tostring(whole))
		assert.equal(4, whole:len())
		assert.equal("", tostring(protocol.combine()))
		assert.equal("bc", tostring(protocol.combine(part)))
	end)

	it("shows packets with their keys sorted", function()
		local packet = setmetatable({
			type = protocol.packet_type.SUBACK, rc = { 0, 128 }, packet_id = 7,
			user_properties = { { "b", "x" }, ["a b"] = 'say "hi"', c1 = "" },
		}, protocol.packet_mt)
		local text = 'SUBACK{packet_id=7, rc={0, 128}, type=9, user_properties={{"b", "x"}, ["a b"]="say \\"hi\\"", c1=""}}'
		assert.equal(text, tostring(packet))
		assert.equal(text, protocol.packet_tostring(packet))
		assert.equal("nil{}", protocol.packet_tostring({}))
	end)
end)

describe("start_parse_packet", function()
	it("gives the fixed header and an input of the rest", function()
		local ptype, flags, input = protocol.start_parse_packet(reader(unhex("3D 03 01 02 03 FF")))
		assert.equal(3, ptype)
		assert.equal(0x0D, flags)
		assert.equal(3, input.available)
		assert.equal("\1", input.read_func(1))
		assert.equal(2, input.available)
		assert.same({ false, "expecting 3 more bytes, got: 2" }, { input.read_func(3) })
		assert.equal("\2\3", input.read_func(2))
		assert.equal(0, input.available)
	end)

	it("passes on what read_func fails with", function()
		local signal = {}
		for _, digits in ipairs({ "", "30", "3080", "3002", "300201" }) do
			assert.same({ false, signal }, { protocol.start_parse_packet(reader(unhex(digits), signal)) })
		end
		assert.has_error(function()
			protocol.start_parse_packet()
		end)
	end)
end)

describe("parse_packet_connect", function()
	local versions = {
		[4] = "10 10 0004 4D515454 04 02 001E 0004 74657374",
		[5] = "10 11 0004 4D515454 05 02 001E 00 0004 74657374",
	}

	it("takes any version, or the one expected", function()
		for version, digits in pairs(versions) do
			local expected = {
				type = protocol.packet_type.CONNECT, version = version, clean = true, keep_alive = 30, id = "test",
			}
			if version == 5 then
				expected.properties, expected.user_properties = {}, {}
			end
			assert.same({ expected }, { protocol.parse_packet_connect(reader(unhex(digits))) })
			assert.same({ expected }, { protocol.parse_packet_connect(reader(unhex(digits)), version) })
			local ptype, _, input = protocol.start_parse_packet(reader(unhex(digits)))
			assert.equal(protocol.packet_type.CONNECT, ptype)
			assert.same({ expected }, { protocol.parse_packet_connect_input(input) })
		end
	end)

	it("says what is wrong", function()
		for _, case in ipairs({
			{ versions[5], 4, "CONNECT: .*5" },
			{ versions[4], 5, "CONNECT: .*4" },
			{ "20 02 0000", nil, "expecting CONNECT %(1%), got: CONNACK %(2%)" },
			{ "11 00", nil, "CONNECT: unexpected flags value: 1" },
			{ "10 00", nil, "CONNECT: " },
			{ "10 06 0004 4D515458", nil, "CONNECT: " },
			{ "10 0C 0004 4D515454 03 02 001E 0000", nil, "CONNECT: .*3" },
			{ "", nil, "no more bytes" },
		}) do
			local packet, err = protocol.parse_packet_connect(reader(unhex(case[1])), case[2])
			assert.is_false(packet)
			assert.matches(case[3], err)
		end
	end)
end)

describe("mqtt.core", function()
	it("leaves alone what only 5.0 has when it speaks 3.1.1", function()
		local protocol4 = require("mqtt.protocol4")
		local link = require("mqtt.core").link(4)
		local properties, user_properties = { receive_maximum = "nonsense" }, { { 1 } }
		link:attach()
		assert.is_true(link:connect({ id = "a", clean = true, properties = properties, user_properties = user_properties,
			will = { topic = "w", payload = "p", properties = properties, user_properties = user_properties } }))
		assert.equal(tostring(protocol4.make_packet({ type = 1, id = "a", clean = true, keep_alive = 0,
			will = { topic = "w", payload = "p" } })), link:take())
		link:feed(tostring(protocol4.make_packet({ type = 2, sp = false, rc = 0 })))
		assert.equal(1, link:subscribe("t", 1, true, "nonsense", 7, properties, user_properties))
		assert.equal(tostring(protocol4.make_packet({ type = 8, packet_id = 1,
			subscriptions = { { topic = "t", qos = 1 } } })), link:take())
		assert.equal(2, link:unsubscribe("t", properties, user_properties))
		assert.equal(0, (link:publish("t", "p", 0, false, false, nil, properties, user_properties)))
		assert.is_true(link:disconnect(0, properties, user_properties))
	end)

	it("serves finalizers that run when the state closes", function()
		local output = child.run([[
			local parse_packet
			local function finalize()
				print(pcall(parse_packet, function() return "\0" end))
			end
			if newproxy then
				guard = newproxy(true)
				getmetatable(guard).__gc = finalize
			else
				guard = setmetatable({}, { __gc = finalize })
			end
			parse_packet = require("mqtt.protocol4").parse_packet
		]])
		assert.matches("^true%s+false%s+packet type 0 is reserved", output)
	end)
end)

-- Whole packets of both protocol versions, parsed and made, from the vectors in spec/support.

local protocol = require("mqtt.protocol")
local tools = require("mqtt.tools")
local bytes = require("spec.support.bytes")
local bad = require("spec.support.vectors_bad")
local unhex, reader = bytes.unhex, bytes.reader
local pt = protocol.packet_type

-- A 5.0 packet and its will always have both tables of properties; vectors leave out empty ones.
local function complete(packet)
	local copy = {}
	for key, value in pairs(packet) do
		copy[key] = key == "will" and complete(value) or value
	end
	copy.properties, copy.user_properties = copy.properties or {}, copy.user_properties or {}
	return copy
end

local function same_packet(packet)
	return packet
end

for version, shape in pairs({ [4] = same_packet, [5] = complete }) do
	local module = require("mqtt.protocol" .. version)
	local make_packet, parse_packet = module.make_packet, module.parse_packet
	local vectors = require("spec.support.vectors" .. version)

	describe("mqtt.protocol" .. version .. " parses", function()
		for _, vector in ipairs(vectors) do
			it(vector.name, function()
				local packet, err = parse_packet(reader(unhex(vector.hex)))
				assert.is_nil(err)
				assert.same(shape(vector.packet), packet)
				assert.equal(protocol.packet_tostring(packet), tostring(packet))
				assert.matches("^" .. pt[packet.type] .. "{.*type=" .. packet.type .. "[,}]", tostring(packet))
			end)
		end

		it("what is cut short: passes on the error of read_func", function()
			local signal = {}
			for _, vector in ipairs(vectors) do
				local whole = unhex(vector.hex)
				for size = 0, #whole - 1 do
					assert.same({ false, signal }, { parse_packet(reader(whole:sub(1, size), signal)) })
				end
			end
		end)

		it("what ends too early inside: an error that names the packet", function()
			for _, vector in ipairs(vectors) do
				local first, body = unhex(vector.hex):match("^(.)[\128-\255]*[%z\1-\127](.*)$")
				for size = 0, #body - 1 do
					local header = first .. string.char(protocol.make_var_length(size))
					local packet, err = parse_packet(reader(header .. body:sub(1, size)))
					if not packet then
						assert.is_false(packet)
						assert.equal(pt[vector.packet.type] .. ": ", err:match("^%u+: "))
					end
				end
			end
		end)

		it("nothing else than a function's bytes", function()
			local ok, err = pcall(function()
				return (parse_packet("bytes"))
			end)
			assert.is_false(ok)
			assert.matches("^spec/protocol_packets_spec.lua:%d+: expecting read_func to be a function, got: string", err)
		end)
	end)

	describe("mqtt.protocol" .. version .. " fails to parse", function()
		for _, case in ipairs(bad[version].parse) do
			it(case[1] .. ": " .. case[2], function()
				local packet, err = parse_packet(reader(unhex(case[1])))
				assert.is_false(packet)
				assert.equal(case[2], err:sub(1, #case[2]))
			end)
		end
	end)

	describe("mqtt.protocol" .. version .. " makes", function()
		for _, vector in ipairs(vectors) do
			if not vector.parse_only then
				it(vector.name, function()
					local packet = make_packet(vector.args or vector.packet)
					assert.equal(tools.extract_hex(vector.hex), tools.hex(tostring(packet)))
					assert.equal(#tostring(packet), packet:len())
				end)

				it(vector.name .. ", from the parsed packet", function()
					local packet = parse_packet(reader(unhex(vector.hex)))
					assert.equal(tools.extract_hex(vector.hex), tools.hex(tostring(make_packet(packet))))
				end)
			end
		end

		it("packets that can be appended to and combined", function()
			local packet = make_packet({ type = pt.PINGREQ })
			packet:append("tail")
			assert.equal("\192\0tail", tostring(packet))
			assert.equal("head\192\0tail", tostring(protocol.combine("head", packet)))
		end)
	end)

	describe("mqtt.protocol" .. version .. " refuses to make", function()
		for _, case in ipairs(bad[version].make) do
			it("one with: " .. case[2], function()
				local ok, err = pcall(function()
					return (make_packet(case[1]))
				end)
				assert.is_false(ok)
				assert.is_string(err)
				local position, message = err:match("^(spec/protocol_packets_spec.lua:%d+: )(.*)$")
				assert.is_string(position, err)
				assert.equal(case[2], message:sub(1, #case[2]))
			end)
		end
	end)
end

describe("reason codes", function()
	local parse = { [4] = require("mqtt.protocol4").parse_packet, [5] = require("mqtt.protocol5").parse_packet }

	for _, case in ipairs({
		{ 4, "20 02 00 00", "Connection Accepted" },
		{ 4, "20 02 00 01", "Connection Refused, unacceptable protocol version" },
		{ 4, "20 02 00 20", "Unknown: 32" },
		{ 5, "20 03 00 8A 00", "Banned" },
		{ 5, "20 03 00 20 00", "Unknown: 32" },
		{ 5, "E0 00", "Normal disconnection" },
		{ 5, "E0 02 81 00", "Malformed Packet" },
		{ 5, "E0 02 20 00", "Unknown: 32" },
		{ 4, "90 05 1234 02 03 80", { "Success - Maximum QoS 2", "Unknown: 3", "Failure" } },
		{
			5, "90 07 0101 00 00 09 80 97",
			{ "Granted QoS 0", "Unknown: 9", "Unspecified error", "Quota exceeded" },
		},
		{
			5, "B0 07 3434 00 00 11 80 05",
			{ "Success", "No subscription existed", "Unspecified error", "Unknown: 5" },
		},
	}) do
		it("of " .. case[2] .. " in version " .. case[1], function()
			local packet = parse[case[1]](reader(unhex(case[2])))
			if type(case[3]) == "table" then
				assert.same(case[3], packet:reason_strings())
			else
				assert.equal(case[3], packet:reason_string())
			end
		end)
	end

	it("have no names in packets without such a method", function()
		for _, digits in ipairs({ "40 02 0001", "F0 00", "C0 00" }) do
			local packet = parse[5](reader(unhex(digits)))
			assert.is_nil(packet.reason_string)
			assert.is_nil(packet.reason_strings)
		end
	end)
end)

describe("properties of 5.0", function()
	local protocol5 = require("mqtt.protocol5")

	local function made(user_properties)
		local args = { type = pt.PUBLISH, topic = "a", user_properties = user_properties }
		return tools.hex(tostring(protocol5.make_packet(args)):sub(7))
	end

	local function pair(name, value)
		return tools.hex("\38" .. protocol.make_string(name) .. protocol.make_string(value))
	end

	it("are written by ascending identifier, whatever their order in the table", function()
		local names = {
			"topic_alias", "content_type", "message_expiry_interval", "correlation_data", "payload_format_indicator",
		}
		for shift = 1, #names do
			local properties = {}
			for i = 0, #names - 1 do
				local name = names[(shift + i) % #names + 1]
				properties[name] = (name == "content_type" or name == "correlation_data") and "x" or 1
			end
			local packet = protocol5.make_packet({ type = pt.PUBLISH, topic = "a", properties = properties })
			assert.equal("0101" .. "0200000001" .. "03000178" .. "09000178" .. "230001", tools.hex(tostring(packet):sub(7)))
		end
	end)

	it("user: pairs in their order, then names sorted", function()
		assert.equal(pair("z", "1") .. pair("a", "2") .. pair("b", "3") .. pair("c", "4"),
			made({ { "z", "1" }, { "a", "2" }, c = "4", b = "3" }))
	end)

	it("user: a name that says what its last pair says is written once", function()
		assert.equal(pair("a", "1") .. pair("a", "2"), made({ { "a", "1" }, { "a", "2" }, a = "2" }))
		assert.equal(pair("a", "1") .. pair("a", "2") .. pair("a", "1"), made({ { "a", "1" }, { "a", "2" }, a = "1" }))
		assert.equal(pair("a", "1") .. pair("a", "1"), made({ { "a", "1" }, { "a", "1" } }))
	end)

	it("user: repeated names arrive as pairs, in the order of arrival", function()
		for _, case in ipairs({
			{ { { "a", "1" }, { "b", "2" } }, { a = "1", b = "2" } },
			{ { { "a", "1" }, { "a", "1" } }, { { "a", "1" }, { "a", "1" }, a = "1" } },
			{
				{ { "a", "1" }, { "b", "2" }, { "c", "3" }, { "a", "4" }, { "b", "5" } },
				{ { "a", "1" }, { "b", "2" }, { "a", "4" }, { "b", "5" }, a = "4", b = "5", c = "3" },
			},
		}) do
			local packet = protocol5.make_packet({ type = pt.PUBLISH, topic = "a", user_properties = case[1] })
			assert.same(case[2], protocol5.parse_packet(reader(tostring(packet))).user_properties)
		end
	end)

	it("with several values arrive as a list in the order of arrival", function()
		local packet = protocol5.make_packet({
			type = pt.PUBLISH, topic = "a", properties = { subscription_identifiers = { 9, 1, 268435455 } },
		})
		assert.same({ subscription_identifiers = { 9, 1, 268435455 } },
			protocol5.parse_packet(reader(tostring(packet))).properties)
	end)

end)

describe("what only 5.0 has is left alone by 3.1.1:", function()
	local make_packet = require("mqtt.protocol4").make_packet

	it("properties", function()
		local args = { type = pt.PUBLISH, topic = "a", properties = { any = "thing" }, user_properties = 1 }
		assert.equal("3003000161", tools.hex(tostring(make_packet(args))))
	end)

	it("reason codes", function()
		assert.equal("40020001", tools.hex(tostring(make_packet({ type = pt.PUBACK, packet_id = 1, rc = 0x80 }))))
		assert.equal("E000", tools.hex(tostring(make_packet({ type = pt.DISCONNECT, rc = 4 }))))
	end)

	it("subscription options", function()
		local subscription = { topic = "a", qos = 1, no_local = true, retain_as_published = true, retain_handling = 2 }
		local args = { type = pt.SUBSCRIBE, packet_id = 1, subscriptions = { subscription } }
		assert.equal("82060001" .. "000161" .. "01", tools.hex(tostring(make_packet(args))))
	end)
end)

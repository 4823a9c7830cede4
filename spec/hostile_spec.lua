-- What a broker sends against the rules ends the connection, with an error event that names the rule and, in MQTT 5.0,
-- a DISCONNECT that says why. All rules are tested in tests/session/hostile.rs: here is what the program sees.

local bytes = require("spec.support.bytes")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local start = require("spec.support.server").start

local DISCONNECT = 14

-- Bytes of MQTT 3.1.1 and of 5.0, the error, and the reason code of the DISCONNECT. A CONNACK comes at once, and where
-- there is `true`, as everything else does, after a good one.
local broken = {
	{ "20 02 02 00", "20 03 02 00 00", "CONNACK: connect acknowledge flags must be 0 or 1, got 2", 0x81 },
	{ "20 02 01 00", "20 03 01 00 00", "CONNACK: session present after a clean start", 0x82 },
	{ nil, "20 06 00 00 03 21 00 00", "property receive_maximum %(33%) must not be 0$", 0x82 },
	{ "36 05 00 01 61 00 01", "36 06 00 01 61 00 01 00", "PUBLISH: QoS must be 0, 1 or 2, got 3", 0x81 },
	{ "32 05 00 01 61 00 00", "32 06 00 01 61 00 00 00", "PUBLISH: packet identifier must not be 0", 0x82 },
	{ "30 02 00 00", "30 03 00 00 00", "PUBLISH: topic must not be empty", 0x82 },
	{ "30 03 00 01 23", "30 04 00 01 23 00", 'PUBLISH: topic must not contain wildcards, got "#"', 0x90 },
	{ "30 03 00 01 00", "30 04 00 01 00 00", "PUBLISH: topic must not contain U%+0000", 0x81 },
	{ "30 03 00 01 FF", "30 04 00 01 FF 00", "PUBLISH: topic must be well%-formed UTF%-8, got bad bytes at 0", 0x81 },
	{ nil, "30 07 00 01 61 03 23 00 01", "PUBLISH: topic alias must be at most 0, got 1", 0x94 },
	{ nil, "30 08 00 01 61 04 01 01 01 01", "include the payload_format_indicator %(1%) property more than once$", 0x82 },
	{ nil, "40 03 00 01 01", "PUBACK: unexpected reason code: 0x01", 0x82 },
	{ "C0 00", "C0 00", "PINGREQ: only a client sends it", 0x82 },
	{ "20 02 00 00", "20 03 00 00 00", "CONNACK: received a second time", 0x82, true },
	-- 256 MiB of which nothing comes.
	{ "30 FF FF FF 7F", "30 FF FF FF 7F", "PUBLISH: packet must be at most 100 bytes long, got 268435460", 0x95 },
	{ "36 FF FF FF 7F", "36 FF FF FF 7F", "PUBLISH: QoS must be 0, 1 or 2, got 3", 0x81 },
	{ "30 FF FF FF FF 01", "30 FF FF FF FF 01", "PUBLISH: remaining length must end by its fourth byte", 0x81 },
}

local connectors = { native = false }
do
	local found, luasocket = pcall(require, "mqtt.connector.luasocket")
	connectors.luasocket = found and luasocket or nil
end

describe("a broker that breaks the rules", function()
	after_each(harness.cleanup)

	-- Serves a client by a server that sends these bytes in answer to CONNECT. Returns the names of its events, its error,
	-- and the last packet that the server has received.
	local function outcome(version, connector, listing)
		local server = start(version, function(server, packet)
			if packet.type == 1 then
				server:send_bytes(bytes.unhex(listing))
			end
		end)
		finally(function()
			server:stop()
		end)
		local client = harness.client({
			uri = server.uri, version = version, connector = connector or nil, max_packet_size = 100,
		})
		local events = harness.record(client)
		harness.serve({ client, server.serve }, function()
			return events[#events] and events[#events][1] == "close" and server.ended
		end)
		local message
		for _, event in ipairs(events) do
			message = message or event[1] == "error" and event[2]
		end
		return harness.names(events), message, server.received[#server.received]
	end

	for connector_name, connector in pairs(connectors) do
		for version = 4, 5 do
			it(("is recognized if it expects TLS, %s, MQTT %d"):format(connector_name, version), function()
				-- The alert with which a TLS server answers a CONNECT.
				local names, message, last = outcome(version, connector, "15 03 03 00 02 02 32")
				assert.same({ "error", "close" }, names)
				assert.matches("the server expects TLS on this port: use mqtts:// or the option secure$", message)
				assert.not_equal(DISCONNECT, last.type)
			end)

			local connack = version == 4 and "20 02 00 00 " or "20 03 00 00 00 "
			for _, case in ipairs(broken) do
				local listing, text, reason, again = case[version - 3], case[3], case[4], case[5]
				if listing then
					local first = listing:find("^20") and not again
					it(("is left, %s, MQTT %d: %s"):format(connector_name, version, text), function()
						local names, message, last = outcome(version, connector, first and listing or connack .. listing)
						assert.same(first and { "error", "close" } or { "connect", "error", "close" }, names)
						assert.matches(text, message)
						if version == mqtt.v50 then
							assert.equal(DISCONNECT, last.type)
							assert.equal(reason, last.rc)
						else
							assert.not_equal(DISCONNECT, last.type)
						end
					end)
				end
			end
		end
	end
end)

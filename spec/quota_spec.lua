-- More QoS 2 messages at once than a real broker takes: with MQTT 3.1.1 mosquitto cannot say that it drops one.

local harness = require("spec.support.harness")
local mqtt = require("mqtt")

describe("a burst of QoS 2 messages", function()
	after_each(harness.cleanup)

	for name, version in pairs({ ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }) do
		it("arrives as a whole, " .. name, function()
			local count, topic = 1000, harness.topic()
			local acknowledged, arrived, received = 0, 0, {}
			local publisher, subscriber = harness.connect(harness.client({ version = version }), harness.client())
			subscriber:on("message", function(msg)
				arrived = arrived + 1
				received[msg.payload] = true
				subscriber:acknowledge(msg)
			end)
			harness.subscribe(subscriber, topic)
			for i = 1, count do
				assert(publisher:publish({ topic = topic, payload = "message " .. i, qos = 2, callback = function()
					acknowledged = acknowledged + 1
				end }))
			end
			harness.serve({ publisher, subscriber }, function()
				return acknowledged == count and arrived >= count
			end)
			for i = 1, count do
				assert.is_true(received["message " .. i])
			end
		end)
	end
end)

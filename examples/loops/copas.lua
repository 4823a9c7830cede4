-- A client in Copas: a thread publishes, and handlers yield to other threads.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local copas = require("copas")
local mqtt = require("mqtt")

local client = mqtt.client { uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost", clean = true }

local received = 0
client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		client:subscribe { topic = "luamqtt/copas", qos = 1, callback = function()
			copas.addthread(function()
				for number = 1, 3 do
					client:publish { topic = "luamqtt/copas", payload = "tick " .. number, qos = 1 }
					copas.sleep(0)
				end
			end)
		end }
	end,
	message = function(message)
		-- This runs in a thread of its own: it may wait, by copas.pause(2) or for a socket, and the client goes on.
		copas.sleep(0)
		client:acknowledge(message)
		received = received + 1
		print("received:", message)
		if received == 3 then
			client:shutdown()
		end
	end,
	error = print,
}

require("mqtt.loop").add(client)
-- With Copas 4 `copas.loop()` would do. The loop of Copas 1, as in Debian 12, never ends.
local ended
client:on("shutdown", function()
	ended = true
end)
while not ended do
	copas.step(1)
end

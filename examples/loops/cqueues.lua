-- A client in a controller of cqueues: one coroutine serves the client, another publishes.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local cqueues = require("cqueues")
local mqtt = require("mqtt")

local client = mqtt.client { uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost", clean = true }
local controller = cqueues.new()

local received = 0
client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		client:subscribe { topic = "luamqtt/cqueues", callback = function()
			controller:wrap(function()
				while client.connection do
					client:publish { topic = "luamqtt/cqueues", payload = "tick" }
					cqueues.sleep(0.05)
				end
			end)
		end }
	end,
	message = function(message)
		received = received + 1
		print("received:", message)
		if received == 3 then
			client:shutdown()
		end
	end,
	error = print,
}

-- The object that cqueues polls. Its descriptor is readable while the client has something to do, so it has no timeout.
local readable = { pollfd = client:getfd(), events = "r" }
controller:wrap(function()
	-- The first step starts to connect.
	local wait = client:step()
	while wait do
		if wait ~= 0 then
			cqueues.poll(readable)
		end
		wait = client:step()
	end
	-- The client has ended, and does not reconnect.
end)

assert(controller:loop())
assert(received == 3, "the client ended early")

-- A client in the loop of libuv (luv): a timer publishes, and the loop ends when three messages have come back.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")
local uv = require("luv")

local client = mqtt.client { uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost", clean = true }

local timer = uv.new_timer()
local received = 0
client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		client:subscribe { topic = "luamqtt/luv", callback = function()
			timer:start(0, 50, function()
				client:publish { topic = "luamqtt/luv", payload = "tick" }
			end)
		end }
	end,
	message = function(message)
		received = received + 1
		print("received:", message)
		if received == 3 then
			timer:close()
			client:shutdown()
		end
	end,
	error = print,
}

-- The descriptor is readable while the client has something to do: bytes have arrived, or it is time to reconnect.
local poll = uv.new_poll(client:getfd())
local function serve()
	local wait
	repeat
		wait = client:step()
	until wait ~= 0
	if not wait then
		-- The client has ended, and does not reconnect.
		poll:close()
	end
end
poll:start("r", serve)
-- The first step starts to connect.
serve()

uv.run()
assert(received == 3, "the client ended early")

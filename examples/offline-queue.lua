-- Publishes without a connection: before the first connection, and after it is lost. The messages wait in a queue of
-- limited size and are sent, in order, on the next connection.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")

local uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost"

local sender = mqtt.client {
	uri = uri,
	version = mqtt.v50,
	-- The first connection begins a new session. Later connections take the session up again, if the client comes back
	-- within the session's expiry interval.
	clean = "first",
	properties = { session_expiry_interval = 60 },
	-- The delay is at most a tenth of a second after the first failure, and doubles each time, up to a minute.
	reconnect = { min = 0.1, max = 60 },
	queue = { max_messages = 100, max_bytes = 100000, when_full = "drop_oldest" },
}

local acknowledged = 0
local function publish(number)
	assert(sender:publish {
		topic = "luamqtt/offline-queue",
		payload = tostring(number),
		qos = 1,
		callback = function()
			acknowledged = acknowledged + 1
			if acknowledged == 3 then
				sender:close_connection("lost, let us say")
			end
		end,
	})
	print("published:", number, "waiting:", sender:stats().queued)
end

sender:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		print("connected, the session is " .. (connack.sp and "the same" or "new"))
	end,
	close = function(connection)
		print("closed:", connection.close_reason)
		if acknowledged == 3 then
			for number = 4, 6 do
				publish(number)
			end
		end
	end,
	error = print,
}

-- The receiver of the messages. When it is ready, the sender begins.
local receiver = mqtt.client { uri = uri, clean = true }
local received = {}
receiver:on {
	connect = function()
		receiver:subscribe { topic = "luamqtt/offline-queue", qos = 1, callback = function()
			for number = 1, 3 do
				publish(number)
			end
			mqtt.get_ioloop():add(sender)
		end }
	end,
	message = function(msg)
		receiver:acknowledge(msg)
		print("received:", msg.payload)
		received[#received + 1] = msg.payload
		if #received == 6 then
			sender:shutdown()
			receiver:shutdown()
		end
	end,
	error = print,
}

mqtt.run_ioloop(receiver)
assert(table.concat(received, " ") == "1 2 3 4 5 6", "expecting all messages, in order")

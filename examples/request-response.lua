-- Requests and responses of MQTT 5.0: one client tells the time, another asks for it.
-- The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")

local uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost"

-- The handler of a topic may subscribe too. Its second argument has the level that the wildcard stands for.
local clock = mqtt.client { uri = uri, clean = true, version = mqtt.v50 }
clock:on_topic("luamqtt/clock/+", function(msg, captures)
	print("asked for: ", captures[1])
	assert(clock:respond(msg, { payload = os.date(msg.payload) }))
	clock:acknowledge(msg)
end, { subscribe = true, qos = 1 })

-- In a coroutine, requests return their responses.
local asker = mqtt.client { uri = uri, clean = true, version = mqtt.v50 }
local function ask()
	-- Errors too if the broker refuses: their CONNACK has an `rc` other than 0.
	assert(clock:await("connect"))
	assert(asker:await("connect"))

	local response = assert(asker:request { topic = "luamqtt/clock/date", payload = "%Y-%m-%d", qos = 1 })
	print("the date:  ", response.payload)

	local _, err = asker:request { topic = "luamqtt/nobody", timeout = 0.2 }
	print("nobody:    ", err)

	-- With a callback, a request returns at once.
	asker:request {
		topic = "luamqtt/clock/time",
		payload = "%H:%M",
		qos = 1,
		callback = function(answer, problem)
			print("the time:  ", answer and answer.payload or problem)
			asker:disconnect()
			clock:disconnect()
		end,
	}
end
coroutine.wrap(ask)()

mqtt.run_ioloop(clock, asker)

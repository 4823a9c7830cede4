-- A bridge: passes messages of one broker on to another, at least once. A message is acknowledged to the one only when
-- the other has acknowledged it, so that none is lost when either connection, or this program, ends meanwhile.
-- Usage: bridge.lua [FROM-URI TO-URI]; without arguments MQTT_URI and MQTT_SECOND_URI in the environment. At the bottom
-- it is tried out.

local mqtt = require("mqtt")

local from_uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost"
local to_uri = arg[2] or os.getenv("MQTT_SECOND_URI") or "mqtt://localhost:1884"

-- Passes on what matches `filter`, under topics that begin with `prefix`: without that, bridges in both directions
-- would pass messages round and round. Calls `on_ready` once the filter is subscribed, and `on_passed` after each
-- message. Returns its two clients.
local function bridge(filter, prefix, on_ready, on_passed)
	-- Without a clean start the broker keeps messages for a client that is away.
	local from = mqtt.client { uri = from_uri, id = "bridge-from", clean = false, reconnect = { min = 0.1 } }
	local to = mqtt.client { uri = to_uri, id = "bridge-to", clean = false, reconnect = { min = 0.1 }, queue = {} }

	from:on {
		connect = function(connack)
			if connack.rc == 0 then
				from:subscribe { topic = filter, qos = 1, callback = on_ready }
			end
		end,
		message = function(msg)
			local accepted, err = to:publish {
				topic = prefix .. msg.topic,
				payload = msg.payload,
				qos = 1,
				retain = msg.retain,
				callback = function()
					from:acknowledge(msg)
					on_passed()
				end,
			}
			if not accepted then
				-- The queue is full. What was not acknowledged is sent again on the next connection.
				print("bridge: cannot pass on:", err)
				from:disconnect()
			end
		end,
		error = print,
	}
	to:on("error", print)
	return from, to
end

-- To try it out: a client of either broker.
local sender = mqtt.client { uri = from_uri, clean = true, queue = {} }
local receiver = mqtt.client { uri = to_uri, clean = true }
local clients

-- Publishes when this has been called twice: by the bridge and by the receiver.
local not_ready = 2
local function ready()
	not_ready = not_ready - 1
	for number = 1, not_ready == 0 and 3 or 0 do
		sender:publish { topic = "luamqtt/bridge/" .. number, payload = "message " .. number, qos = 1 }
	end
end

-- Ends when this has been called for each message twice: by the bridge and by the receiver.
local to_come = 6
local function done()
	to_come = to_come - 1
	for _, client in ipairs(to_come == 0 and clients or {}) do
		client:shutdown()
	end
end

receiver:on {
	connect = function()
		receiver:subscribe { topic = "site-1/#", qos = 1, callback = ready }
	end,
	message = function(msg)
		receiver:acknowledge(msg)
		print("received from the other broker:", msg.topic, msg.payload)
		done()
	end,
}

local from, to = bridge("luamqtt/bridge/#", "site-1/", ready, done)
clients = { sender, receiver, from, to }
mqtt.run_ioloop(sender, receiver, from, to)
assert(to_come == 0, "not all messages came through")

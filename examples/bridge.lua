-- A bridge: passes messages of one broker on to another, at least once. It acknowledges a message to the first broker
-- only when the second has acknowledged it: so no message is lost when either connection, or this program, ends
-- meanwhile. Usage: bridge.lua [FROM-URI TO-URI]; without arguments MQTT_URI and MQTT_SECOND_URI in the environment.
-- The lower half tries the bridge out.

local mqtt = require("mqtt")

local from_uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost"
local to_uri = arg[2] or os.getenv("MQTT_SECOND_URI") or "mqtt://localhost:1884"

-- Passes on messages that match `filter`, under topics that begin with `prefix`. Without the prefix, bridges in both
-- directions would pass messages round and round. Calls `on_ready` once the filter is subscribed, and `on_passed` after
-- each message. Returns its two clients.
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
				-- The queue is full. The broker sends unacknowledged messages again on the next connection.
				print("bridge: cannot pass on:", err)
				from:disconnect()
			end
		end,
		error = print,
	}
	to:on("error", print)
	return from, to
end

-- To try the bridge out: a client of each broker.
local sender = mqtt.client { uri = from_uri, clean = true, queue = {} }
local receiver = mqtt.client { uri = to_uri, clean = true }
local clients

-- Publishes at its second call: the bridge and the receiver call it when they are ready.
local not_ready = 2
local function ready()
	not_ready = not_ready - 1
	for number = 1, not_ready == 0 and 3 or 0 do
		sender:publish { topic = "luamqtt/bridge/" .. number, payload = "message " .. number, qos = 1 }
	end
end

-- Ends the program when the bridge and the receiver have called it for each message.
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

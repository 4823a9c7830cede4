-- A worker. Start as many as the work needs: each job goes to one of the workers that share the subscription.
-- main.lua starts some workers; the first argument is the worker's name. The brokers are MQTT_URIS in the environment,
-- with blanks between them, or MQTT_URI.

local mqtt = require("mqtt")

local brokers = {}
for uri in (os.getenv("MQTT_URIS") or os.getenv("MQTT_URI") or "mqtt://localhost"):gmatch("%S+") do
	brokers[#brokers + 1] = uri
end

local client = mqtt.client {
	-- the nodes of a cluster: when a node is lost, the client tries the next
	uri = brokers,
	reconnect = { min = 0.1, max = 5 },
	-- the session goes on after a lost connection, or when the worker has died and is started again: jobs that it had
	-- taken and not acknowledged come again
	version = mqtt.v50,
	id = "luamqtt-" .. arg[1],
	clean = false,
	properties = { session_expiry_interval = 3600 },
}

client:on {
	connect = function(connack)
		if connack.rc ~= 0 or connack.sp then
			return
		end
		client:subscribe { topic = "luamqtt/workers/stop", qos = 1 }
		-- "sharers" names the group
		client:subscribe { topic = "$share/sharers/luamqtt/workers/jobs", qos = 1, callback = function(suback)
			assert(suback.rc[1] == 1, suback:reason_strings()[1])
			client:publish { topic = "luamqtt/workers/ready", payload = arg[1], qos = 1 }
		end }
	end,

	message = function(msg)
		if msg.topic == "luamqtt/workers/stop" then
			client:acknowledge(msg)
			-- the session ends too
			client:shutdown(0, { session_expiry_interval = 0 })
			return
		end
		local number = tonumber(msg.payload)
		local result = ("%s: %d x %d = %d"):format(arg[1], number, number, number * number)
		-- the job is done when its result is safe
		client:publish { topic = "luamqtt/workers/results", payload = result, qos = 1, callback = function()
			client:acknowledge(msg)
		end }
	end,
}

mqtt.run_ioloop(client)

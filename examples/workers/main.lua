-- Starts workers, each a process of its own, hands out jobs to them and collects the results.
-- Usage: main.lua [WORKERS [JOBS]]; the brokers as in worker.lua.

local mqtt = require("mqtt")

local workers, jobs = tonumber(arg[1]) or 3, tonumber(arg[2]) or 100
local processes, ready, results, done = {}, 0, {}, 0

local brokers = {}
for uri in (os.getenv("MQTT_URIS") or os.getenv("MQTT_URI") or "mqtt://localhost"):gmatch("%S+") do
	brokers[#brokers + 1] = uri
end

local client = mqtt.client { uri = brokers, reconnect = { min = 0.1, max = 5 }, version = mqtt.v50, clean = "first",
	properties = { session_expiry_interval = 3600 }, auto_ack = true }

local function start_workers()
	-- in production a service manager does this, on several machines
	for i = 1, workers do
		processes[i] = io.popen(("%s %sworker.lua worker-%d"):format(arg[-1], arg[0]:match("^.*/") or "", i))
	end
end

-- Handlers of messages, by the last level of the topic.
local handlers = {}

function handlers.ready(name)
	print(name .. " is ready")
	ready = ready + 1
	if ready == workers then
		for number = 1, jobs do
			client:publish { topic = "luamqtt/workers/jobs", payload = tostring(number), qos = 1 }
		end
	end
end

function handlers.results(result)
	local name, number = result:match("^(%S+): (%d+)")
	-- a job may be done twice, if a worker was interrupted
	if not results[number] then
		results[number], done = name, done + 1
	end
	if done == jobs then
		client:publish { topic = "luamqtt/workers/stop", qos = 1, callback = function()
			client:shutdown(0, { session_expiry_interval = 0 })
		end }
	end
end

client:on {
	connect = function(connack)
		if connack.rc == 0 and not connack.sp then
			client:subscribe { topic = "luamqtt/workers/ready", qos = 1, callback = function()
				client:subscribe { topic = "luamqtt/workers/results", qos = 1, callback = start_workers }
			end }
		end
	end,

	message = function(msg)
		handlers[msg.topic:match("[^/]+$")](msg.payload)
	end,
}

mqtt.run_ioloop(client)
-- waits for the workers
for _, process in ipairs(processes) do
	process:close()
end

local counts = {}
for _, name in pairs(results) do
	counts[name] = (counts[name] or 0) + 1
end
for name, count in pairs(counts) do
	print(("%s has done %d of %d jobs"):format(name, count, jobs))
end

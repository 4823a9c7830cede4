-- What the tests of scripts/test-openresty ask of nginx: `/NAME` calls actions.NAME and shows what it returns,
-- `/log/NAME` calls it in the log phase.

local mqtt = require("mqtt")
local semaphore = require("ngx.semaphore")
local add_client = require("mqtt.loop").add

local app = {}
local actions = {}

-- Threads that were started in this worker.
local spawned = 0
local spawn = ngx.thread.spawn
function ngx.thread.spawn(...) -- luacheck: ignore 122
	spawned = spawned + 1
	return spawn(...)
end

-- Clients by name, and what happened to each: lines.
local clients = {}
local events = {}

local function note(name, ...)
	table.insert(events[name], table.concat({ ... }, " "))
end

-- The connector of all clients that are to have no other one; nil for the default.
local default_connector = os.getenv("MQTT_TEST_CONNECTOR") and require(os.getenv("MQTT_TEST_CONNECTOR"))

-- Makes a client that notes its events, and adds it to nginx.
local function start(name, opts)
	events[name] = {}
	opts.id = opts.id or "openresty-" .. name .. "-" .. ngx.worker.pid()
	opts.clean = opts.store == nil
	opts.connector = opts.connector or default_connector
	local client = mqtt.client(opts)
	clients[name] = client
	client:on {
		connect = function(connack)
			note(name, "connect", connack.rc, ngx.get_phase())
		end,
		close = function(conn)
			note(name, "close", conn.close_reason, ngx.get_phase())
		end,
		error = function(err)
			note(name, "error", err)
		end,
		shutdown = function()
			note(name, "shutdown", ngx.get_phase())
		end,
	}
	assert(add_client(client))
	return client
end

-- Publishes with QoS 1 and waits for the PUBACK.
local function publish_and_wait(client, opts)
	local acknowledged = semaphore.new()
	opts.qos = 1
	function opts.callback()
		acknowledged:post(1)
	end
	assert(client:publish(opts))
	assert(acknowledged:wait(10))
end

local received, log_received = 0, 0

function app.start()
	start("main", {
		uri = os.getenv("MQTT_URI"),
		will = { topic = "openresty/will", payload = "will" },
		reconnect = 1,
	}):on {
		connect = function(_, client)
			assert(client:subscribe { topic = "openresty/in/#", qos = 1 })
		end,
		message = function(message, client)
			received = received + 1
			client:acknowledge(message)
			local topic = message.topic
			if topic == "openresty/in/wait" then
				-- waits for its own acknowledgement, and for what comes after this message
				local before = received
				publish_and_wait(client, { topic = "openresty/in/after" })
				while received == before do
					ngx.sleep(0.01)
				end
				note("main", "waited", topic)
			elseif topic == "openresty/in/order" then
				note("main", "order", message.payload)
				ngx.sleep(message.payload == "1" and 0.3 or 0)
			elseif topic == "openresty/in/log" then
				log_received = log_received + 1
			elseif topic == "openresty/in/exit" then
				ngx.exit(ngx.OK)
			elseif topic == "openresty/in/sleep" then
				note("main", "sleeps")
				ngx.sleep(tonumber(message.payload))
			elseif topic == "openresty/in/throw" then
				error("thrown by a handler")
			end
		end,
	}
	-- Its name is the same in each worker.
	start("fixed", { uri = os.getenv("MQTT_URI"), id = "openresty-fixed", reconnect = 1 })
	if require("mqtt.core").link(4).keep_in then
		start("kept", {
			uri = os.getenv("MQTT_URI"), id = "openresty-kept", reconnect = 0.1, store = ngx.config.prefix() .. "kept-%w",
		})
	end
end

function actions.publish()
	local args = ngx.req.get_uri_args()
	local id, err = clients[args.client or "main"]:publish {
		topic = args.topic,
		payload = args.payload,
		qos = tonumber(args.qos or "1"),
	}
	return tostring(id or err)
end

-- Waits for what the client asks itself, and for what nobody answers.
function actions.await()
	local name = ngx.var.arg_client
	local client, topic = clients[name], "openresty/request/" .. name
	local suback, err = client:await("subscribe", { topic = topic, qos = 1 })
	if not suback then
		note(name, "await", err)
		return err
	end
	client:on_topic(topic, function(message)
		assert(client:respond(message, { payload = message.payload:upper() }))
		client:acknowledge(message)
	end)
	local response = assert(client:request { topic = topic, payload = "hello", qos = 1 })
	response, err = response.payload, select(2, client:request { topic = "openresty/nobody", timeout = 0.1 })
	client:off_topic(topic)
	return response .. " " .. err
end

-- A connector of the program's own in the way of luamqtt 3.x, which calls the functions of one that comes with it.
local function functions()
	local connector = {}
	for _, name in ipairs { "connect", "shutdown", "send", "receive", "settimeout" } do
		connector[name] = require("mqtt.ngxsocket")[name]
	end
	return connector
end

-- The connector of nginx, but that what it sends raises an error when `is_faulty` is set, once.
local is_faulty = false
local function faulty()
	local super = require("mqtt.connector.nginx")
	local class = setmetatable({}, super)
	class.__index = class
	function class:send(data)
		if is_faulty then
			is_faulty = false
			error("out of order", 0)
		end
		return super.send(self, data)
	end
	return class
end

-- Publishes two messages and waits for the answers; sending the first fails.
function actions.fail()
	local client, answered = clients[ngx.var.arg_client], 0
	is_faulty = true
	local threads = {}
	for i = 1, 2 do
		threads[i] = spawn(function()
			assert(client:await("publish", { topic = "openresty/faulty", payload = tostring(i), qos = 1 }))
			answered = answered + 1
		end)
	end
	for _, thread in ipairs(threads) do
		assert(ngx.thread.wait(thread))
	end
	return "answered " .. answered
end

-- Has a client answer requests, its own for example.
function actions.respond()
	local client = clients[ngx.var.arg_client]
	client:on_topic("openresty/later", function(message)
		assert(client:respond(message, { payload = message.payload:upper() }))
		client:acknowledge(message)
	end, { subscribe = true, qos = 1 })
	return client:request { topic = "openresty/later", payload = "first" }.payload
end

function actions.request()
	local client = clients[ngx.var.arg_client]
	note(ngx.var.arg_client, "request")
	local response, err = client:request { topic = "openresty/later", payload = "hello", qos = 1, timeout = 20 }
	return response and response.payload or err
end

-- The arguments: uri or port, and what else the client shall have.
function actions.start()
	local args = ngx.req.get_uri_args()
	local secure
	if args.secure then
		local certs = os.getenv("MQTT_TEST_CERTS")
		secure = {
			verify = args.verify,
			-- Without a connector lua_ssl_trusted_certificate does not count.
			cafile = not default_connector and certs .. "/ca.crt" or nil,
			server_name = args.server_name,
			certificate = args.certificate and certs .. "/" .. args.certificate,
			key = args.key and certs .. "/" .. args.key,
		}
	end
	local uri = "mqtt" .. (secure and "s" or "") .. "://" .. (args.host or "localhost") .. ":" .. args.port
	local client = start(args.name, {
		uri = args.dead and { "mqtt://localhost:" .. args.dead, uri } or uri,
		secure = secure,
		auto_ack = args.auto_ack and true,
		version = tonumber(args.version),
		reconnect = tonumber(args.reconnect),
		keep_alive = tonumber(args.keep_alive),
		connect_timeout = tonumber(args.connect_timeout),
		queue = args.queue and {},
		connector = args.functions and functions()
			or args.faulty and faulty(),
	})
	if args.auto_ack then
		client:on {
			connect = function()
				client:subscribe { topic = "openresty/auto_ack", qos = 1, callback = function()
					note(args.name, "subscribed")
				end }
			end,
			message = function(message)
				ngx.sleep(0.01)
				if message.payload == "throw" then
					error("thrown by a handler")
				end
			end,
		}
	end
	if args.functions then
		client:on {
			connect = function()
				client:subscribe { topic = "openresty/functions" }
			end,
			message = function()
				client:shutdown()
			end,
		}
	end
	return "started"
end

-- Two clients in one ioloop of a timer, on the connector of luamqtt 3.x or the default one: one publishes what the
-- other receives.
function actions.ioloop()
	events.ioloop = {}
	local connector = not ngx.var.arg_default and require("mqtt.ngxsocket") or nil
	local function new(id)
		return mqtt.client { uri = os.getenv("MQTT_URI"), clean = true, id = id, connector = connector }
	end
	local subscriber, publisher = new("openresty-subscriber"), new("openresty-publisher")
	subscriber:on("connect", function()
		subscriber:subscribe { topic = "openresty/ioloop", qos = 1, callback = function()
			publisher:publish { topic = "openresty/ioloop", payload = "hello", qos = 1 }
		end }
	end)
	subscriber:on("message", function(message)
		note("ioloop", message.payload)
		subscriber:acknowledge(message)
		subscriber:disconnect()
		publisher:disconnect()
	end)
	publisher:on("connect", function()
		mqtt.get_ioloop():add(subscriber)
	end)
	assert(ngx.timer.at(0, function()
		mqtt.run_ioloop(publisher)
		note("ioloop", "end")
	end))
	return "started"
end

-- Clients that publish to themselves and then leave at once: `count` of them, one after the other.
function actions.leave()
	local args = ngx.req.get_uri_args()
	for i = 1, tonumber(args.count) do
		local name = args.name .. i
		local topic = "openresty/" .. name
		local client = start(name, {
			uri = os.getenv("MQTT_URI"),
			version = tonumber(args.version),
			will = { topic = "openresty/leave/will", payload = name },
		})
		client:on("connect", function()
			-- What it publishes comes back, and is not read either.
			client:subscribe { topic = topic, callback = function()
				for n = 1, tonumber(args.messages) do
					assert(client:publish { topic = topic, payload = tostring(n), qos = 1 })
				end
				client[args.method](client)
			end }
		end)
	end
	return "started"
end

-- A client in run_sync.
-- Timers of mqtt.loop, one of which raises an error, waits, and ends.
function actions.timers()
	events.timers = {}
	local loop = require("mqtt.loop")
	local calls = 0
	local cancelled = assert(loop.after(0.001, function()
		note("timers", "cancelled")
	end))
	cancelled:cancel()
	assert(loop.every(0.001, function()
		calls = calls + 1
		note("timers", "every", calls, ngx.get_phase())
		if calls == 2 then
			error("thrown by a timer")
		end
		ngx.sleep(0.01)
		return calls < 3
	end))
	local forever
	forever = assert(loop.every(0.001, function()
		-- The worker's end ends it.
		if calls == 3 and forever then
			note("timers", "others go on")
			forever = nil
		end
	end))
	return "started"
end

function actions.sync()
	events.sync = {}
	local client = mqtt.client { uri = os.getenv("MQTT_URI"), clean = true, id = "openresty-sync", keep_alive = 1 }
	client:on("connect", function()
		note("sync", "connect")
	end)
	clients.sync = client
	assert(ngx.timer.at(0, function()
		local _, err = mqtt.run_sync(client)
		note("sync", "end", err or "")
	end))
	return "started"
end

-- Starts `count` clients that reconnect, and counts those that are connected.
local swarm = {}
function actions.swarm()
	local args = ngx.req.get_uri_args()
	for i = 1, tonumber(args.count) do
		local client = mqtt.client {
			uri = "mqtt://127.0.0.1:" .. args.port,
			id = "openresty-swarm-" .. i,
			clean = true,
			reconnect = 0.2,
			connector = default_connector,
		}
		swarm[i] = client
		client:on("connect", function()
			client:subscribe { topic = "openresty/swarm", qos = 1, callback = function()
				client.is_alive = true
			end }
		end)
		client:on("close", function()
			client.is_alive = false
		end)
		-- The broker is restarted: nginx's log need not say so a thousand times.
		client:on("error", function() end)
		assert(add_client(client))
	end
	return "started"
end

function actions.alive()
	local count = 0
	for _, client in ipairs(swarm) do
		count = count + (client.is_alive and 1 or 0)
	end
	return "alive " .. count
end

function actions.disband()
	for _, client in ipairs(swarm) do
		client:shutdown()
	end
	swarm = {}
	return "disbanded"
end

-- Connects and publishes in a request of its own, and leaves the client alone then; may raise an error or exit.
function actions.abandon()
	local args = ngx.req.get_uri_args()
	local client = mqtt.client { uri = os.getenv("MQTT_URI"), clean = true, connector = default_connector }
	client:on("close", function()
		ngx.log(ngx.NOTICE, "an abandoned client is closed")
	end)
	assert(client:start_connecting())
	assert(client:publish { topic = "openresty/abandoned", payload = args.how })
	if args.keep then
		clients.abandoned = client
	end
	if args.how == "raise" then
		error("raised by a request")
	elseif args.how == "exit" then
		ngx.exit(ngx.OK)
	end
	return "done"
end

-- Publishes after some time.
-- Publishes by the client with a store.
function actions.keep()
	local args = ngx.req.get_uri_args()
	local ok, err = clients.kept:publish { topic = args.topic, payload = args.payload, qos = 1 }
	return (ok and "accepted " or "refused ") .. args.payload .. (err and ": " .. err or "")
end

function actions.late()
	local args = ngx.req.get_uri_args()
	ngx.sleep(tonumber(args.seconds))
	local id, err = clients.main:publish { topic = args.topic, payload = args.payload, qos = 1 }
	return id and "accepted " .. args.payload or "refused " .. tostring(err)
end

-- Publishes after the worker's clients have been shut down: by a client of its own.
function actions.outlast()
	note("main", "outlasts")
	while clients.main.opts.reconnect or clients.main.connection do
		ngx.sleep(0.01)
	end
	local message = { topic = ngx.var.arg_topic, payload = "by a client of its own", qos = 1 }
	local id, err = clients.main:publish(message)
	assert(not id)
	local client = mqtt.client { uri = os.getenv("MQTT_URI"), clean = true, connector = default_connector }
	assert(client:start_connecting())
	assert(client:publish(message))
	assert(client:disconnect())
	return err
end

function actions.call()
	local args = ngx.req.get_uri_args()
	local client = clients[args.client]
	return tostring(client[args.method](client))
end

function actions.events()
	return table.concat(events[ngx.var.arg_client or "main"] or {}, "\n")
end

function actions.state()
	collectgarbage()
	return ("received %d log %d spawned %d running %d worker %d memory %d"):format(received, log_received, spawned,
		ngx.timer.running_count(), ngx.worker.pid(), collectgarbage("count"))
end

-- What the client "main" is connected by.
function actions.connector()
	local class = getmetatable(clients.main.connection)
	return class == require("mqtt.connector.nginx") and "cosockets" or class == require("mqtt.connector") and "native"
end

function app.run()
	local result = actions[ngx.var.uri:match("[^/]+$")]()
	if ngx.get_phase() == "content" then
		ngx.say(result)
	end
end

return app

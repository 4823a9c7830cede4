-- What the states of host.c do: functions without arguments, called there by name.
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")

local M = {}

local uri = assert(os.getenv("MQTT_URI"), "to be run beneath scripts/with-broker")
local tls = { uri = assert(os.getenv("MQTTS_URI")), secure = { cafile = os.getenv("MQTT_TEST_CERTS") .. "/ca.crt" } }

-- Clients that must not be collected before the state is closed.
local clients = {}
local topic

local function make(opts)
	local own = { uri = uri, clean = true, version = mqtt.v50 }
	for name, value in pairs(opts or {}) do
		own[name] = value
	end
	local client = mqtt.client(own)
	clients[#clients + 1] = client
	return client
end

local function serve(client, done)
	local loop = ioloop.create()
	loop:add(client)
	while not done() do
		loop:iteration()
	end
	loop:remove(client)
end

local function connected(opts)
	local client, subscribed = make(opts), false
	topic = "host/" .. client.opts.id
	client:on("connect", function()
		client:subscribe({ topic = topic, qos = 1, callback = function()
			subscribed = true
		end })
	end)
	serve(client, function()
		return subscribed
	end)
	return client
end

local function exit()
	-- Lua 5.1 wants a number and closes nothing.
	os.exit(_VERSION == "Lua 5.1" and not rawget(_G, "jit") and 0 or true, true)
end

-- Connects a plain and a TLS client.
function M.connect()
	connected(tls)
	connected()
end

-- The client that connected last sends itself a message.
function M.talk()
	local client, received = clients[#clients], nil
	local function receive(message)
		received = message.payload
		client:acknowledge(message)
	end
	client:on("message", receive)
	local sent = client:stats().messages_sent
	assert(client:publish({ topic = topic, payload = "hello", qos = 1 }))
	assert(client:stats().messages_sent == sent + 1, "another client has sent it")
	serve(client, function()
		return received
	end)
	client:off("message", receive)
	assert(received == "hello")
end

-- In the child of a fork the clients of the parent say so.
function M.refuse_parents()
	local ok, err = clients[#clients]:publish({ topic = topic, qos = 1 })
	assert(not ok and err:find("belongs to the parent process", 1, true), err)
end

-- Clients in every state in which something is to happen later.
function M.leave_timers()
	connected({ keep_alive = 1 })
	-- This one waits for an answer to a connection attempt, the next one until it is time to connect again.
	make():step()
	local again, failed = make({ uri = "mqtt://127.0.0.1:1", reconnect = 60 }), false
	again:on("error", function()
		failed = true
	end)
	serve(again, function()
		return failed
	end)
end

-- Returns the descriptor that gets readable by the message.
function M.send_to_itself()
	local client = connected()
	assert(client:publish({ topic = topic, payload = "hello", qos = 1 }))
	return client:getfd()
end

function M.leave_unsent()
	local client = connected(tls)
	for _ = 1, 20 do
		assert(client:publish({ topic = topic, payload = ("x"):rep(10000), qos = 2 }))
	end
end

-- Three states send so many messages each to `listen`, more than the broker takes at a time, and leave.
local SENT = 100

function M.send_and_leave()
	local client = connected({ version = mqtt.v50 })
	for _ = 1, SENT do
		assert(client:publish({ topic = os.getenv("HOST_TOPIC"), qos = 1 }))
	end
end

local heard = 0

function M.listen()
	local client, subscribed = connected(), false
	client:on("message", function(message)
		heard = heard + 1
		client:acknowledge(message)
	end)
	client:subscribe({ topic = os.getenv("HOST_TOPIC"), callback = function()
		subscribed = true
	end })
	serve(client, function()
		return subscribed
	end)
end

function M.hear_three()
	serve(clients[#clients], function()
		return heard == 3 * SENT
	end)
end

function M.suspend()
	local thread = coroutine.create(function()
		local client = connected()
		while client:step() do
			coroutine.yield()
		end
	end)
	clients[#clients + 1] = thread
	assert(coroutine.resume(thread))
	assert(coroutine.status(thread) == "suspended")
end

function M.fail_in_handler()
	local client = connected()
	client:on("message", function()
		error("not caught")
	end)
	M.talk()
end

function M.os_exit()
	M.connect()
	M.leave_timers()
	exit()
end

function M.os_exit_in_coroutine()
	M.connect()
	coroutine.wrap(function()
		connected()
		exit()
	end)()
end

function M.os_exit_in_handler()
	connected():on("message", exit)
	M.talk()
end

return M

-- Clients among other things: an event loop of the program's, other clients, many of them.

local harness = require("spec.support.harness")
local lfs = require("lfs")
local mqtt = require("mqtt")
local servers = require("spec.support.server")
local socket = require("socket")

local unpack = table.unpack or unpack -- luacheck: ignore 143

describe("a client in an event loop of the program", function()
	after_each(harness.cleanup)

	-- What select takes for a socket.
	local function selectable(client)
		return {
			getfd = function()
				return assert(client:getfd())
			end,
			dirty = function()
				return false
			end,
		}
	end

	-- Waits for the descriptors of clients, and steps those that have something to do, until something has happened.
	local function select_until(done, ...)
		local sockets, client_of = {}, {}
		for i, client in ipairs({ ... }) do
			sockets[i] = selectable(client)
			client_of[sockets[i]] = client
		end
		local deadline = harness.deadline()
		while not done() do
			local readable = socket.select(sockets, nil, deadline - harness.now())
			assert(readable[1], "no descriptor became readable")
			for _, ready in ipairs(readable) do
				local client = client_of[ready]
				local wait
				repeat
					wait = client:step()
				until wait ~= 0
			end
		end
	end

	it("is stepped when its descriptor is readable", function()
		local client, topic = harness.client(), harness.topic()
		local received
		client:on({
			connect = function()
				assert(client:subscribe({ topic = topic, callback = function()
					assert(client:publish({ topic = topic, payload = "hello" }))
				end }))
			end,
			message = function(message)
				received = message.payload
			end,
		})
		client:step()
		select_until(function()
			return received
		end, client)
		assert.equal("hello", received)
	end)

	it("has a descriptor that stays the same, and is not readable while there is nothing to do", function()
		local client = harness.client({ reconnect = 0.05 })
		local fd = assert(client:getfd())
		client:step()
		local function connected()
			return client.connection and client.connection.connack
		end
		select_until(connected, client)
		assert.same({}, (socket.select({ selectable(client) }, nil, 0)))
		client:close_connection()
		assert.equal(fd, client:getfd())
		-- It also says when it is time to reconnect.
		select_until(connected, client)
		assert.equal(fd, client:getfd())
		assert.equal("number", type(fd))
	end)

	it("has a descriptor that is readable if something came before it was asked for", function()
		local client, topic = harness.connect(harness.client()), harness.topic()
		harness.subscribe(client, topic)
		local received
		client:on("message", function(message)
			received = message.payload
		end)
		assert(client:publish({ topic = topic, payload = "early" }))
		select_until(function()
			return received
		end, client)
		assert.equal("early", received)
	end)

	it("has no descriptor with a connector", function()
		local connector = { signal_idle = {}, signal_closed = {} }
		connector.__index = connector
		for _, method in ipairs({ "validate", "connect", "shutdown", "send", "receive", "buffer_clear" }) do
			connector[method] = function() end
		end
		local fd, err = harness.client({ connector = connector }):getfd()
		assert.is_nil(fd)
		assert.equal("string", type(err))
	end)

	it("serves two clients in one select", function()
		local one, two = harness.client(), harness.client()
		one:step()
		two:step()
		select_until(function()
			return one.connection and one.connection.connack and two.connection and two.connection.connack
		end, one, two)
	end)
end)

describe("a client that a loop of the program steps", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	-- How often the library's thread has slept, where the system tells.
	local function times_slept()
		local count
		for task in lfs.dir("/proc/self/task") do
			local file = io.open("/proc/self/task/" .. task .. "/status")
			local status = file and file:read("*a") or ""
			if file then
				file:close()
			end
			if status:find("^Name:%s+mqtt%-caretaker") then
				count = (count or 0) + tonumber(status:match("\nvoluntary_ctxt_switches:%s+(%d+)"))
			end
		end
		return assert(count, "no such thread")
	end

	local it_on_linux = lfs.attributes("/proc/self/task") and it or pending

	it_on_linux("is served by its steps, without another thread for each message #unix", function()
		local MESSAGES = 1000
		local server = servers.start(4)
		local received, connected = 0, false
		local client = harness.client({ uri = "mqtt://127.0.0.1:" .. server.port })
		client:on({
			connect = function()
				connected = true
			end,
			message = function()
				received = received + 1
			end,
		})
		local deadline = harness.deadline()
		local function step_until(done)
			while not done() do
				assert(harness.now() < deadline, "nothing came of it in time")
				client:step()
				server.serve()
			end
		end
		step_until(function()
			return connected
		end)
		-- That the program steps shows in its first steps.
		local before
		for i = 1, MESSAGES do
			if i == 50 then
				before = times_slept()
			end
			server:send({ type = 3, topic = "question", qos = 0, payload = "hello" })
			step_until(function()
				return received == i
			end)
		end
		local slept = times_slept() - before
		assert.is_true(slept < MESSAGES / 2, slept)
	end)
end)

describe("clients", function()
	after_each(harness.cleanup)

	it("publish in the handlers of each other", function()
		local topic = harness.topic()
		local one, two = harness.connect(harness.client(), harness.client())
		harness.subscribe(one, topic .. "/one")
		harness.subscribe(two, topic .. "/two")
		local bounces = 0
		local function bounce(client, to)
			return function()
				bounces = bounces + 1
				assert(client:publish({ topic = topic .. to }))
			end
		end
		-- A message for one makes two publish, and the other way round.
		one:on("message", bounce(two, "/two"))
		two:on("message", bounce(one, "/one"))
		assert(one:publish({ topic = topic .. "/two" }))
		harness.serve({ one, two }, function()
			return bounces >= 100
		end)
	end)

	for version_name, version in pairs({ ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }) do
		it("may be twenty in one loop, " .. version_name, function()
			local topic, clients, laps = harness.topic(), {}, 0
			for i = 1, 20 do
				local client = harness.client({ version = version })
				clients[i] = client
				client:on("message", function(message)
					assert(client:acknowledge(message))
					if i == 20 then
						laps = laps + 1
					end
					assert(client:publish({ topic = topic .. "/" .. i % 20 + 1, qos = message.qos, payload = message.payload }))
				end)
			end
			harness.connect(unpack(clients))
			for i, client in ipairs(clients) do
				harness.subscribe(client, topic .. "/" .. i)
			end
			for qos = 0, 2 do
				assert(clients[20]:publish({ topic = topic .. "/1", qos = qos, payload = tostring(qos) }))
			end
			harness.serve(clients, function()
				return laps >= 15
			end)
			for _, client in ipairs(clients) do
				client:shutdown()
			end
			harness.serve_to_end(unpack(clients))
		end)
	end

	it("work inside coroutines", function()
		local topic, received = harness.topic(), {}
		local threads = {}
		for i = 1, 3 do
			threads[i] = coroutine.create(function()
				local client = harness.client()
				assert(client:start_connecting())
				coroutine.yield()
				client:on("message", function(message)
					received[i] = message.payload
				end)
				while not client.connection.connack do
					assert(client:step())
					coroutine.yield()
				end
				assert(client:subscribe({ topic = topic .. i }))
				assert(client:publish({ topic = topic .. i, payload = tostring(i) }))
				while not received[i] do
					assert(client:step())
					coroutine.yield()
				end
				client:disconnect()
			end)
		end
		local deadline = harness.deadline()
		repeat
			local alive = false
			for _, thread in ipairs(threads) do
				if coroutine.status(thread) ~= "dead" then
					assert(coroutine.resume(thread))
					alive = true
				end
			end
			assert(harness.now() < deadline, "nothing came of it in time")
		until not alive
		assert.same({ "1", "2", "3" }, received)
	end)
end)

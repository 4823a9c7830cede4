-- Connectors in Lua whose `send` does nothing but write to their socket: the library writes to it too, many packets at
-- once, and no byte waits for Lua.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local harness = require("spec.support.harness")
local luasocket = require("mqtt.connector.luasocket")
local servers = require("spec.support.server")
local socket = require("socket")

local COUNT = 2000

-- Counts the calls of `send` of LuaSocket's TCP sockets while a function runs.
local function count_sends(func)
	local sock = assert(socket.connect("127.0.0.1", broker.port))
	local methods = getmetatable(sock).__index
	sock:close()
	local send, calls = methods.send, 0
	function methods.send(...)
		calls = calls + 1
		return send(...)
	end
	finally(function()
		methods.send = send
	end)
	func()
	methods.send = send
	return calls
end

local function publish(client, topic, qos)
	for i = 1, COUNT do
		assert(client:publish { topic = topic, payload = tostring(i), qos = qos })
	end
end

-- Subscribes to a topic. Returns the client, and the payloads as they come.
local function observe(topic)
	local observer, payloads = harness.connect(harness.client()), {}
	harness.subscribe(observer, { topic = topic, qos = 0 })
	observer:on("message", function(message)
		payloads[#payloads + 1] = message.payload
	end)
	return observer, payloads
end

local function check(observer, payloads)
	harness.serve({ observer }, function()
		return #payloads == COUNT
	end)
	for i = 1, COUNT do
		assert.equal(tostring(i), payloads[i])
	end
end

describe("a burst by the LuaSocket connector", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	for qos = 0, 1 do
		it("is written many packets at a time, QoS " .. qos, function()
			local topic = harness.topic()
			local observer, payloads = observe(topic)
			local client = harness.connect(harness.client { connector = luasocket })
			local calls = count_sends(function()
				publish(client, topic, qos)
			end)
			-- The connector sends when the socket takes no more.
			assert.is_true(calls < COUNT / 10, calls)
			check(observer, payloads)
		end)
	end

	it("passes every byte to a derived class with a send of its own", function()
		local topic = harness.topic()
		local observer, payloads = observe(topic)
		local derived, sent = setmetatable({}, luasocket), {}
		derived.__index = derived
		function derived:send(data)
			sent[#sent + 1] = data
			return luasocket.send(self, data)
		end
		local client = harness.connect(harness.client { connector = derived })
		sent = {}
		publish(client, topic, 0)
		check(observer, payloads)
		local expected = {}
		for i = 1, COUNT do
			expected[i] = tostring(require("mqtt.protocol4").make_packet {
				type = 3, topic = topic, payload = tostring(i), qos = 0, retain = false, dup = false,
			})
		end
		assert.equal(table.concat(expected), table.concat(sent))
	end)

	for where, script in pairs({
		["in a handler"] = [[
			client:on("connect", function()
				publish()
				io.read()
				os.exit(0)
			end)
			mqtt.run_ioloop(client)
		]],
		["outside of a loop"] = [[
			assert(client:start_connecting())
			while not client.connection.connack do
				assert(client:_sync_iteration())
			end
			publish()
			io.read()
			os.exit(0)
		]],
	}) do
		it("arrives though the program blocks afterwards, " .. where, function()
			local topic = harness.topic()
			local observer, payloads = observe(topic)
			local running = child.start([[
				local mqtt = require("mqtt")
				local client = mqtt.client { uri = %q, clean = true, connector = require("mqtt.connector.luasocket") }
				local function publish()
					for i = 1, %d do
						assert(client:publish { topic = %q, payload = tostring(i) })
					end
				end
			]] .. script, broker.uri, COUNT, topic)
			local ok, err = pcall(check, observer, payloads)
			running.tell("go on")
			local output, status = running.finish()
			assert(ok, err)
			assert.equal("", output)
			assert.equal(0, status)
		end)
	end

	it("arrives in order at a server that reads nothing for a while", function()
		local server
		server = servers.start(4, function(_, packet)
			servers.accept(server, packet)
			server.deaf = packet.type == 1
		end)
		local client = harness.client { uri = server.uri, connector = luasocket }
		client:start_connecting()
		harness.serve({ server.serve, client }, function()
			return client.connection.connack
		end)
		-- A kernel holds less than this.
		local payload = ("x"):rep(1000)
		local numbers, accepted = {}, 0
		client.connection.timeout = 0.01
		while accepted < 20000 and client.connection do
			if client:publish { topic = "t/" .. accepted + 1, payload = payload } then
				accepted = accepted + 1
			end
		end
		-- The connector has given the server up, as it does when the socket takes nothing for `timeout` seconds.
		assert.is_nil(client.connection)
		server.deaf = false
		harness.serve({ server.serve }, function()
			return server.ended
		end)
		for _, packet in ipairs(server.received) do
			numbers[#numbers + 1] = packet.type == 3 and tonumber(packet.topic:match("%d+")) or nil
		end
		for i, number in ipairs(numbers) do
			assert.equal(i, number)
		end
		assert.is_true(#numbers > 0)
	end)

	it("fails when the server has closed the connection", function()
		local server = servers.start(4, servers.accept)
		local client = harness.client { uri = server.uri, connector = luasocket }
		client:start_connecting()
		harness.serve({ server.serve, client }, function()
			return client.connection.connack
		end)
		local events = harness.record(client, { "error", "close" })
		servers.stop_all()
		local deadline = harness.deadline()
		local ok, err
		repeat
			ok, err = client:publish { topic = "t", payload = "x" }
		until not ok or harness.now() > deadline
		assert.is_false(ok)
		assert.matches("failed to send PUBLISH: connector.send failed: closed", err, 1, true)
		assert.same({ "error", "close" }, harness.names(events))
		assert.is_false((client:publish { topic = "t", payload = "x" }))
	end)
end)

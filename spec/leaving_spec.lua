-- Programs that leave without `disconnect`: what was accepted on a connection arrives all the same.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")
local servers = require("spec.support.server")
local socket = require("socket")

local TRANSPORTS = {
	tcp = { broker.uri },
	tls = { broker.tls_uri, broker.cafile },
	ws = { "ws://127.0.0.1:" .. broker.ws_port },
	["#unix"] = { "unix://" .. broker.socket },
	luasocket = { broker.uri, connector = "mqtt.connector.luasocket" },
	["#luasec"] = { broker.tls_uri, broker.cafile, connector = "mqtt.connector.luasocket" },
}

-- Begins a script: four clients, of each version and for QoS 0 and 1 (some connectors only of 3.1.1); `publish` has
-- each of them send COUNT messages.
local PRELUDE = [[
local mqtt = require("mqtt")
local URI, CAFILE, TOPIC, COUNT, CONNECTOR = %q, %q, %q, %d, %q
clients = {}
local function client(opts)
	opts.uri, opts.secure, opts.clean = URI, CAFILE ~= "" and { cafile = CAFILE }, true
	opts.connector = CONNECTOR ~= "" and require(CONNECTOR) or nil
	clients[#clients + 1] = mqtt.client(opts)
	return clients[#clients]
end
-- In 5.0 the broker's limits hold messages back. Once the program has left, nobody reads a connector's answers, nor
-- writes to LuaSec's sockets.
local is_held_back = CONNECTOR ~= "" and (CAFILE ~= "" or COUNT > 1000)
for index, version in ipairs(is_held_back and { 4, 4 } or { 4, 5 }) do
	for qos = 0, 1 do
		client({ version = version, id = "leaving-" .. TOPIC:sub(-12) .. index .. qos })
	end
end
local function publish()
	for n, client in ipairs(clients) do
		for i = 1, COUNT do
			assert(client:publish({ topic = TOPIC .. n, payload = tostring(i), qos = (n - 1) %% 2 }))
		end
	end
end
local function each(method, ...)
	for _, client in ipairs(clients) do
		client[method](client, ...)
	end
end
local loop = mqtt.get_ioloop()
local function leave()
	%s
end
]]

-- When a program leaves: how many messages each client sends, and what the script does.
local MOMENTS = {
	["in the connect handler"] = { 1, [[
		local connected = 0
		each("on", "connect", function(connack)
			assert(connack.rc == 0)
			connected = connected + 1
			if connected == #clients then
				publish()
				leave()
			end
		end)
		mqtt.run_ioloop((table.unpack or unpack)(clients))
	]] },
	["before the CONNACK"] = { 30, [[
		for _, client in ipairs(clients) do
			assert(client:start_connecting())
		end
		publish()
		leave()
	]] },
	["after a burst"] = { 3000, [[
		for _, client in ipairs(clients) do
			assert(client:start_connecting())
			while not client.connection.connack do
				assert(client:_sync_iteration())
			end
		end
		publish()
		leave()
	]] },
}

-- How a program leaves: what it does then, whether that can be done in a handler, and what is printed.
local WAYS = {
	["os.exit(0)"] = { "os.exit(0)" },
	["os.exit(0, true)"] = { "os.exit(0, true)" },
	["the end of the script"] = { "", in_handler = false },
	["an uncaught error"] = { 'error("left", 0)', output = "left" },
	["close_connection and the end"] = { 'each("close_connection")' },
	["close_connection and os.exit"] = { 'each("close_connection") os.exit(0)' },
	["loop:remove and the end"] = { [[
		for _, client in ipairs(clients) do
			if not loop.clients[client] then
				loop:add(client)
			end
			loop:remove(client)
		end
	]] },
	["collection and the end"] = { "clients = nil collectgarbage() collectgarbage()", in_handler = false },
	["collection and os.exit"] = { "clients = nil collectgarbage() collectgarbage() os.exit(0)", in_handler = false },
	["os.exit in a coroutine"] = { "coroutine.wrap(function() os.exit(0) end)()" },
	["os.exit that closes the state, in a coroutine"] = { "coroutine.wrap(function() os.exit(0, true) end)()" },
	["os.exit in a callback"] = { [[
		clients[1]:publish({ topic = TOPIC .. "callback", callback = function()
			os.exit(0)
		end })
	]] },
}

-- Some of them, for transports that differ in how they write and end.
local SOME = {
	["os.exit(0)"] = true,
	["the end of the script"] = true,
	["close_connection and the end"] = true,
	["collection and os.exit"] = true,
}

-- Subscribes to everything below a topic. Returns the client, and the payloads by topic as they come.
local function observe(topic)
	local observer, payloads = harness.connect(harness.client()), {}
	harness.subscribe(observer, { topic = topic .. "/#", qos = 0 })
	observer:on("message", function(message)
		local list = payloads[message.topic] or {}
		payloads[message.topic] = list
		list[#list + 1] = message.payload
	end)
	return observer, payloads
end

local function check_end(output, status, expected)
	if expected then
		assert.matches(expected, output, 1, true)
		assert.equal(1, status)
	else
		assert.equal("", output)
		assert.equal(0, status)
	end
end

describe("what was accepted arrives", function()
	after_each(harness.cleanup)

	for transport, target in pairs(TRANSPORTS) do
		for moment, what in pairs(MOMENTS) do
			for name, way in pairs(WAYS) do
				local everywhere = transport == "tcp" or transport == "luasocket" or SOME[name]
				if everywhere and not (way.in_handler == false and moment == "in the connect handler") then
					it(("if the program leaves by %s, %s, %s"):format(name, moment, transport), function()
						local topic = harness.topic()
						local observer, payloads = observe(topic)
						local count, body = what[1], what[2]
						local output, status = child.run(PRELUDE .. body:gsub("%%", "%%%%"), target[1], target[2] or "",
							topic .. "/", count, target.connector or "", way[1])
						check_end(output, status, way.output)
						for n = 1, 4 do
							local own = topic .. "/" .. n
							local ok = pcall(harness.serve, { observer }, function()
								return payloads[own] and #payloads[own] >= count
							end)
							assert(ok, ("client %d: %d of %d arrived"):format(n, #(payloads[own] or {}), count))
							for i = 1, count do
								assert.equal(tostring(i), payloads[own][i])
							end
						end
					end)
				end
			end
		end
	end
end)

-- Begins a script with one client, which is connected.
local ONE = [[
local mqtt = require("mqtt")
local loop = mqtt.get_ioloop()
local function connected(opts)
	opts.clean = true
	local client = mqtt.client(opts)
	assert(client:start_connecting())
	while not client.connection.connack do
		assert(client:_sync_iteration())
	end
	return client
end
]]

local function run(script, ...)
	return child.run(ONE .. script, ...)
end

describe("a program that leaves", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	for version_name, version in pairs({ ["3.1.1"] = 4, ["5.0"] = 5 }) do
		it("lets the exchanges of QoS 2 come to the PUBREL, " .. version_name, function()
			local topic = harness.topic()
			local observer, payloads = observe(topic)
			check_end(run([[
				local client = connected({ uri = %q, version = %d })
				for i = 1, 100 do
					assert(client:publish({ topic = %q, payload = tostring(i), qos = 2 }))
				end
				os.exit(0)
			]], broker.uri, version, topic .. "/2"))
			harness.serve({ observer }, function()
				return #(payloads[topic .. "/2"] or {}) == 100
			end)
		end)
	end

	for name, way in pairs({
		["os.exit(0)"] = "os.exit(0)",
		["os.exit(0, true)"] = "os.exit(0, true)",
		["the end of the script"] = "",
		["close_connection"] = "client:close_connection() os.exit(0)",
		["collection"] = "client = nil collectgarbage() collectgarbage() os.exit(0)",
	}) do
		it("sends no DISCONNECT, so that its will is published, " .. name, function()
			local topic = harness.topic()
			local observer, payloads = observe(topic)
			check_end(run([[
				local topic = %q
				client = connected({ uri = %q, will = { topic = topic, payload = "will" } })
				assert(client:publish({ topic = topic, payload = "message" }))
				%s
			]], topic .. "/w", broker.uri, way))
			harness.serve({ observer }, function()
				return #(payloads[topic .. "/w"] or {}) == 2
			end)
			assert.same({ "message", "will" }, payloads[topic .. "/w"])
		end)
	end

	-- Runs a script that prints when it leaves. Returns how long it took to end.
	local function time_of_leaving(script, ...)
		local output, status = run(script, ...)
		local ended = socket.gettime()
		assert.equal(0, status)
		return ended - assert(tonumber(output), output)
	end

	it("is not held up where there is nothing to send #unix", function()
		local took = time_of_leaving([[
			for _, uri in ipairs({ %q, %q, %q }) do
				_G[uri] = connected({ uri = uri, secure = uri:find("^mqtts") and { cafile = %q } })
			end
			print(("%%.3f"):format(require("socket").gettime()))
			os.exit(0)
		]], broker.uri, broker.tls_uri, "unix://" .. broker.socket, broker.cafile)
		-- It would wait for two seconds for a broker that does not end its side.
		assert.is_true(took < 1.5, took)
	end)

	it("is not held up by a connection that is being opened", function()
		-- Listens, and accepts nothing; nothing has been accepted by the client either.
		local server = servers.start(4)
		local took = time_of_leaving([[
			client = mqtt.client({ uri = "mqtts" .. ("%s"):sub(5), clean = true })
			client:step()
			client:step()
			print(("%%.3f"):format(require("socket").gettime()))
			os.exit(0)
		]], server.uri)
		assert.is_true(took < 1.5, took)
	end)

	-- Serves a server while a script runs, which must end quietly. Returns how long it took from CONNECT on.
	local function serve_child(server, script, ...)
		local running = child.start(ONE .. script, ...)
		local begun
		local ok, err = pcall(harness.serve, { server.serve }, function()
			begun = begun or server.received[1] and harness.now()
			return running.has_ended()
		end)
		local output, status = running.finish()
		assert(ok, err)
		check_end(output, status)
		return harness.now() - begun
	end

	local FLOOD = tostring(require("mqtt.protocol4").make_packet({
		type = 3, topic = "flood", payload = ("x"):rep(100000), qos = 0, retain = false, dup = false,
	}))

	for name, way in pairs({
		["os.exit(0)"] = "os.exit(0)",
		["the end of the script"] = "",
		["close_connection"] = "client:close_connection()",
		["collection"] = "client = nil collectgarbage() collectgarbage()",
	}) do
		it("does not have the connection reset by what it has not read, " .. name, function()
			local server
			server = servers.start(4, function(_, packet)
				if packet.type == 1 then
					server:send({ type = 2, sp = false, rc = 0 })
					-- More than the client reads for a program that does not take it.
					server:pour(FLOOD:rep(50))
				end
			end)
			serve_child(server, [[
				client = connected({ uri = %q })
				-- What waits to be read has arrived.
				local clock = os.clock() + 0.2
				while os.clock() < clock do end
				for i = 1, 30 do
					assert(client:publish({ topic = "t", payload = ("x"):rep(50000) }))
				end
				%s
			]], server.uri, way)
			harness.serve({ server.serve }, function()
				return server.ended
			end)
			assert.equal(30, server:count(3))
		end)
	end

	for name, way in pairs({
		["os.exit(0)"] = "os.exit(0)",
		["os.exit(0, true)"] = "os.exit(0, true)",
		["the end of the script"] = "",
		["close_connection"] = "client:close_connection()",
	}) do
		it("gives up on a peer that takes nothing, " .. name, function()
			local server
			server = servers.start(4, function(_, packet)
				servers.accept(server, packet)
				server.deaf = true
			end)
			local took = serve_child(server, [[
				client = connected({ uri = %q })
				-- With another one in the loop it does not wait.
				loop:add(client)
				loop:add(mqtt.client({ uri = "mqtt://127.0.0.1:1", clean = true }))
				for i = 1, 15 do
					assert(client:publish({ topic = "t", payload = ("x"):rep(1000000) }))
				end
				%s
			]], server.uri, way)
			assert.is_true(took > 1.5 and took < 8, took)
		end)
	end

	for version_name, version in pairs({ ["3.1.1"] = 4, ["5.0"] = 5 }) do
		for name, delay in pairs({ slow = 0.5, missing = false }) do
			it(("is heard by a broker whose CONNACK is %s, %s"):format(name, version_name), function()
				local server, due
				server = servers.start(version, function(_, packet)
					if packet.type == 1 and delay then
						due = harness.now() + delay
					end
				end)
				local serve = server.serve
				server.serve = function()
					if due and harness.now() >= due then
						due = nil
						server:send({ type = 2, sp = false, rc = 0, properties = {}, user_properties = {} })
					end
					return serve()
				end
				serve_child(server, [[
					client = mqtt.client({ uri = %q, clean = true, version = %d })
					assert(client:start_connecting())
					for qos = 0, 1 do
						assert(client:publish({ topic = "t", payload = "hello", qos = qos }))
					end
					os.exit(0)
				]], server.uri, version)
				harness.serve({ server.serve }, function()
					return server.ended
				end)
				assert.equal(2, server:count(3))
				assert.equal(0, server:count(14))
			end)
		end
	end

	it("by close_connection may connect again at once, and all arrives in order", function()
		for version = 4, 5 do
			local topic = harness.topic()
			local observer, payloads = observe(topic)
			check_end(run([[
				local client = connected({ uri = %q, version = %d })
				for round = 0, 4 do
					for i = 1, 200 do
						assert(client:publish({ topic = %q, payload = tostring(round * 200 + i), qos = 1 }))
					end
					assert(client:close_connection())
					assert(client:start_connecting())
				end
				assert(client:disconnect())
			]], broker.uri, version, topic .. "/a"))
			local own = topic .. "/a"
			harness.serve({ observer }, function()
				return #(payloads[own] or {}) >= 1000
			end)
			for i = 1, 1000 do
				assert.equal(tostring(i), payloads[own][i])
			end
		end
	end)

	it("by fork and exit leaves the parent's connection alone, and its own arrives", function()
		if not child.FORK then
			return pending("this Lua has no luaposix")
		end
		local topic = harness.topic()
		local observer, payloads = observe(topic)
		check_end(run(child.FORK .. [[
			local uri, topic = %q, %q
			client = connected({ uri = uri })
			for i = 1, 100 do
				assert(client:publish({ topic = topic .. "/parent", payload = tostring(i), qos = 1 }))
			end
			for _, how in ipairs({ "own", "none" }) do
				local pid = fork()
				if pid == 0 then
					if how == "own" then
						own = connected({ uri = uri })
						assert(own:publish({ topic = topic .. "/child", payload = "child" }))
					end
					os.exit(0)
				end
				wait(pid)
			end
			os.exit(0)
		]], broker.uri, topic))
		harness.serve({ observer }, function()
			return #(payloads[topic .. "/parent"] or {}) == 100 and payloads[topic .. "/child"]
		end)
		assert.same({ "child" }, payloads[topic .. "/child"])
	end)
end)

-- A connector in Lua writes before the call returns. The broker's answers lie unread when the program ends.
describe("what was accepted by LuaSocket arrives", function()
	after_each(harness.cleanup)

	local MESSAGES = 500

	for name, way in pairs({
		["os.exit(0)"] = "os.exit(0)",
		["os.exit(0, true)"] = "os.exit(0, true)",
		["the end of the script"] = "",
		["an uncaught error"] = 'error("left", 0)',
		["close_connection"] = "client:close_connection()",
		["close_connection and os.exit"] = "client:close_connection() os.exit(0)",
		["disconnect and os.exit"] = "client:disconnect() os.exit(0)",
		["collection"] = "client = nil collectgarbage() collectgarbage()",
		["collection and os.exit"] = "client = nil collectgarbage() collectgarbage() os.exit(0)",
	}) do
		for security, target in pairs({ plain = TRANSPORTS.tcp, ["#luasec"] = TRANSPORTS.tls }) do
			it(("if the program leaves by %s, %s"):format(name, security), function()
				local topic = harness.topic()
				local observer, payloads = observe(topic)
				local cafile = target[2] or ""
				local output, status = run([[
					local topic, cafile = %q, %q
					local subscribed
					client = connected({
						uri = %q,
						secure = cafile ~= "" and { cafile = cafile } or nil,
						connector = require("mqtt.connector.luasocket"),
						will = { topic = topic .. "/will", payload = "will" },
					})
					-- What it publishes comes back, and is not read either.
					client:subscribe({ topic = topic .. "/l", callback = function()
						subscribed = true
					end })
					while not subscribed do
						assert(client:_sync_iteration())
					end
					for i = 1, %d do
						assert(client:publish({ topic = topic .. "/l", payload = tostring(i), qos = 1 }))
					end
					%s
				]], topic, cafile, target[1], MESSAGES, way)
				check_end(output, status, way:find("error") and "left")
				local is_will_due = not way:find("disconnect", 1, true)
				local ok = pcall(harness.serve, { observer }, function()
					return #(payloads[topic .. "/l"] or {}) == MESSAGES and (not is_will_due or payloads[topic .. "/will"])
				end, 4)
				assert(ok, ("%d of %d arrived, %s will"):format(#(payloads[topic .. "/l"] or {}), MESSAGES,
					payloads[topic .. "/will"] and "and the" or "and no"))
				harness.flush(observer)
				assert.equal(is_will_due, payloads[topic .. "/will"] ~= nil)
			end)
		end
	end
end)

describe("a client that connects again", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	it("waits no longer for what its last connection has to send than it may take to connect", function()
		local server = servers.start(mqtt.v311)
		local subject = harness.client({ uri = server.uri, connect_timeout = 0.2 })
		local loop = ioloop.create()
		loop:add(subject)
		-- In company a publish does not wait for room.
		loop:add(harness.client())
		loop:add(server.serve)
		while not (subject.connection and subject.connection.connack) do
			loop:iteration()
		end
		server.deaf = true
		for _ = 1, 4 do
			assert(subject:publish({ topic = "t", payload = ("x"):rep(3 * 1024 * 1024) }))
		end
		subject:close_connection()
		local begun = core.now()
		assert(subject:start_connecting())
		-- The peer, which takes nothing, is given two seconds.
		assert.is_true(core.now() - begun < 1.8)
	end)
end)

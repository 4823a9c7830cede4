-- What could go wrong with threads and sockets beneath a Lua state: exit, fork, collection, busy scripts.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

-- Begins scripts of children: `connected(opts)` makes a client and waits until it is connected.
local PRELUDE = ([[
local mqtt = require("mqtt")
mqtt.log.set(false)
local function connected(opts)
	opts.uri, opts.clean = opts.uri or %q, true
	local client = mqtt.client(opts)
	local deadline = os.time() + 30
	assert(client:start_connecting())
	while not client.connection.connack do
		assert(os.time() < deadline)
		assert(client:_sync_iteration())
	end
	return client
end
]]):format(broker.uri)

local function run_child(script, ...)
	return child.run((PRELUDE:gsub("%%", "%%%%")) .. script, ...)
end

describe("a program with a connected client", function()
	after_each(harness.cleanup)

	for name, script in pairs({
		["reaching its end"] = [[ client = connected({}) ]],
		["with os.exit"] = [[ client = connected({}) os.exit(0) ]],
		["with os.exit that closes the state"] = [[ client = connected({}) os.exit(0, true) ]],
		["inside a coroutine"] = [[
			local thread = coroutine.create(function()
				local client = connected({})
				coroutine.yield()
				client:disconnect()
			end)
			assert(coroutine.resume(thread))
			os.exit(0, true)
		]],
		["held by a coroutine"] = [[
			local client = connected({})
			holder = coroutine.wrap(function(held)
				coroutine.yield()
				held:disconnect()
			end)
			holder(client)
		]],
		["inside a handler"] = [[
			local client = mqtt.client({ uri = "]] .. broker.uri .. [[", clean = true, on = { connect = function()
				os.exit(0, true)
			end } })
			mqtt.run_ioloop(client)
		]],
		["while it connects"] = [[
			client = mqtt.client({ uri = "no-such-host.invalid", clean = true })
			client:step()
			os.exit(0, true)
		]],
		["while it waits to reconnect"] = [[
			client = connected({ reconnect = 60 })
			client:close_connection()
			assert(client:step() > 0)
			os.exit(0, true)
		]],
		["with a descriptor"] = [[ client = connected({}) assert(client:getfd()) os.exit(0, true) ]],
		["after it has unloaded the library"] = [[
			client = connected({})
			client = nil
			for name in pairs(package.loaded) do
				if name:find("^mqtt") then
					package.loaded[name] = nil
				end
			end
			collectgarbage()
			collectgarbage()
			mqtt = require("mqtt")
			connected({}):disconnect()
		]],
		["with twenty others"] = [[
			clients = {}
			for i = 1, 20 do
				clients[i] = connected({})
			end
			os.exit(0, true)
		]],
	}) do
		it("ends quietly " .. name, function()
			local output, status = run_child(script)
			assert.equal("", output)
			assert.equal(0, status)
		end)
	end

	it("ends quietly when a handler has thrown", function()
		local output, status = run_child([[
			local client = connected({})
			client:on("shutdown", function()
				error("thrown")
			end)
			client:shutdown()
		]])
		assert.matches("thrown", output)
		assert.equal(1, status)
	end)

	for name, exit in pairs({
		["os.exit"] = "os.exit(0)",
		["os.exit that closes the state"] = "os.exit(0, true)",
		["the end of the script"] = "",
	}) do
		-- A broker of 5.0 takes 20 messages at a time.
		for _, case in ipairs({ { 0, 4 }, { 1, 4 }, { 1, 5 } }) do
			local qos, version = case[1], case[2]
			it("loses nothing between publish, disconnect and " .. name .. ", QoS " .. qos .. ", version " .. version, function()
				local observer, topic = harness.connect(harness.client()), harness.topic()
				harness.subscribe(observer, { topic = topic, qos = 0 })
				local payloads = {}
				observer:on("message", function(message)
					payloads[#payloads + 1] = message.payload
				end)
				local output, status = run_child([[
					local client = connected({ version = %d })
					for i = 1, 1000 do
						assert(client:publish({ topic = %q, payload = tostring(i), qos = %d }))
					end
					assert(client:disconnect())
					%s
				]], version, topic, qos, exit)
				assert.equal("", output)
				assert.equal(0, status)
				harness.serve({ observer }, function()
					return #payloads == 1000
				end)
				for i = 1, 1000 do
					assert.equal(tostring(i), payloads[i])
				end
			end)
		end
	end

	it("ends at once when it is interrupted while it waits #unix", function()
		local before = harness.now()
		local output, status = run_child([[
			-- The shell's parent is this process; by then it waits.
			local client = connected({})
			io.popen("(sleep 0.2; kill -INT $PPID) >/dev/null 2>&1 &"):close()
			mqtt.run_ioloop(client)
		]])
		assert.matches("interrupted!", output, 1, true)
		assert.equal(1, status)
		-- Without more than the signal it would wait for much longer.
		assert.is_true(harness.now() - before < 5)
	end)

	it("loses nothing of a burst that is larger than every buffer", function()
		local observer, topic = harness.connect(harness.client()), harness.topic()
		harness.subscribe(observer, { topic = topic, qos = 0 })
		local size = 0
		observer:on("message", function(message)
			size = size + #message.payload
		end)
		local output = run_child([[
			local client = connected({})
			for i = 1, 30 do
				assert(client:publish({ topic = %q, payload = ("x"):rep(100000), qos = 1 }))
			end
			assert(client:disconnect())
			os.exit(0)
		]], topic)
		assert.equal("", output)
		harness.serve({ observer }, function()
			return size == 3000000
		end)
	end)
end)

describe("fork", function()
	local function forks(name, script)
		it(name, function()
			if child.FORK then
				local output, status = run_child(child.FORK .. script, harness.topic())
				assert.equal("done\n", output)
				assert.equal(0, status)
			else
				pending("this Lua has no luaposix")
			end
		end)
	end

	for exit_name, exit in pairs({ ["os.exit"] = "os.exit(0)", ["closing its state"] = "os.exit(0, true)" }) do
		forks("gives the child a clear error and new clients, the parent keeps its connection; the child ends by "
			.. exit_name, [[
			local topic = %q
			local client = connected({})
			client:on("close", function(conn)
				reason = conn.close_reason
			end)
			local received = {}
			client:on("message", function(message)
				received[#received + 1] = message.payload
			end)
			local subscribed
			client:subscribe({ topic = topic, callback = function()
				subscribed = true
			end })
			while not subscribed do
				assert(client:_sync_iteration())
			end
			local pid = fork()
			if pid == 0 then
				local text = "belongs to the parent process"
				local ok, err = client:publish({ topic = topic, payload = "stolen" })
				assert(not ok and err:find(text, 1, true), err)
				ok, err = client:subscribe({ topic = topic })
				assert(not ok and err:find(text, 1, true), err)
				local wait
				wait, err = client:step()
				assert(not wait and err:find(text, 1, true), err)
				assert(reason == "error", reason)
				assert(client:step() == nil)
				ok, err = client:start_connecting()
				assert(not ok and err:find(text, 1, true), err)
				local own = connected({})
				assert(own:publish({ topic = topic, payload = "from the child" }))
				assert(own:disconnect())
				]] .. exit .. [[
			end
			wait(pid)
			assert(client:publish({ topic = topic, payload = "from the parent" }))
			local deadline = os.time() + 30
			while #received < 2 do
				assert(os.time() < deadline)
				assert(client:_sync_iteration())
			end
			assert(table.concat(received, ", ") == "from the child, from the parent", table.concat(received, ", "))
			assert(reason == nil, reason)
			client:disconnect()
			print("done")
		]])
	end

	forks("leaves the children no random values in common", [[
		local topic = %q
		local core = require("mqtt.core")
		local function draw()
			local id = mqtt.client({ uri = "h", clean = true }).opts.id
			return { id, core.random_hex(4), core.random_hex(16), core.random_hex(32), core.random_hex(64) }
		end
		local seen = {}
		local function note(values)
			for _, value in ipairs(values) do
				-- Those that are short may well be the same by chance.
				assert(#value == 4 or not seen[value], value)
				seen[value] = true
			end
		end
		note(draw())
		local path = os.tmpname()
		for _ = 1, 4 do
			local pid = fork()
			if pid == 0 then
				local file = io.open(path, "w")
				file:write(table.concat(draw(), " "))
				file:close()
				os.exit(0)
			end
			wait(pid)
			local values = {}
			for value in io.open(path):read("*a"):gmatch("%%S+") do
				values[#values + 1] = value
			end
			assert(#values == 5, #values)
			note(values)
		end
		os.remove(path)
		note(draw())
		print("done")
	]])

	forks("leaves nothing of the parent's that its child could wait for", [[
		local topic = %q
		local client = connected({})
		local subscribed
		client:subscribe({ topic = topic, callback = function()
			subscribed = true
		end })
		while not subscribed do
			assert(client:_sync_iteration())
		end
		local link, methods = client._link, debug.getmetatable(client._link).__index
		for _ = 1, 100 do
			-- The caretaker is at work while this forks.
			for _ = 1, 50 do
				client:publish({ topic = topic, payload = ("x"):rep(1000) })
			end
			local start = os.clock()
			while os.clock() - start < 0.002 do -- luacheck: ignore 542
			end
			local pid = fork()
			if pid == 0 then
				for _, method in pairs(methods) do
					pcall(method, link)
					pcall(method, link, 0.1, "mqtt", "127.0.0.1", 1)
					pcall(method, link, "\208", "\0")
				end
				os.exit(0)
			end
			wait(pid)
			repeat
				local idle = client:step() == -1
			until idle
		end
		client:disconnect()
		print("done")
	]])

	forks("before the first client leaves nothing to do", [[
		local topic = %q
		local pid = fork()
		if pid == 0 then
			connected({}):disconnect()
			os.exit(0)
		end
		wait(pid)
		connected({}):disconnect()
		print("done")
	]])
end)

describe("a client that is collected", function()
	after_each(harness.cleanup)

	it("ends its connection without DISCONNECT, so that the broker publishes the will", function()
		local observer, topic = harness.connect(harness.client()), harness.topic()
		harness.subscribe(observer, topic)
		local will, reason
		observer:on("message", function(message)
			will = message.payload
		end)
		do
			local subject = mqtt.client({ uri = broker.uri, clean = true, will = { topic = topic, payload = "gone" } })
			harness.connect(subject)
			subject:on("close", function(conn)
				reason = conn.close_reason
			end)
		end
		harness.serve({ observer, function()
			collectgarbage()
			return 0.01
		end }, function()
			return will
		end)
		assert.equal("gone", will)
		assert.equal("garbage", reason)
	end)

	-- The loop over the waits has run with waits of other kinds: see docs/architecture.md on `each`.
	it("tells its callers, though a loop has been compiled for others", function()
		local output, status = child.run([[
			local mqtt = require("mqtt")
			mqtt.log.set(false)
			local function request(client, callback)
				assert(client:request({ topic = "t", callback = callback }))
				return client
			end
			local function new()
				return mqtt.client({ uri = "127.0.0.1:1", version = mqtt.v50, clean = true, queue = {}, reconnect = false })
			end
			local kept = new()
			for _ = 1, 300 do
				request(kept, function() end)
			end
			assert(not kept:start_connecting())
			request(new(), function(_, reason)
				print(reason)
			end)
			collectgarbage()
			collectgarbage()
		]])
		assert.equal("nobody holds this client any more: it has been collected\n", output)
		assert.equal(0, status)
	end)

	it("stops to connect", function()
		local server = servers.start(mqtt.v311, function() end)
		do
			local subject = mqtt.client({ uri = server.uri, clean = true })
			harness.serve({ subject, server.serve }, function()
				return server.received[1]
			end)
		end
		harness.serve({ server.serve, function()
			collectgarbage()
			return 0.01
		end }, function()
			return server.ended
		end)
		server:stop()
	end)
end)

describe("a Lua without an FFI", function()
	it("publishes all the same", function()
		local topic = harness.topic()
		assert.equal("1 true message\n", (child.run([[
			package.loaded.ffi = nil
			package.preload.ffi = function()
				error("there is none")
			end
		]] .. PRELUDE:gsub("%%", "%%%%") .. [[
			local client = connected({})
			local id, received
			client:on({
				message = function(message)
					received = message.payload
				end,
				subscribe = function()
					id = client:publish({ topic = %q, payload = "message", qos = 1 })
				end,
			})
			assert(client:subscribe({ topic = %q }))
			while not received do
				assert(client:_sync_iteration())
			end
			io.write(type(id) == "number" and 1, " ", tostring(client:publish({ topic = "t" })), " ", received, "\n")
		]], topic, topic)))
	end)
end)

-- Lua 5.1 and LuaJIT go on as they would.
if _VERSION ~= "Lua 5.1" then
	describe("the collector", function()
		it("looks for what is not needed before a large payload is stored, unless it has been stopped", function()
			assert.equal("true false\n", run_child([[
				local protocol = require("mqtt.protocol4")
				local parts = { "\48", "\131", "\128", "\64", "\0\1t" .. ("x"):rep(2 ^ 20) }
				local function collects()
					local last, part = setmetatable({ {} }, { __mode = "v" }), 0
					local packet = assert(protocol.parse_packet(function()
						part = part + 1
						return parts[part]
					end))
					assert(#packet.payload == 2 ^ 20)
					return last[1] == nil
				end
				collectgarbage()
				io.write(tostring(collects()), " ")
				collectgarbage()
				collectgarbage("stop")
				print(collects())
			]]))
		end)
	end)
end

describe("a busy script", function()
	after_each(harness.cleanup)

	-- Keeps the processor busy, and this thread away from the library.
	local function be_busy(seconds)
		local clock, deadline = os.clock, harness.now() + seconds
		repeat
			local pause = clock() + 0.05
			while clock() < pause do end -- luacheck: ignore 542
		until harness.now() >= deadline
	end

	it("keeps its connections, plain and TLS, for longer than the broker would wait", function()
		local clients = { harness.client({ keep_alive = 1 }), harness.tls_client({ keep_alive = 1 }) }
		harness.connect(clients[1], clients[2])
		local events = { harness.record(clients[1]), harness.record(clients[2]) }
		local log = broker.follow_log()
		be_busy(3)
		for i, client in ipairs(clients) do
			harness.flush(client)
			assert.same({ "acknowledge" }, harness.names(events[i]))
			assert.not_matches(client.opts.id .. " has exceeded timeout", log(), 1, true)
		end
	end)

	it("has sent within a moment what it published before", function()
		local topic = harness.topic()
		local subject = harness.connect(harness.client())
		assert(subject:publish({ topic = topic, payload = "kept", retain = true }))
		be_busy(0.1)
		-- Another process has received it before this one comes back to its client.
		local output = run_child([[
			local client = connected({ on = { message = function(message, client)
				print(message.payload)
				client:disconnect()
			end } })
			client:subscribe({ topic = %q })
			mqtt.run_ioloop(client)
		]], topic)
		assert.equal("kept\n", output)
		assert(subject:publish({ topic = topic, retain = true }))
		harness.flush(subject)
	end)

	it("receives meanwhile, in order", function()
		local subject, topic = harness.connect(harness.client()), harness.topic()
		harness.subscribe(subject, topic)
		local payloads = {}
		subject:on("message", function(message)
			payloads[#payloads + 1] = message.payload
			if #payloads == 1 then
				be_busy(0.2)
			end
		end)
		for i = 1, 500 do
			assert(subject:publish({ topic = topic, payload = tostring(i) }))
		end
		harness.serve({ subject }, function()
			return #payloads == 500
		end)
		for i = 1, 500 do
			assert.equal(tostring(i), payloads[i])
		end
	end)
end)

describe("a received length", function()
	after_each(harness.cleanup)

	it("takes no memory before its bytes have arrived", function()
		local function memory()
			local file = assert(io.open("/proc/self/status"))
			local kilobytes = tonumber(file:read("*a"):match("VmSize:%s*(%d+)"))
			file:close()
			return kilobytes
		end
		local server = servers.start(mqtt.v311)
		local subject = harness.client({ uri = server.uri })
		harness.serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		local before = memory()
		-- PUBLISH of 256 MB
		server:send_bytes("\48\255\255\255\127\0\1tbeginning")
		assert(subject:send_pingreq())
		harness.serve({ subject, server.serve }, function()
			return server:count(12) == 1
		end)
		subject:step()
		-- Not the 256 MB, though perhaps what the allocator reserves for a thread.
		assert.is_true(memory() - before < 200000)
		server:stop()
	end)
end)

describe("a slow uplink #unix", function()
	after_each(harness.cleanup)
	after_each(servers.stop_all)

	-- A server on a Unix socket, whose buffer is small: at most half a mebibyte was written and not read.
	local function unix_server()
		local unix = require("socket.unix")
		local path = os.tmpname()
		os.remove(path)
		local listener = assert((type(unix) == "table" and unix.stream or unix)())
		assert(listener:bind(path))
		assert(listener:listen())
		listener:settimeout(0)
		local server = servers.start(4, function(server, packet)
			servers.accept(server, packet)
			if packet.type == 12 then
				server:send({ type = 13 })
			end
		end)
		server.listener:close()
		server.listener = listener
		return server, "unix://" .. path, path
	end

	for _, case in ipairs({ "small", "large" }) do
		it("is no reason to miss an answer to PINGREQ: " .. case .. " messages wait before it", function()
			local server, uri, path = unix_server()
			local subject = harness.client({ uri = uri, ping_timeout = 1.6 })
			local failure
			subject:on("error", function(err)
				failure = err
			end)
			local last_read = 0
			-- 64 KiB each 100 ms, once it is connected.
			local function serve()
				if server:count(1) == 0 then
					server:poll()
				elseif harness.now() - last_read >= 0.1 then
					last_read = harness.now()
					server:poll()
				end
				return 0.002
			end
			harness.serve({ subject, serve }, function()
				return subject.connection and subject.connection.connack
			end)
			local function publish(bytes)
				local size = case == "small" and 1000 or bytes
				for _ = 1, bytes / size do
					assert(subject:publish({ topic = "t", payload = ("x"):rep(size) }))
				end
			end
			-- The buffer is full.
			publish(480000)
			harness.serve({ subject, serve }, function()
				return subject._link:outgoing_bytes() == 0
			end)
			-- Less than a mebibyte: more makes `publish` wait.
			publish(980000)
			local start = harness.now()
			assert(subject:send_pingreq())
			harness.serve({ subject, serve }, function()
				return failure or subject:stats().ping_round_trip
			end)
			os.remove(path)
			assert.is_nil(failure)
			-- The answer took longer than it may take, but not since the PINGREQ was written.
			assert.is_true(harness.now() - start > 1.6, "the link was not slow")
			assert.is_true(subject:stats().ping_round_trip < 1.6)
		end)
	end

	it("that takes nothing at all is given up", function()
		local server, uri, path = unix_server()
		local subject = harness.client({ uri = uri, ping_timeout = 0.2 })
		local failure
		subject:on("error", function(err)
			failure = err
		end)
		harness.serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		for _ = 1, 950 do
			assert(subject:publish({ topic = "t", payload = ("x"):rep(1024) }))
		end
		assert(subject:send_pingreq())
		harness.serve({ subject }, function()
			return failure
		end)
		os.remove(path)
		assert.matches("^failed to receive PINGRESP within 0%.2", failure)
	end)
end)

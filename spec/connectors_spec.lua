-- The connectors that come with the library, against a broker, and what they promise to those who derive from them.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local copas_loader = require("spec.support.copas")
local listen = require("spec.support.listen")

local core = require("mqtt.core")
local mqtt = require("mqtt")

local TIME_LIMIT = 20
local PINGREQ = "\192\0"

local topic_count = 0

-- A topic that no other test uses.
local function new_topic()
	topic_count = topic_count + 1
	return ("connectors/%s/%d"):format(core.random_hex(8), topic_count)
end

-- A class derived from a connector.
local function derive(super, fields)
	fields = fields or {}
	fields.__index = fields
	return setmetatable(fields, super)
end

-- A connector class that counts the PINGREQ packets sent.
local function counting_pings(super)
	local class = derive(super, { pings = 0 })
	function class:send(data)
		if data == PINGREQ then
			class.pings = class.pings + 1
		end
		return super.send(self, data)
	end
	return class
end

-- Fails when something takes too long.
local function wait_for(what, step)
	local deadline = core.now() + TIME_LIMIT
	while not what() do
		assert(core.now() < deadline, "it did not happen in time")
		step()
	end
end

-- `load` returns the connector class, and functions that add a client to the loop, run a round of the loop, and call a
-- function from within the loop; or nil and why this Lua has no such loop.
local loops = {
	{
		name = "LuaSocket in the ioloop",
		has_tls = true,
		has_keep_alive = true,
		load = function()
			local found, connector = pcall(require, "mqtt.connector.luasocket")
			if not found then
				return nil, "no LuaSocket for this Lua: " .. connector:match("[^\n]*")
			end
			local loop = require("mqtt.ioloop").create()
			return connector, function(client)
				return loop:add(client)
			end, function()
				loop:iteration()
			end, function(func)
				func()
			end
		end,
	},
}

for version = 4, 1, -3 do
	table.insert(loops, {
		name = "Copas " .. version,
		-- Copas 1.x has neither TLS nor timers.
		has_tls = version == 4,
		has_keep_alive = version == 4,
		load = function()
			local copas, err = copas_loader.load(version)
			package.loaded["mqtt.connector.copas"], package.loaded["mqtt.loop.copas"] = nil, nil
			if not copas then
				return nil, err
			end
			return require("mqtt.connector.copas"), require("mqtt.loop.copas").add, function()
				copas.step(0.1)
			end, copas.addthread
		end,
	})
end

local function unload()
	copas_loader.unload()
	package.loaded["mqtt.connector.copas"], package.loaded["mqtt.loop.copas"] = nil, nil
end

for _, loop in ipairs(loops) do
	describe("the connector for " .. loop.name, function()
		local present, reason = loop.load()
		unload()
		if not present then
			pending(reason)
			return
		end

		local connector, add, step, call

		setup(function()
			connector, add, step, call = loop.load()
		end)

		teardown(unload)

		-- A client that notes in `client.log` how its connections ended, and errors.
		local function new_client(opts)
			local options = { uri = broker.uri, clean = true, connector = connector }
			for key, value in pairs(opts or {}) do
				options[key] = value
			end
			local client = mqtt.client(options)
			client.log = {}
			client:on {
				error = function(message)
					table.insert(client.log, "error: " .. message)
				end,
				close = function(connection)
					table.insert(client.log, connection.close_reason)
				end,
			}
			return client
		end

		-- Waits until a client has ended. Returns its log.
		local function wait_for_end(client)
			wait_for(function()
				return not (client.connection or client.first_connect or client.opts.reconnect)
			end, step)
			return client.log
		end

		local function run(client)
			assert(add(client))
			return wait_for_end(client)
		end

		-- Runs a client that sends a message of each QoS to itself. Returns the payloads received by QoS, and its log.
		local function round_trip(opts)
			local client = new_client(opts)
			local topic, received, acknowledged = new_topic(), {}, 0
			local function finish()
				if received[0] and received[1] and received[2] and acknowledged == 3 then
					client:shutdown()
				end
			end
			local function count()
				acknowledged = acknowledged + 1
				finish()
			end
			client:on {
				connect = function()
					client:subscribe { topic = topic, qos = 2, callback = function()
						for qos = 0, 2 do
							client:publish { topic = topic, payload = "payload " .. qos, qos = qos, callback = count }
						end
					end }
				end,
				message = function(message)
					client:acknowledge(message)
					received[message.qos] = message.payload
					finish()
				end,
			}
			return received, run(client)
		end

		local secure = { cafile = broker.cafile }

		for _, version in ipairs { mqtt.v311, mqtt.v50 } do
			local in_version = " (version " .. version .. ")"

			it("carries messages of each QoS there and back" .. in_version, function()
				local received, log = round_trip { version = version }
				assert.same({ [0] = "payload 0", "payload 1", "payload 2" }, received)
				assert.same({ "connection closed by client" }, log)
			end)

			if loop.has_tls then
				it("carries messages of each QoS there and back by TLS #luasec" .. in_version, function()
					local received, log = round_trip { version = version, uri = broker.tls_uri, secure = secure }
					assert.same({ [0] = "payload 0", "payload 1", "payload 2" }, received)
					assert.same({ "connection closed by client" }, log)
				end)
			end

			it("cuts nothing off a large batch" .. in_version, function()
				local count, payload = 2000, ("x"):rep(1024)
				local client, acknowledged = new_client { version = version }, 0
				client:on("connect", function()
					for _ = 1, count do
						client:publish { topic = "connectors/batch", payload = payload, qos = 1, callback = function()
							acknowledged = acknowledged + 1
							if acknowledged == count then
								client:shutdown()
							end
						end }
					end
				end)
				assert.same({ "connection closed by client" }, run(client))
				assert.equal(count, acknowledged)
			end)
		end

		it("carries a message larger than any buffer on the way", function()
			local client, topic, received = new_client(), new_topic(), nil
			local payload = ("0123456789abcdef"):rep(2 ^ 18)
			client:on {
				connect = function()
					client:subscribe { topic = topic }
					client:publish { topic = topic, payload = payload }
				end,
				message = function(message)
					received = message.payload
					client:shutdown()
				end,
			}
			run(client)
			assert.is_true(received == payload)
		end)

		if loop.has_keep_alive then
			it("keeps the connection alive", function()
				local pings = counting_pings(connector)
				local client = new_client { keep_alive = 1, connector = pings }
				assert(add(client))
				wait_for(function()
					-- The second one is sent only if the first one was answered.
					return pings.pings >= 2
				end, step)
				call(function()
					client:shutdown()
				end)
				assert.same({ "connection closed by client" }, wait_for_end(client))
			end)
		end

		it("reconnects", function()
			local client, connected = new_client { reconnect = 0.01 }, 0
			client:on("connect", function()
				connected = connected + 1
				if connected < 3 then
					client:close_connection("round " .. connected)
				else
					client:shutdown()
				end
			end)
			assert.same({ "round 1", "round 2", "connection closed by client" }, run(client))
		end)

		it("sees that the broker closes the connection", function()
			-- The broker lets an identifier be used once.
			local id = "connectors-" .. core.random_hex(8)
			local first, second = new_client { id = id }, new_client { id = id }
			first:on("connect", function()
				assert(add(second))
			end)
			assert.same({ "error: connection closed by broker", "connection closed by broker" }, run(first))
			call(function()
				second:shutdown()
			end)
			wait_for_end(second)
		end)

		-- On Windows, Copas is not told that a connection is refused.
		local tag = loop.name:find("Copas") and " #unix" or ""
		it("says why there is no connection" .. tag, function()
			local server = listen()
			local _, port = server:getsockname()
			server:close()
			local log = run(new_client { uri = "127.0.0.1:" .. port })
			assert.same({
				("error: failed to open network connection: connection to '127.0.0.1:%d' failed: connection refused"):format(port),
			}, log)

			log = run(new_client { uri = "no-such-host.invalid" })
			assert.equal(1, #log)
			assert.matches("^error: failed to open network connection: connection to 'no%-such%-host.invalid:1883' failed: %a",
				log[1])
		end)

		it("can be derived from, to see the bytes that arrive", function()
			local counting = derive(connector, { received = 0 })
			function counting:plain_receive(size)
				local data, err = connector.plain_receive(self, size)
				counting.received = counting.received + #(data or "")
				return data, err
			end
			local client = new_client { connector = counting }
			client:on("connect", function()
				client:shutdown()
			end)
			assert.same({ "connection closed by client" }, run(client))
			-- CONNACK
			assert.equal(4, counting.received)
		end)

		it("can be derived from, to receive byte by byte", function()
			local slow = derive(connector)
			function slow:plain_receive()
				return connector.plain_receive(self, 1)
			end
			local received, log = round_trip { connector = slow }
			assert.same({ [0] = "payload 0", "payload 1", "payload 2" }, received)
			assert.same({ "connection closed by client" }, log)
		end)

		if not loop.has_tls then
			it("says that it has no TLS", function()
				assert.error_matches(function()
					new_client { uri = broker.tls_uri, secure = secure }
				end, "TLS needs a newer Copas than Copas 1")
			end)
			return
		end

		local REFUSED = "error: failed to open network connection: TLS handshake with '%s:%d' failed: "
			.. "verification of the server's certificate failed"

		it("verifies the server's certificate #luasec", function()
			-- The system's roots do not have the test CA.
			local log = run(new_client { uri = broker.tls_uri })
			assert.same({ REFUSED:format("localhost", broker.tls_port) }, log)
			log = run(new_client { uri = "mqtts://localhost:" .. broker.expired_port, secure = secure })
			assert.same({ REFUSED:format("localhost", broker.expired_port) }, log)
		end)

		it("verifies the server's name #luasec", function()
			local uri = "mqtts://localhost:" .. broker.wrong_name_port
			assert.same({
				REFUSED:format("localhost", broker.wrong_name_port)
					.. ": it is not valid for name 'localhost', only for other.example",
			}, run(new_client { uri = uri, secure = secure }))

			for _, settings in ipairs {
				{ cafile = broker.cafile, server_name = "other.example" },
				{ cafile = broker.cafile, server_name = "Other.Example" },
				{ verify = "none" },
				{ verify = { "none", "none" } },
			} do
				local _, log = round_trip { uri = uri, secure = settings }
				assert.same({ "connection closed by client" }, log)
			end
		end)

		it("verifies unless verify is 'none' and nothing else #luasec", function()
			for _, verify in ipairs { { "peer", "none" }, { "none", "peer" }, {} } do
				assert.same({ REFUSED:format("localhost", broker.tls_port) },
					run(new_client { uri = broker.tls_uri, secure = { verify = verify } }))
				assert.same({
					REFUSED:format("localhost", broker.wrong_name_port)
						.. ": it is not valid for name 'localhost', only for other.example",
				}, run(new_client {
					uri = "mqtts://localhost:" .. broker.wrong_name_port,
					secure = { verify = verify, cafile = broker.cafile },
				}))
			end
		end)

		it("verifies addresses #luasec", function()
			local _, log = round_trip { uri = "mqtts://127.0.0.1:" .. broker.tls_port, secure = secure }
			assert.same({ "connection closed by client" }, log)
			assert.same({
				REFUSED:format("127.0.0.1", broker.wrong_name_port)
					.. ": it is not valid for name '127.0.0.1', its subjectAltName has no such address",
			}, run(new_client { uri = "mqtts://127.0.0.1:" .. broker.wrong_name_port, secure = secure }))
		end)

		it("shows the client's certificate #luasec", function()
			local _, log = round_trip {
				uri = "mqtts://localhost:" .. broker.mutual_port,
				secure = { capath = broker.capath, certificate = broker.certificate, key = broker.key_pkcs8 },
			}
			assert.same({ "connection closed by client" }, log)
		end)

		it("leaves the program's settings as they are #luasec", function()
			local settings = { cafile = broker.cafile }
			new_client { uri = broker.tls_uri, secure = settings }
			assert.same({ cafile = broker.cafile }, settings)
		end)

		it("refuses settings that are of no use when the client is created #luasec", function()
			for _, case in ipairs {
				{ { mode = "server" }, 'expecting mode to be "client", got: server' },
				{ { protocol = "tls" }, "secure: invalid protocol" },
				{ { cafile = broker.cafile .. ".missing" }, "secure: error loading CA locations" },
			} do
				assert.error_matches(function()
					new_client { uri = broker.tls_uri, secure = case[1] }
				end, case[2])
			end
			assert.error_matches(function()
				new_client { uri = broker.tls_uri, secure = secure, ssl_module = "no_such_module" }
			end, "ssl_module.*no_such_module")
		end)
	end)
end

describe("Copas threads with the connector", function()
	local copas, reason = copas_loader.load(4)
	unload()
	if not copas then
		pending(reason)
		return
	end

	local connector

	setup(function()
		copas = copas_loader.load(4)
		connector = require("mqtt.connector.copas")
	end)

	teardown(unload)

	-- Calls functions, each in a thread, until all have returned.
	local function run(...)
		local running, failure = select("#", ...), nil
		for _, func in ipairs { ... } do
			copas.addthread(function()
				copas.setErrorHandler(function(message)
					failure = failure or message
				end)
				func()
				running = running - 1
			end)
		end
		wait_for(function()
			assert(not failure, failure)
			return running == 0
		end, function()
			copas.step(0.1)
		end)
	end

	it("may send at the same time, and one of them disconnect", function()
		local threads, payload = 8, ("x"):rep(2 ^ 20)
		local topic, received, whole = new_topic(), 0, true
		local subscriber = mqtt.client { uri = broker.uri, clean = true, connector = connector }
		local sender = mqtt.client { uri = broker.uri, clean = true, connector = connector }
		subscriber:on {
			connect = function()
				subscriber:subscribe { topic = topic, callback = function()
					require("mqtt.loop.copas").add(sender)
				end }
			end,
			message = function(message)
				received = received + 1
				whole = whole and message.payload == payload
			end,
		}
		local close_reason
		sender:on {
			connect = function()
				for _ = 1, threads do
					copas.addthread(function()
						sender:publish { topic = topic, payload = payload }
					end)
				end
				copas.addthread(function()
					sender:shutdown()
				end)
			end,
			close = function(connection)
				close_reason = connection.close_reason
			end,
		}
		run(function()
			require("mqtt.loop.copas").add(subscriber)
			while received < threads do
				copas.pause(0.01)
			end
			subscriber:shutdown()
		end)
		assert.is_true(whole)
		assert.equal("connection closed by client", close_reason)
	end)

	it("may give up an attempt to connect #luasec", function()
		-- Takes connections, but never answers the handshake.
		local server = listen()
		local _, port = server:getsockname()
		local client = mqtt.client { uri = "mqtts://127.0.0.1:" .. port, clean = true, connector = connector,
			secure = { cafile = broker.cafile } }
		local errors, ok, err = {}, nil, nil
		client:on("error", function(message)
			table.insert(errors, message)
		end)
		run(function()
			ok, err = client:start_connecting()
		end, function()
			local peer = copas.wrap(assert(server:accept()))
			-- The handshake has begun.
			peer:receive(1)
			client:shutdown()
			peer:close()
		end)
		server:close()
		assert.is_false(ok)
		assert.equal("connection attempt was given up", err)
		assert.is_nil(client.connection)
		assert.same({}, errors)
	end)

	it("send by the connector where the library can have no descriptor of its own #unix", function()
		local output = child.run_short_of_descriptors([[
			local copas = require("spec.support.copas").load(4)
			local core, mqtt = require("mqtt.core"), require("mqtt")
			local super = require("mqtt.connector.copas")
			local files, connector = {}, setmetatable({ super = super }, super)
			connector.__index = connector
			function connector:connect()
				local ok, err = super.connect(self)
				repeat
					local file = io.open("/dev/null")
					files[#files + 1] = file
				until not file
				return ok, err
			end
			local client = mqtt.client({ uri = %q, clean = true, connector = connector })
			local acknowledged = false
			client:on("connect", function()
				for _, file in ipairs(files) do
					file:close()
				end
				copas.addthread(function()
					copas.sleep(0.05) -- the client waits for the network
					assert(client:publish({ topic = "t", qos = 1, callback = function() acknowledged = true end }))
				end)
			end)
			assert(require("mqtt.loop").add(client))
			local deadline = core.now() + 10
			repeat
				copas.step(0.1)
			until acknowledged or core.now() > deadline
			print(acknowledged)
			copas.addthread(client.disconnect, client)
			copas()
		]], broker.uri)
		assert.equal("true\n", output)
	end)

	it("may run a client synchronously", function()
		local pings = counting_pings(connector)
		local client = mqtt.client { uri = broker.uri, clean = true, connector = pings, keep_alive = 1 }
		local result
		run(function()
			result = { mqtt.run_sync(client) }
		end, function()
			while pings.pings < 2 do
				copas.pause(0.05)
			end
			client:shutdown()
		end)
		assert.is_nil(client.connection)
		assert.equal(2, pings.pings)
		assert.is_table(result)
	end)
end)

describe("run_sync", function()
	local found, connector = pcall(require, "mqtt.connector.luasocket")
	if not found then
		pending("no LuaSocket for this Lua")
		return
	end

	it("serves a client whose connector does not wait", function()
		local pings = counting_pings(connector)
		local client = mqtt.client { uri = broker.uri, clean = true, connector = pings, keep_alive = 1 }
		local step, deadline = client.step, core.now() + TIME_LIMIT
		function client:step()
			assert(core.now() < deadline, "it did not happen in time")
			if pings.pings == 2 then
				self:disconnect()
			end
			return step(self)
		end
		local _, err = mqtt.run_sync(client)
		assert.equal("network connection is not opened", err)
	end)
end)

describe("the LuaSocket connector", function()
	local found, connector = pcall(require, "mqtt.connector.luasocket")
	if not found then
		pending("no LuaSocket for this Lua")
		return
	end

	-- A connection whose socket takes `counts[i]` bytes in its i-th send, and then says `err`.
	local function connection(counts, err)
		local conn = setmetatable({ sent = "" }, connector)
		conn.sock = {
			settimeout = function() end,
			send = function(_, data, first)
				local count = table.remove(counts, 1)
				local last = math.min(first + count - 1, #data)
				conn.sent = conn.sent .. data:sub(first, last)
				if last == #data then
					return last
				end
				return nil, err, last
			end,
		}
		return conn
	end

	it("sends the rest of what was taken in part", function()
		for _, err in ipairs { "timeout", "wantread", "wantwrite" } do
			local conn = connection({ 3, 1, 4, 2 }, err)
			assert.is_true(conn:send("0123456789"))
			assert.equal("0123456789", conn.sent)
		end
	end)

	it("gives up when nothing more is taken", function()
		local conn = connection({ 3, 0 }, "timeout")
		assert.same({ false, "timeout" }, { conn:send("0123456789") })
		assert.equal("012", conn.sent)
	end)

	it("gives up when the connection is closed", function()
		local conn = connection({ 3 }, "closed")
		assert.same({ false, "closed" }, { conn:send("0123456789") })
	end)
end)

describe("the buffered base class", function()
	local base = require("mqtt.connector.base.buffered_base")

	-- A class that receives the given chunks; false is nothing.
	local function class(chunks)
		return derive(base, {
			asked = {},
			plain_receive = function(self, size)
				table.insert(self.asked, size)
				local chunk = table.remove(chunks, 1)
				if not chunk then
					return nil, chunk == false and self.signal_idle or self.signal_closed
				end
				return chunk
			end,
			connect = function()
				return true
			end,
			shutdown = function() end,
			send = function()
				return true
			end,
		})
	end

	it("returns the bytes of a packet again until it is complete", function()
		local conn = setmetatable({}, class { "a", false, "b", "cd", false, "ef", false })
		assert.equal("a", conn:receive(1))
		assert.same({ nil, base.signal_idle }, { conn:receive(3) })
		assert.equal("a", conn:receive(1))
		assert.same({ nil, base.signal_idle }, { conn:receive(4) })
		assert.equal("a", conn:receive(1))
		assert.equal("bcde", conn:receive(4))
		conn:buffer_clear()
		assert.equal("f", conn:receive(1))
		assert.same({ nil, base.signal_idle }, { conn:receive(1) })
		assert.equal("f", conn:receive(1))
		conn:buffer_clear()
		assert.same({ nil, base.signal_closed }, { conn:receive(1) })
	end)

	it("asks for no more than it needs", function()
		local conn = setmetatable({}, class { "a", "b", "cd" })
		conn:receive(1)
		conn:receive(3)
		assert.same({ 1, 3, 2 }, conn.asked)
	end)

	it("asks for more where that is wanted", function()
		local conn = setmetatable({ read_ahead = 10 }, class { "abc", "d" })
		assert.equal("a", conn:receive(1))
		assert.equal("bcd", conn:receive(3))
		assert.same({ 10, 10 }, conn.asked)
	end)

	it("lets a client receive byte by byte", function()
		local payload = ("p"):rep(200)
		local bytes = "\32\2\0\0" .. "\48\204\1\0\2ab" .. payload
		local chunks = {}
		for i = 1, #bytes do
			table.insert(chunks, bytes:sub(i, i))
			table.insert(chunks, false)
		end
		local client, idle, received = mqtt.client { uri = "localhost", clean = true, connector = class(chunks) }, 0, nil
		client:on("message", function(message)
			received = message
		end)
		assert.equal(0, client:step())
		local wait
		repeat
			wait = client:step()
			if wait == -1 then
				idle = idle + 1
			end
		until not wait
		assert.equal(#bytes, idle)
		assert.equal("ab", received.topic)
		assert.equal(payload, received.payload)
	end)

	it("hands over packets one by one that arrive at once", function()
		local message = "\48\3\0\1a"
		local client = mqtt.client { uri = "localhost", clean = true,
			connector = derive(class { "\32\2\0\0" .. message .. message, false }, { read_ahead = 100 }) }
		local received = 0
		client:on("message", function()
			received = received + 1
		end)
		local results = {}
		for i = 1, 5 do
			results[i] = client:step()
		end
		assert.same({ 0, 0, 0, 0, -1 }, results)
		assert.equal(2, received)
	end)

	it("lets a client tell how the connection ended", function()
		local connack = "\32\3\0\0\0"
		for bytes, expected in pairs {
			[""] = "connection closed by broker",
			["\224\0"] = "disconnect received from broker",
			-- SUBACK without a body
			["\144\0"] = "error",
		} do
			local chunks = { connack, bytes ~= "" and bytes or nil }
			local client = mqtt.client { uri = "localhost", clean = true, version = mqtt.v50,
				connector = derive(class(chunks), { read_ahead = 100 }) }
			local close_reason
			client:on("close", function(connection)
				close_reason = connection.close_reason
			end)
			while client:step() do -- luacheck: ignore 542
				-- until it has ended
			end
			assert.equal(expected, close_reason)
		end
	end)

	it("says which method is missing", function()
		local conn = setmetatable({}, derive(base))
		for _, method in ipairs { "connect", "shutdown", "send", "plain_receive" } do
			assert.error_matches(function()
				conn[method](conn)
			end, "method '" .. method .. "' of the connector is not implemented")
		end
	end)
end)

describe("connector classes", function()
	it("are documented in their fields", function()
		local non_buffered = require("mqtt.connector.base.non_buffered_base")
		local buffered = require("mqtt.connector.base.buffered_base")
		assert.equal(30, non_buffered.timeout)
		assert.equal(30, buffered.timeout)
		assert.equal(non_buffered, buffered.super)
		assert.equal(non_buffered.signal_idle, buffered.signal_idle)
		assert.not_equal(buffered.signal_idle, buffered.signal_closed)
		assert.error_matches(function()
			non_buffered:receive(1)
		end, "method 'receive' of the connector is not implemented")
	end)

	it("are loaded only by those who ask for them", function()
		local loaded = {}
		for name, module in pairs(package.loaded) do
			if name == "mqtt" or name:find("^mqtt%.") and name ~= "mqtt.core" or name == "socket" or name == "copas" then
				loaded[name] = module
			end
		end
		for name in pairs(loaded) do
			package.loaded[name] = nil
		end
		require("mqtt")
		local connector = require("mqtt.connector")
		local socket, copas = package.loaded.socket, package.loaded.copas
		for name, module in pairs(loaded) do
			package.loaded[name] = module
		end
		assert.is_nil(socket)
		assert.is_nil(copas)
		assert.equal("native", connector.type)
		assert.error_matches(function()
			connector:connect()
		end, "the native connection has no 'connect'")
	end)
end)

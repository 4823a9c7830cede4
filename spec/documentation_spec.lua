-- The documentation of the client class, line by line and in its order: each option, argument, event, return value and
-- example has a test named for it. What goes deeper is in the other specs.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local copas_loader = require("spec.support.copas")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local protocol = require("mqtt.protocol")
local servers = require("spec.support.server")

local Client = require("mqtt.client")

local packet_type = protocol.packet_type
local unpack = table.unpack or unpack -- luacheck: ignore 143
local client, connect, record, serve, subscribe = harness.client, harness.connect, harness.record, harness.serve,
	harness.subscribe

local VERSIONS = { { mqtt.v311, "MQTT 3.1.1" }, { mqtt.v50, "MQTT 5.0" } }

local NOT_OPENED = "^network connection is not opened$"

-- The lines of the documentation --------------------------------------------------------------------------------------

-- The lines that have a test, by method, in the order of their tests.
local tested = {}
-- The tests of the method that is being described: name, function, version.
local tests

-- Describes a method: `body` gives its lines.
local function method(name, body)
	tests = {}
	body()
	local own, lines = tests, {}
	for _, test in ipairs(own) do
		if lines[#lines] ~= test.line then
			lines[#lines + 1] = test.line
		end
	end
	tested[#tested + 1] = { name, lines }
	describe(name, function()
		after_each(function()
			harness.cleanup()
			servers.stop_all()
		end)
		for _, test in ipairs(own) do
			it(test.name, function()
				test.func(test.version)
			end)
		end
	end)
end

-- A test of a line that has nothing to do with the protocol version.
local function line_once(line, what, func)
	tests[#tests + 1] = { line = line, name = line .. ": " .. what, func = func }
end

-- A test of a line, with each protocol version or one of them, which the function gets.
local function line(name, what, func, only)
	for _, version in ipairs(VERSIONS) do
		if version[1] == (only or version[1]) then
			tests[#tests + 1] = {
				line = name,
				name = ("%s: %s, %s"):format(name, what, version[2]),
				func = func,
				version = version[1],
			}
		end
	end
end

-- What the tests share ------------------------------------------------------------------------------------------------

-- Checks that a method has returned these values, and no more.
local function returned(expected, ...)
	assert.equal(#expected, select("#", ...))
	assert.same(expected, { ... })
end

-- Checks that a method has returned false and an error message, and no more.
local function refused(text, ...)
	assert.equal(2, select("#", ...))
	local ok, err = ...
	assert.is_false(ok)
	assert.matches(text, err)
end

-- What a broker answers that takes everything.
local ANSWERS = {
	[packet_type.CONNECT] = function()
		return { type = packet_type.CONNACK, sp = false, rc = 0 }
	end,
	[packet_type.SUBSCRIBE] = function(packet)
		return { type = packet_type.SUBACK, packet_id = packet.packet_id, rc = { packet.subscriptions[1].qos } }
	end,
	[packet_type.UNSUBSCRIBE] = function(packet, version)
		return { type = packet_type.UNSUBACK, packet_id = packet.packet_id, rc = version == mqtt.v50 and { 0 } or nil }
	end,
	[packet_type.PUBLISH] = function(packet)
		if packet.qos > 0 then
			local ack = packet.qos == 1 and packet_type.PUBACK or packet_type.PUBREC
			return { type = ack, packet_id = packet.packet_id, rc = 0 }
		end
	end,
	[packet_type.PUBREL] = function(packet)
		return { type = packet_type.PUBCOMP, packet_id = packet.packet_id, rc = 0 }
	end,
	[packet_type.PINGREQ] = function()
		return { type = packet_type.PINGRESP }
	end,
}

-- Starts a server that answers packets, but those of the types in `silent`.
local function start_server(version, silent)
	return servers.start(version, function(server, packet)
		local answer = ANSWERS[packet.type]
		local reply = answer and not (silent and silent[packet.type]) and answer(packet, version)
		if reply then
			server:send(reply)
		end
	end)
end

-- Serves a client and its server until the client is connected.
local function connect_to(server, subject)
	serve({ subject, server.serve }, function()
		return subject.connection and subject.connection.connack
	end)
end

-- Returns a client and the server that it is connected to.
local function connected(version, opts, silent)
	local server = start_server(version, silent)
	local own = { uri = server.uri, version = version }
	for key, value in pairs(opts or {}) do
		own[key] = value
	end
	local subject = client(own)
	connect_to(server, subject)
	return subject, server
end

-- Serves a client and its server until a packet has arrived, the nth one of its type. Returns it.
local function arrival(server, subject, wanted, nth)
	local found
	serve({ subject, server.serve }, function()
		local left = nth or 1
		for _, packet in ipairs(server.received) do
			if packet.type == wanted then
				left = left - 1
				if left == 0 then
					found = packet
					return true
				end
			end
		end
	end)
	return found
end

-- Has a server send messages, and serves the client until it has got them. Returns them.
local function delivered(server, subject, ...)
	local events, count = record(subject, { "message" }), select("#", ...)
	for i, qos in ipairs({ ... }) do
		server:send({ type = packet_type.PUBLISH, topic = "t", payload = "p" .. i, qos = qos,
			packet_id = qos > 0 and 100 + i or nil, dup = false, retain = false })
	end
	serve({ subject, server.serve }, function()
		return #events == count
	end)
	local messages = {}
	for i, event in ipairs(events) do
		messages[i] = event[2]
	end
	return unpack(messages)
end

-- Serves a client until it has got so many messages. Returns their payloads, and the last message.
local function payloads(events, count, ...)
	serve({ ... }, function()
		return #events >= count
	end)
	local result = {}
	for i, event in ipairs(events) do
		result[i] = event[2].payload
	end
	return result, events[count][2]
end

-- Serves a client until the broker has answered its CONNECT. Returns the CONNACK.
local function connack_of(subject)
	local events = record(subject, { "connect" })
	serve({ subject }, function()
		return events[1]
	end)
	return events[1][2]
end

-- Returns the connection table with which a client asks its connector to connect.
local function destination(opts)
	local conn
	local connector = { signal_idle = "idle", signal_closed = "closed" }
	connector.__index = connector
	for _, name in ipairs({ "validate", "shutdown", "send", "receive", "buffer_clear" }) do
		connector[name] = function() end
	end
	function connector:connect()
		conn = self
		return false, "it was only asked"
	end
	opts.connector = connector
	refused("it was only asked$", client(opts):start_connecting())
	return conn
end

-- Returns a port that nobody listens at, as a uri.
local function nobody()
	local server = servers.start(mqtt.v311)
	server:stop()
	return server.uri
end

-- The document --------------------------------------------------------------------------------------------------------

method("Client:__init", function()
	line("opts.uri", "holds scheme, username, password, host and port", function(version)
		local server = start_server(version)
		local subject = client({ version = version, uri = "mqtt://user:secret@127.0.0.1:" .. server.port })
		local packet = arrival(server, subject, packet_type.CONNECT)
		assert.equal("user", packet.username)
		assert.equal("secret", packet.password)
		assert.equal("127.0.0.1", subject.connection.host)
		assert.equal(tonumber(server.port), subject.connection.port)
		assert.is_false(subject.connection.secure)
	end)

	line("opts.uri", "with the scheme mqtts means TLS", function(version)
		local subject = connect(client({
			version = version,
			uri = "mqtts://localhost:" .. broker.tls_port,
			secure = { cafile = broker.cafile },
		}))
		assert.is_true(subject.connection.secure)
	end)

	line_once("opts.uri", "needs no more than the host", function()
		local conn = destination({ uri = "broker.example" })
		assert.equal("broker.example", conn.host)
		assert.equal(1883, conn.port)
		assert.is_false(conn.secure)
		harness.blames_caller('expecting uri="..." to create MQTT client', mqtt.client, { clean = true })
	end)

	line("opts.uri", "gives way to the options", function(version)
		local server = start_server(version)
		local subject = client({
			version = version,
			uri = "mqtt://one:first@no-such-host.invalid:1",
			protocol = "mqtt",
			username = "two",
			password = "second",
			host = "127.0.0.1",
			port = tonumber(server.port),
		})
		local packet = arrival(server, subject, packet_type.CONNECT)
		assert.equal("two", packet.username)
		assert.equal("second", packet.password)
	end)

	for _, case in ipairs({ { true, true, true }, { false, false, false }, { "first", true, false } }) do
		local clean, first, second = unpack(case)
		line("opts.clean", ("%s is %s in the first CONNECT, %s in the second"):format(tostring(clean), tostring(first),
			tostring(second)), function(version)
			local subject, server = connected(version, { clean = clean, reconnect = 0.01 })
			server:drop()
			assert.equal(first, arrival(server, subject, packet_type.CONNECT).clean)
			assert.equal(second, arrival(server, subject, packet_type.CONNECT, 2).clean)
		end)
	end

	line("opts.clean", "'first' finds its own session again", function(version)
		local subject = client({
			version = version,
			clean = "first",
			reconnect = 0.01,
			properties = version == mqtt.v50 and { session_expiry_interval = 60 } or nil,
		})
		assert.is_false(connack_of(subject).sp)
		subject:disconnect()
		-- In MQTT 3.1.1 a session that was begun clean ends with its connection.
		assert.equal(version == mqtt.v50, connack_of(subject).sp)
		subject:disconnect()
		assert.is_true(connack_of(subject).sp)
		-- leaves nothing behind
		subject.opts.clean, subject.opts.properties = true, nil
		subject:disconnect()
		connect(subject)
	end)

	line("opts.protocol", '"mqtt" connects plainly, "mqtts" by TLS', function(version)
		local plain = client({ version = version, uri = "127.0.0.1:" .. broker.port, protocol = "mqtt" })
		local secure = client({
			version = version,
			uri = "localhost:" .. broker.tls_port,
			protocol = "mqtts",
			secure = { cafile = broker.cafile },
		})
		connect(plain, secure)
		assert.is_false(plain.connection.secure)
		assert.is_true(secure.connection.secure)
	end)

	line_once("opts.protocol", "is one of these two, among those that uri may name", function()
		assert.matches("'mqtt', 'mqtts'.*got 'http'", harness.failure(client, { uri = "host", protocol = "http" }))
	end)

	line("opts.username", "arrives in CONNECT, without a password if there is none", function(version)
		local _, server = connected(version, { username = "somebody" })
		assert.equal("somebody", server.received[1].username)
		assert.is_nil(server.received[1].password)
		connected(version)
	end)

	line("opts.username", "lets a broker that asks for it accept the client", function(version)
		local uri = "127.0.0.1:" .. broker.password_port
		assert.equal(0, connack_of(client({
			version = version,
			uri = uri,
			username = broker.username,
			password = broker.password,
		})).rc)
		assert.not_equal(0, connack_of(client({ version = version, uri = uri })).rc)
	end)

	line("opts.password", "arrives in CONNECT, and a wrong one is refused", function(version)
		local _, server = connected(version, { username = "somebody", password = "s e\0cret" })
		assert.equal("s e\0cret", server.received[1].password)
		assert.not_equal(0, connack_of(client({
			version = version,
			uri = "127.0.0.1:" .. broker.password_port,
			username = broker.username,
			password = "wrong",
		})).rc)
	end)

	line("opts.password", "is not acceptable without a username", function()
		harness.blames_caller("password is not accepted in absence of username", mqtt.client,
			{ uri = broker.uri, clean = true, password = "secret" })
	end, mqtt.v311)

	line("opts.password", "may stand alone, as the standard allows by now", function(version)
		local _, server = connected(version, { password = "secret" })
		assert.is_nil(server.received[1].username)
		assert.equal("secret", server.received[1].password)
	end, mqtt.v50)

	line("opts.host", "is where the client connects to", function(version)
		local server = start_server(version)
		connect_to(server, client({ version = version, uri = "no-such-host.invalid:" .. server.port, host = "127.0.0.1" }))
		assert.equal(1, server:count(packet_type.CONNECT))
	end)

	line("opts.port", "is where the client connects to", function(version)
		local server = start_server(version)
		connect_to(server, client({ version = version, uri = "127.0.0.1:1", port = tonumber(server.port) }))
		assert.equal(1, server:count(packet_type.CONNECT))
	end)

	line_once("opts.port", "is 1883 by default, 8883 for a secure connection", function()
		for _, case in ipairs({
			{ { uri = "host" }, 1883, false },
			{ { uri = "mqtt://host" }, 1883, false },
			{ { uri = "host", protocol = "mqtt" }, 1883, false },
			{ { uri = "host", secure = true }, 8883, true },
			{ { uri = "mqtts://host" }, 8883, true },
			{ { uri = "host", protocol = "mqtts" }, 8883, true },
			{ { uri = "mqtts://host", port = 1883 }, 1883, true },
		}) do
			local conn = destination(case[1])
			assert.same({ case[2], case[3] }, { conn.port, conn.secure })
		end
	end)

	line("opts.version", "is the version of CONNECT", function(version)
		local _, server = connected(version)
		assert.equal(version, server.received[1].version)
	end)

	line_once("opts.version", "is 4 or 5, also as mqtt.v311 or mqtt.v50, by default 4", function()
		assert.equal(4, mqtt.v311)
		assert.equal(5, mqtt.v50)
		local server = start_server(mqtt.v311)
		connect_to(server, client({ uri = server.uri }))
		assert.equal(4, server.received[1].version)
		harness.blames_caller("expecting version to be a value either 4 or 5: mqtt.v311 or mqtt.v50", mqtt.client,
			{ uri = broker.uri, clean = true, version = 3 })
	end)

	line("opts.id", "is the client identifier of CONNECT", function(version)
		local _, server = connected(version, { id = "chosen" })
		assert.equal("chosen", server.received[1].id)
	end)

	line("opts.id", "is made up if absent, and stays", function(version)
		local subject, server = connected(version, { reconnect = 0.01 })
		server:drop()
		local id = arrival(server, subject, packet_type.CONNECT, 2).id
		assert.matches("^luamqtt%-v1%-0%-2%-%x+$", id)
		assert.equal(id, server.received[1].id)
		assert.equal(id, subject.opts.id)
		assert.not_equal(id, client().opts.id)
	end)

	line_once("opts.secure", "true takes TLS with its default settings, which trust the system's roots", function()
		local output = child.run([[
			local mqtt = require("mqtt")
			for _, version in ipairs({ mqtt.v311, mqtt.v50 }) do
				mqtt.run_ioloop(mqtt.client({ uri = %q, clean = true, version = version, secure = true, on = {
					connect = function(packet, client)
						print(packet.rc, client.connection.secure)
						client:disconnect()
					end,
					error = print,
				} }))
			end
		]], "localhost:" .. broker.tls_port, { SSL_CERT_FILE = broker.cafile })
		assert.equal("0\ttrue\n0\ttrue\n", output)
	end)

	line("opts.secure", "as a table has the settings of TLS", function(version)
		local uri = "localhost:" .. broker.tls_port
		local subject = connect(client({ version = version, uri = uri, secure = { cafile = broker.cafile } }))
		assert.is_true(subject.connection.secure)
		refused("verification of the server's certificate failed",
			client({ version = version, uri = uri, secure = true }):start_connecting())
	end)

	line("opts.secure", "is false by default", function(version)
		local subject = connect(client({ version = version, uri = "127.0.0.1:" .. broker.port }))
		assert.is_false(subject.connection.secure)
	end)

	line("opts.will", "is published by the broker when the connection breaks, with its payload, qos and retain",
		function(version)
			local topic = harness.topic()
			local observer = connect(client({ version = version }))
			local events = record(observer, { "message" })
			subscribe(observer, topic)
			local subject = connect(client({
				version = version,
				will = { topic = topic, payload = "gone", qos = 1, retain = true },
			}))
			subject:close_connection()
			local _, message = payloads(events, 1, observer)
			assert.equal(topic, message.topic)
			assert.equal("gone", message.payload)
			assert.equal(1, message.qos)
			assert(observer:subscribe({ topic = topic }))
			_, message = payloads(events, 2, observer)
			assert.is_true(message.retain)
			-- leaves nothing behind
			assert(observer:publish({ topic = topic, retain = true }))
			harness.flush(observer)
		end)

	line("opts.will", "has QoS 0 and no retain flag by default", function(version)
		local _, server = connected(version, { will = { topic = "t", payload = "gone" } })
		local will = server.received[1].will
		assert.equal("t", will.topic)
		assert.equal("gone", will.payload)
		assert.equal(0, will.qos)
		assert.is_false(will.retain)
	end)

	line_once("opts.will", "needs a topic", function()
		harness.blames_caller("expecting will.topic to be a string", mqtt.client,
			{ uri = broker.uri, clean = true, will = { payload = "gone" } })
	end)

	line_once("opts.keep_alive", "makes the client send PINGREQ when nothing else is sent", function()
		local subjects, all = {}, {}
		for i, version in ipairs(VERSIONS) do
			local subject, server = connected(version[1], { keep_alive = 1 })
			subjects[i] = server
			all[#all + 1], all[#all + 2] = subject, server.serve
		end
		serve(all, function()
			return subjects[1]:count(packet_type.PINGREQ) > 0 and subjects[2]:count(packet_type.PINGREQ) > 0
		end)
	end)

	line("opts.keep_alive", "is told to the broker, by default 60 seconds", function(version)
		local _, server = connected(version, { keep_alive = 7 })
		assert.equal(7, server.received[1].keep_alive)
		_, server = connected(version)
		assert.equal(60, server.received[1].keep_alive)
	end)

	line("opts.reconnect", "as a number connects again so many seconds after the last attempt", function(version)
		local before = harness.now()
		local subject, server = connected(version, { reconnect = 0.1 })
		server:drop()
		arrival(server, subject, packet_type.CONNECT, 2)
		assert.is_true(harness.now() - before >= 0.1)
	end)

	line("opts.reconnect", "true connects again, after 30 seconds", function(version)
		local subject, server = connected(version, { reconnect = true })
		local events = record(subject, { "close" })
		server:drop()
		serve({ subject, server.serve }, function()
			return events[1]
		end)
		local wait = subject:step()
		assert.is_true(wait > 10 and wait <= 30)
	end)

	line("opts.reconnect", "is false by default: the client ends with its connection", function(version)
		local subject, server = connected(version)
		server:drop()
		harness.serve_to_end(subject)
		server:poll()
		assert.is_nil((subject:step()))
		assert.equal(1, server.accepted)
	end)

	line("opts.connector", "opens, reads and writes the connection", function(version)
		local super = require("mqtt.connector.luasocket")
		local own = setmetatable({ calls = {} }, super)
		own.__index = own
		for _, name in ipairs({ "connect", "send", "receive", "shutdown" }) do
			own[name] = function(...)
				own.calls[name] = true
				return super[name](...)
			end
		end
		local subject = connect(client({ version = version, connector = own }))
		assert.equal(own, getmetatable(subject.connection))
		assert.equal("127.0.0.1", subject.connection.host)
		subject:disconnect()
		assert.same({ connect = true, send = true, receive = true, shutdown = true }, own.calls)
	end)

	line_once("opts.connector", "is mqtt.connector by default", function()
		assert.equal(require("mqtt.connector"), client().opts.connector)
	end)

	line("opts.ssl_module", "names the module that does TLS #luasec", function(version)
		local ssl, wrapped = require("ssl"), 0
		package.loaded.own_ssl = {
			newcontext = ssl.newcontext,
			wrap = function(...)
				wrapped = wrapped + 1
				return ssl.wrap(...)
			end,
		}
		finally(function()
			package.loaded.own_ssl = nil
		end)
		connect(harness.tls_client({ version = version, ssl_module = "own_ssl" }))
		assert.equal(1, wrapped)
	end)

	line("opts.ssl_module", 'is "ssl" by default', function(version)
		assert.equal("ssl", connect(harness.tls_client({ version = version })).connection.ssl_module)
		assert.is_nil(connect(client({ version = version })).connection.ssl_module)
	end)

	line("opts.on", "has handlers, as Client:on takes them", function(version)
		local calls = {}
		local subject = client({ version = version, on = {
			connect = function(connack, of)
				calls[#calls + 1] = { connack.rc, of }
			end,
			close = function(_, of)
				calls[#calls + 1] = { "closed", of }
			end,
		} })
		connect(subject)
		subject:disconnect()
		assert.same({ { 0, subject }, { "closed", subject } }, calls)
		harness.blames_caller("invalid event 'nonsense' to handle", mqtt.client,
			{ uri = broker.uri, clean = true, on = { nonsense = print } })
	end)

	line("returns", "a client, not connected yet", function(version)
		local values = { n = select("#", mqtt.client({ uri = "no-such-host.invalid", clean = true, version = version })),
			mqtt.client({ uri = "no-such-host.invalid", clean = true, version = version }) }
		assert.equal(1, values.n)
		assert.equal("table", type(values[1]))
		assert.equal("function", type(values[1].publish))
		assert.is_nil(values[1].connection)
	end)

	line_once("usage", "makes a client", function()
		local made = Client.create({
			uri = "mqtts://broker.host.com",
			clean = "first",
			version = mqtt.v50,
		})
		assert.equal("first", made.opts.clean)
		-- and what it makes connects, where there is such a broker
		local subject = connect(harness.tls_client({ clean = "first", version = mqtt.v50 }))
		assert.is_true(subject.connection.secure)
		assert.is_false(subject.opts.clean)
	end)

	-- The document forgets them, the table takes them.
	line("opts.properties", "arrive in CONNECT", function(version)
		local _, server = connected(version, { properties = { session_expiry_interval = 5, receive_maximum = 7 } })
		assert.same({ session_expiry_interval = 5, receive_maximum = 7 }, server.received[1].properties)
	end, mqtt.v50)

	line("opts.user_properties", "arrive in CONNECT", function(version)
		local _, server = connected(version, { user_properties = { a = "b" } })
		assert.same({ a = "b" }, server.received[1].user_properties)
	end, mqtt.v50)
end)

method("Client:on", function()
	line("events", "adds up, and the handlers are called in the order in which they came", function(version)
		local calls = {}
		local function handler(name)
			return function()
				calls[#calls + 1] = name
			end
		end
		local subject, server = connected(version, { on = { message = handler("of the options") } })
		subject:on({ message = handler("of a table"), close = handler("of close"), shutdown = handler("of shutdown") })
		subject:on("message", handler("by name"))
		subject:on({ message = handler("of another table") })
		delivered(server, subject, 0)
		assert.same({ "of the options", "of a table", "by name", "of another table" }, calls)
		calls = {}
		subject:shutdown()
		assert.same({ "of close", "of shutdown" }, calls)
	end)

	line("events", "fills lists that belong to this client, one for each event", function(version)
		local subject, other = client({ version = version }), client({ version = version })
		local function handler() end
		subject:on({ message = handler })
		table.insert(subject.handlers.close, handler)
		local names = {}
		for name in pairs(subject.handlers) do
			names[#names + 1] = name
		end
		table.sort(names)
		assert.same({
			"acknowledge", "auth", "close", "connect", "error", "message", "shutdown", "subscribe", "unsubscribe",
		}, names)
		assert.same({ handler }, subject.handlers.message)
		assert.same({ handler }, subject.handlers.close)
		assert.same({}, subject.handlers.shutdown)
		assert.same({}, other.handlers.close)
		-- Where all share one list, the other tests must not have the handler.
		table.remove(subject.handlers.close)
	end)

	line("events.connect", "comes with the CONNACK of an attempt that succeeds", function(version)
		local subject = client({ version = version })
		local events = record(subject)
		connect(subject)
		assert.same({ { "connect", subject.connection.connack, subject } }, events)
		assert.equal(packet_type.CONNACK, events[1][2].type)
		assert.equal(0, events[1][2].rc)
	end)

	line("events.connect", "comes with the CONNACK of an attempt that fails", function(version)
		local connack = connack_of(client({ version = version, uri = "127.0.0.1:" .. broker.password_port }))
		assert.equal(packet_type.CONNACK, connack.type)
		assert.not_equal(0, connack.rc)
	end)

	line("events.error", "comes with the message and the client", function(version)
		local subject, server = connected(version)
		local events = record(subject, { "error" })
		server:drop()
		harness.serve_to_end(subject)
		assert.same({ { "error", "connection closed by broker", subject } }, events)
	end)

	line("events.error", "comes with the CONNACK, too, if that refuses", function(version)
		local subject = client({ version = version, uri = "127.0.0.1:" .. broker.password_port })
		local events = record(subject, { "error" })
		local connack = connack_of(subject)
		assert.equal(1, #events)
		local _, message, of, packet = unpack(events[1])
		assert.matches("^CONNECT failed with CONNACK", message)
		assert.equal(subject, of)
		assert.equal(connack, packet)
	end)

	line("events.close", "comes with the connection, which knows the reason, and the client", function(version)
		local subject = connect(client({ version = version }))
		local events = record(subject, { "close" })
		local conn = subject.connection
		subject:close_connection("tired")
		assert.same({ { "close", conn, subject } }, events)
		assert.equal("tired", conn.close_reason)

		local other, server = connected(version)
		events = record(other, { "close" })
		server:drop()
		harness.serve_to_end(other)
		assert.equal(1, #events)
		assert.equal("connection closed by broker", events[1][2].close_reason)
	end)

	line("events.shutdown", "comes with the client, when it has disconnected", function(version)
		local subject = connect(client({ version = version, reconnect = 1 }))
		local events = record(subject)
		subject:shutdown()
		assert.same({ "close", "shutdown" }, harness.names(events))
		assert.same({ "shutdown", subject }, events[2])
	end)

	line("events.subscribe", "comes with the SUBACK and the client", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "subscribe" })
		local suback = subscribe(subject, topic)
		assert.same({ { "subscribe", suback, subject } }, events)
		assert.equal(packet_type.SUBACK, suback.type)
		assert.same({ 2 }, suback.rc)
	end)

	line("events.unsubscribe", "comes with the UNSUBACK and the client", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "unsubscribe" })
		subscribe(subject, topic)
		local id = subject:unsubscribe({ topic = topic })
		serve({ subject }, function()
			return events[1]
		end)
		assert.equal(packet_type.UNSUBACK, events[1][2].type)
		assert.equal(id, events[1][2].packet_id)
		assert.equal(subject, events[1][3])
	end)

	line("events.message", "comes with the PUBLISH and the client", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "message" })
		subscribe(subject, topic)
		assert(subject:publish({ topic = topic, payload = "hello", qos = 1 }))
		local _, message = payloads(events, 1, subject)
		assert.equal(packet_type.PUBLISH, message.type)
		assert.equal(topic, message.topic)
		assert.equal("hello", message.payload)
		assert.equal(subject, events[1][3])
	end)

	line("events.acknowledge", "comes with the PUBACK or PUBREC and the client", function(version)
		local subject = connect(client({ version = version }))
		local events = record(subject, { "acknowledge" })
		for qos, name in ipairs({ "PUBACK", "PUBREC" }) do
			local id = subject:publish({ topic = harness.topic(), qos = qos })
			serve({ subject }, function()
				return events[qos]
			end)
			assert.equal(packet_type[name], events[qos][2].type)
			assert.equal(id, events[qos][2].packet_id)
			assert.equal(subject, events[qos][3])
		end
	end)

	line("events.auth", "comes with the AUTH and the client", function(version)
		local server = servers.start(version, function(this)
			this:send({ type = packet_type.AUTH, rc = 0x18,
				properties = { authentication_method = "spec", authentication_data = "challenge" } })
		end)
		local subject = client({ version = version, uri = server.uri, properties = { authentication_method = "spec" } })
		local events = record(subject)
		serve({ subject, server.serve }, function()
			return events[1]
		end)
		assert.same({ "auth" }, harness.names(events))
		assert.equal(packet_type.AUTH, events[1][2].type)
		assert.equal(0x18, events[1][2].rc)
		assert.equal("challenge", events[1][2].properties.authentication_data)
		assert.equal(subject, events[1][3])
	end, mqtt.v50)

	line("usage", "handles events", function(version)
		local cl, topic = client({ version = version }), harness.topic()
		local calls = {}
		cl:on({
			connect = function(pck, self)
				if pck.rc ~= 0 then
					return
				end
				self:subscribe({ topic = topic, callback = function()
					self:publish({ topic = topic, payload = "hello" })
				end })
			end,
			message = function(pck, self)
				assert.equal(cl, self)
				calls[#calls + 1] = pck.payload
			end,
		})
		cl:on("message", function(pck, self)
			calls[#calls + 1] = pck.payload .. " again"
			self:disconnect()
		end)
		harness.serve_to_end(cl)
		assert.same({ "hello", "hello again" }, calls)
	end)
end)

method("Client:off", function()
	line("event", "is the only event that the handler is removed from", function(version)
		local subject = connect(client({ version = version }))
		local calls = {}
		local function handler(first)
			calls[#calls + 1] = first
		end
		subject:on({ close = handler, shutdown = handler })
		subject:off("close", handler)
		subject:shutdown()
		assert.same({ subject }, calls)
		harness.blames_caller("invalid event 'nonsense' to handle", subject.off, subject, "nonsense", handler)
	end)

	line("func", "is the only handler that is removed", function(version)
		local calls = {}
		local function handler(name)
			return function()
				calls[#calls + 1] = name
			end
		end
		local subject, server = connected(version)
		local middle = handler("middle")
		subject:on("message", handler("first"))
		subject:on("message", middle)
		subject:on("message", handler("last"))
		subject:off("message", middle)
		subject:off("message", print)
		delivered(server, subject, 0)
		assert.same({ "first", "last" }, calls)
	end)

	line("func", "removed inside a handler, is called this time for the last time", function(version)
		local calls = {}
		local subject, server = connected(version)
		local function second()
			calls[#calls + 1] = "second"
		end
		local function first()
			calls[#calls + 1] = "first"
			subject:off("message", first)
			subject:off("message", second)
		end
		subject:on("message", first)
		subject:on("message", second)
		delivered(server, subject, 0, 0)
		assert.same({ "first", "second" }, calls)
	end)

	line("usage", "adds a handler and removes it again", function(version)
		local calls = {}
		local subject, server = connected(version)
		local handler = function(pck)
			calls[#calls + 1] = pck.payload
		end
		subject:on({
			message = handler,
		})
		delivered(server, subject, 0)
		subject:off("message", handler)
		delivered(server, subject, 0)
		assert.same({ "p1" }, calls)
	end)
end)

method("Client:subscribe", function()
	line("opts.topic", "is what messages are received of", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "message" })
		subscribe(subject, { topic = topic .. "/+/a" })
		assert(subject:publish({ topic = topic .. "/1/b", payload = "no" }))
		assert(subject:publish({ topic = topic .. "/1/a", payload = "yes" }))
		assert.same({ "yes" }, (payloads(events, 1, subject)))
		harness.blames_caller("expecting opts.topic to be a string", subject.subscribe, subject, {})
	end)

	for qos = 0, 2 do
		line("opts.qos", qos .. " is the QoS of the subscription", function(version)
			local subject, topic = connect(client({ version = version })), harness.topic()
			local events = record(subject, { "message" })
			assert.same({ qos }, subscribe(subject, { topic = topic, qos = qos }).rc)
			assert(subject:publish({ topic = topic, qos = 2 }))
			local _, message = payloads(events, 1, subject)
			assert.equal(qos, message.qos)
		end)
	end

	line("opts.qos", "is 0 by default", function(version)
		local subject = connect(client({ version = version }))
		assert.same({ 0 }, subscribe(subject, { topic = harness.topic() }).rc)
	end)

	-- Options that only MQTT 5.0 has.
	local function is_ignored(name, value)
		line("opts." .. name, "is ignored", function(version)
			local subject, server = connected(version)
			assert.equal(1, (subject:subscribe({ topic = "t", qos = 1, [name] = value })))
			assert.same({ { topic = "t", qos = 1 } }, arrival(server, subject, packet_type.SUBSCRIBE).subscriptions)
		end, mqtt.v311)
	end

	line("opts.no_local", "keeps away what the client itself publishes", function(version)
		local subject, other = connect(client({ version = version }), client({ version = version }))
		local topic = harness.topic()
		local events = record(subject, { "message" })
		subscribe(subject, { topic = topic, no_local = true })
		assert(subject:publish({ topic = topic, payload = "own" }))
		harness.flush(subject)
		assert(other:publish({ topic = topic, payload = "other" }))
		assert.same({ "other" }, (payloads(events, 1, subject, other)))
	end, mqtt.v50)
	is_ignored("no_local", true)

	for _, flag in ipairs({ true, false }) do
		line("opts.retain_as_published", tostring(flag) .. " means that a message comes "
			.. (flag and "with" or "without") .. " its retain flag", function(version)
			local subject, topic = connect(client({ version = version })), harness.topic()
			local events = record(subject, { "message" })
			subscribe(subject, { topic = topic, retain_as_published = flag })
			assert(subject:publish({ topic = topic, payload = "live", retain = true }))
			local _, message = payloads(events, 1, subject)
			assert.equal(flag, message.retain)
			-- leaves nothing behind
			assert(subject:publish({ topic = topic, retain = true }))
			harness.flush(subject)
		end, mqtt.v50)
	end
	is_ignored("retain_as_published", true)

	for _, case in ipairs({
		{ false, { "kept", "kept", "live" } },
		{ true, { "kept", "live" } },
		{ 2, { "live" } },
	}) do
		line("opts.retain_handling", tostring(case[1]) .. " decides when retained messages come", function(version)
			local subject, topic = connect(client({ version = version })), harness.topic()
			assert(subject:publish({ topic = topic, payload = "kept", retain = true }))
			harness.flush(subject)
			local events = record(subject, { "message" })
			subscribe(subject, { topic = topic, retain_handling = case[1] })
			subscribe(subject, { topic = topic, retain_handling = case[1] })
			assert(subject:publish({ topic = topic, payload = "live" }))
			assert.same(case[2], (payloads(events, #case[2], subject)))
			-- leaves nothing behind
			assert(subject:publish({ topic = topic, retain = true }))
			harness.flush(subject)
		end, mqtt.v50)
	end
	is_ignored("retain_handling", true)

	line("opts.properties", "arrive, and are obeyed", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "message" })
		subscribe(subject, { topic = topic, properties = { subscription_identifiers = { 42 } } })
		assert(subject:publish({ topic = topic }))
		local _, message = payloads(events, 1, subject)
		assert.same({ 42 }, message.properties.subscription_identifiers)
	end, mqtt.v50)
	is_ignored("properties", { subscription_identifiers = { 42 } })

	line("opts.user_properties", "arrive", function(version)
		local subject, server = connected(version)
		assert(subject:subscribe({ topic = "t", user_properties = { a = "b" } }))
		assert.same({ a = "b" }, arrival(server, subject, packet_type.SUBSCRIBE).user_properties)
	end, mqtt.v50)
	is_ignored("user_properties", { a = "b" })

	line("opts.callback", "is called once, when the broker has acknowledged", function(version)
		local subject, server = connected(version, nil, { [packet_type.SUBSCRIBE] = true })
		local calls = {}
		local id = subject:subscribe({ topic = "t", qos = 1, callback = function(...)
			calls[#calls + 1] = { ... }
		end })
		arrival(server, subject, packet_type.SUBSCRIBE)
		assert.equal(0, #calls)
		server:send({ type = packet_type.SUBACK, packet_id = id, rc = { 1 } })
		delivered(server, subject, 0)
		assert.equal(1, #calls)
		local suback, of = unpack(calls[1])
		assert.equal(packet_type.SUBACK, suback.type)
		assert.equal(id, suback.packet_id)
		assert.same({ 1 }, suback.rc)
		assert.equal(subject, of)
	end)

	line("returns[1]", "the packet identifier, and nothing else", function(version)
		local subject, server = connected(version)
		local ids = {}
		returned({ 1 }, subject:subscribe({ topic = "t" }))
		table.insert(ids, (subject:subscribe({ topic = "t" })))
		assert.same({ 2 }, ids)
		assert.equal(1, arrival(server, subject, packet_type.SUBSCRIBE).packet_id)
		assert.equal(2, arrival(server, subject, packet_type.SUBSCRIBE, 2).packet_id)
	end)

	line("returns[2]", "false and an error message", function(version)
		refused(NOT_OPENED, client({ version = version }):subscribe({ topic = "t" }))
	end)
end)

method("Client:unsubscribe", function()
	line("opts.topic", "is what no more messages are received of", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject)
		subscribe(subject, topic .. "/a")
		subscribe(subject, topic .. "/b")
		assert(subject:unsubscribe({ topic = topic .. "/a" }))
		assert(subject:publish({ topic = topic .. "/a", payload = "a" }))
		assert(subject:publish({ topic = topic .. "/b", payload = "b" }))
		serve({ subject }, function()
			return events[#events][1] == "message"
		end)
		assert.same({ "subscribe", "subscribe", "unsubscribe", "message" }, harness.names(events))
		assert.equal("b", events[4][2].payload)
		harness.blames_caller("expecting opts.topic to be a string", subject.unsubscribe, subject, {})
	end)

	line("opts.properties", "are a table, none of which the standard knows here", function(version)
		local subject, server = connected(version)
		assert.equal(1, (subject:unsubscribe({ topic = "t", properties = {} })))
		assert.same({}, arrival(server, subject, packet_type.UNSUBSCRIBE).properties)
		assert.matches("reason_string", harness.failure(subject.unsubscribe, subject,
			{ topic = "t", properties = { reason_string = "no" } }))
	end, mqtt.v50)

	line("opts.properties", "are ignored", function(version)
		local subject, server = connected(version)
		assert.equal(1, (subject:unsubscribe({ topic = "t", properties = {} })))
		assert.same({ "t" }, arrival(server, subject, packet_type.UNSUBSCRIBE).subscriptions)
	end, mqtt.v311)

	line("opts.user_properties", "arrive", function(version)
		local subject, server = connected(version)
		assert(subject:unsubscribe({ topic = "t", user_properties = { a = "b" } }))
		assert.same({ a = "b" }, arrival(server, subject, packet_type.UNSUBSCRIBE).user_properties)
	end, mqtt.v50)

	line("opts.user_properties", "are ignored", function(version)
		local subject, server = connected(version)
		assert.equal(1, (subject:unsubscribe({ topic = "t", user_properties = { a = "b" } })))
		assert.same({ "t" }, arrival(server, subject, packet_type.UNSUBSCRIBE).subscriptions)
	end, mqtt.v311)

	line("opts.callback", "is called once, when the broker has acknowledged", function(version)
		local subject, server = connected(version, nil, { [packet_type.UNSUBSCRIBE] = true })
		local calls = {}
		local id = subject:unsubscribe({ topic = "t", callback = function(...)
			calls[#calls + 1] = { ... }
		end })
		arrival(server, subject, packet_type.UNSUBSCRIBE)
		assert.equal(0, #calls)
		server:send({ type = packet_type.UNSUBACK, packet_id = id, rc = version == mqtt.v50 and { 0 } or nil })
		delivered(server, subject, 0)
		assert.equal(1, #calls)
		local unsuback, of = unpack(calls[1])
		assert.equal(packet_type.UNSUBACK, unsuback.type)
		assert.equal(id, unsuback.packet_id)
		assert.equal(subject, of)
	end)

	line("returns[1]", "the packet identifier, and nothing else", function(version)
		local subject, server = connected(version)
		returned({ 1 }, subject:unsubscribe({ topic = "t" }))
		assert.equal(1, arrival(server, subject, packet_type.UNSUBSCRIBE).packet_id)
	end)

	line("returns[2]", "false and an error message", function(version)
		refused(NOT_OPENED, client({ version = version }):unsubscribe({ topic = "t" }))
	end)
end)

method("Client:publish", function()
	-- Publishes and returns the packet that arrives at the server.
	local function published(version, opts)
		local subject, server = connected(version)
		assert(subject:publish(opts))
		return arrival(server, subject, packet_type.PUBLISH)
	end

	line("opts.topic", "is the topic of the message", function(version)
		assert.equal("a/ü/b", published(version, { topic = "a/ü/b" }).topic)
		local subject = connect(client({ version = version }))
		harness.blames_caller("expecting opts.topic to be a string", subject.publish, subject, { payload = "p" })
	end)

	line("opts.payload", "is the payload of the message, any bytes", function(version)
		local payload = ("\0\1\254\255"):rep(1000)
		assert.equal(payload, published(version, { topic = "t", payload = payload }).payload)
	end)

	line("opts.payload", "may be absent", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "message" })
		subscribe(subject, topic)
		assert(subject:publish({ topic = topic }))
		local _, message = payloads(events, 1, subject)
		assert.is_nil(message.payload)
	end)

	for qos = 0, 2 do
		line("opts.qos", qos .. " is the QoS of the message", function(version)
			local packet = published(version, { topic = "t", qos = qos })
			assert.equal(qos, packet.qos)
			assert.equal(qos > 0 and 1 or nil, packet.packet_id)
		end)
	end

	line("opts.qos", "is 0 by default", function(version)
		assert.equal(0, published(version, { topic = "t" }).qos)
	end)

	line("opts.retain", "has the broker keep the message, not by default", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		assert(subject:publish({ topic = topic, payload = "kept", retain = true }))
		assert(subject:publish({ topic = topic, payload = "not kept" }))
		harness.flush(subject)
		local late = connect(client({ version = version }))
		local events = record(late, { "message" })
		assert(late:subscribe({ topic = topic }))
		local received, message = payloads(events, 1, late)
		assert.same({ "kept" }, received)
		assert.is_true(message.retain)
		-- leaves nothing behind
		assert(subject:publish({ topic = topic, retain = true }))
		harness.flush(subject)
	end)

	line("opts.retain", "is false by default", function(version)
		assert.is_false(published(version, { topic = "t" }).retain)
	end)

	line("opts.dup", "is the flag of the packet, false by default", function(version)
		assert.is_true(published(version, { topic = "t", qos = 1, dup = true }).dup)
		assert.is_false(published(version, { topic = "t", qos = 1 }).dup)
	end)

	line("opts.properties", "come with the message", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "message" })
		subscribe(subject, topic)
		assert(subject:publish({
			topic = topic,
			properties = { content_type = "text/plain", correlation_data = "\0\1", payload_format_indicator = 1 },
		}))
		local _, message = payloads(events, 1, subject)
		assert.same({ content_type = "text/plain", correlation_data = "\0\1", payload_format_indicator = 1 },
			message.properties)
	end, mqtt.v50)

	line("opts.properties", "are ignored", function(version)
		assert.is_nil(published(version, { topic = "t", properties = { content_type = "text/plain" } }).properties)
	end, mqtt.v311)

	line("opts.user_properties", "come with the message", function(version)
		local subject, topic = connect(client({ version = version })), harness.topic()
		local events = record(subject, { "message" })
		subscribe(subject, topic)
		assert(subject:publish({ topic = topic, user_properties = { hello = "world" } }))
		local _, message = payloads(events, 1, subject)
		assert.same({ hello = "world" }, message.user_properties)
	end, mqtt.v50)

	line("opts.user_properties", "are ignored", function(version)
		assert.is_nil(published(version, { topic = "t", user_properties = { a = "b" } }).user_properties)
	end, mqtt.v311)

	line("opts.callback", "is called at once with QoS 0, which nobody acknowledges", function(version)
		local subject = connected(version)
		local calls = {}
		assert(subject:publish({ topic = "t", callback = function(...)
			calls[#calls + 1] = { ... }
		end }))
		assert.equal(1, #calls)
		assert.equal("string", type(calls[1][1]))
		assert.equal(subject, calls[1][2])
	end)

	for qos, name in ipairs({ "PUBACK", "PUBREC" }) do
		line("opts.callback", "is called once with QoS " .. qos .. ", with the " .. name, function(version)
			local subject, server = connected(version, nil, { [packet_type.PUBLISH] = true })
			local calls = {}
			local id = subject:publish({ topic = "t", qos = qos, callback = function(...)
				calls[#calls + 1] = { ... }
			end })
			arrival(server, subject, packet_type.PUBLISH)
			assert.equal(0, #calls)
			server:send({ type = packet_type[name], packet_id = id, rc = 0 })
			if qos == 2 then
				arrival(server, subject, packet_type.PUBREL)
				server:send({ type = packet_type.PUBCOMP, packet_id = id, rc = 0 })
			end
			delivered(server, subject, 0)
			assert.equal(1, #calls)
			local ack, of = unpack(calls[1])
			assert.equal(packet_type[name], ack.type)
			assert.equal(id, ack.packet_id)
			assert.equal(subject, of)
		end)
	end

	line("returns[1]", "true with QoS 0, else the packet identifier, and nothing else", function(version)
		local subject, server = connected(version)
		returned({ true }, subject:publish({ topic = "t" }))
		returned({ true }, subject:publish({ topic = "t", callback = function() end }))
		returned({ 1 }, subject:publish({ topic = "t", qos = 1 }))
		returned({ 2 }, subject:publish({ topic = "t", qos = 2, callback = function() end }))
		returned({ 3 }, subject:publish({ topic = "t", qos = 1, user_properties = {} }))
		for nth, id in ipairs({ false, false, 1, 2, 3 }) do
			assert.equal(id or nil, arrival(server, subject, packet_type.PUBLISH, nth).packet_id)
		end
	end)

	line("returns[2]", "false and an error message", function(version)
		for qos = 0, 2 do
			refused(NOT_OPENED, client({ version = version }):publish({ topic = "t", qos = qos }))
		end
	end)
end)

method("Client:acknowledge", function()
	line("msg", "is answered by the PUBACK or PUBREC of its packet identifier, and by nothing else", function(version)
		local subject, server = connected(version)
		local messages = { delivered(server, subject, 1, 2, 0) }
		assert(subject:send_pingreq())
		arrival(server, subject, packet_type.PINGREQ)
		assert.equal(0, server:count(packet_type.PUBACK) + server:count(packet_type.PUBREC))
		for _, message in ipairs(messages) do
			assert(subject:acknowledge(message))
		end
		assert.equal(101, arrival(server, subject, packet_type.PUBACK).packet_id)
		assert.equal(102, arrival(server, subject, packet_type.PUBREC).packet_id)
		assert(subject:send_pingreq())
		arrival(server, subject, packet_type.PINGREQ, 2)
		assert.equal(2, server:count(packet_type.PUBACK) + server:count(packet_type.PUBREC))
		harness.blames_caller("expecting msg to be a publish packet", subject.acknowledge, subject, { type = 4 })
	end)

	line("rc", "is the reason code, 0 by default", function(version)
		local subject, server = connected(version)
		for nth, case in ipairs({ { 1, "PUBACK" }, { 2, "PUBREC" } }) do
			local qos, name = unpack(case)
			local one, other = delivered(server, subject, qos, qos)
			assert(subject:acknowledge(one, 0x83))
			assert(subject:acknowledge(other))
			assert.equal(0x83, arrival(server, subject, packet_type[name]).rc)
			assert.equal(0, arrival(server, subject, packet_type[name], 2).rc)
			assert.equal(2 * nth, server:count(packet_type.PUBACK) + server:count(packet_type.PUBREC))
		end
	end, mqtt.v50)

	line("rc", "is ignored", function(version)
		local subject, server = connected(version)
		returned({ true }, subject:acknowledge(delivered(server, subject, 1), 0))
		assert.is_nil(arrival(server, subject, packet_type.PUBACK).rc)
	end, mqtt.v311)

	line("properties", "arrive", function(version)
		local subject, server = connected(version)
		for qos, name in ipairs({ "PUBACK", "PUBREC" }) do
			assert(subject:acknowledge(delivered(server, subject, qos), 0, { reason_string = "fine" }))
			assert.same({ reason_string = "fine" }, arrival(server, subject, packet_type[name]).properties)
		end
	end, mqtt.v50)

	line("user_properties", "arrive", function(version)
		local subject, server = connected(version)
		for qos, name in ipairs({ "PUBACK", "PUBREC" }) do
			assert(subject:acknowledge(delivered(server, subject, qos), 0, nil, { a = "b" }))
			assert.same({ a = "b" }, arrival(server, subject, packet_type[name]).user_properties)
		end
	end, mqtt.v50)

	line("returns[1]", "true, and nothing else", function(version)
		local subject, server = connected(version)
		local at_once, at_least_once, exactly_once = delivered(server, subject, 0, 1, 2)
		returned({ true }, subject:acknowledge(at_once))
		returned({ true }, subject:acknowledge(at_least_once, 0))
		returned({ true }, subject:acknowledge(exactly_once, 0, {}, {}))
	end)

	line("returns[2]", "false and an error message", function(version)
		local subject, server = connected(version)
		local message = delivered(server, subject, 1)
		subject:close_connection()
		refused(NOT_OPENED, subject:acknowledge(message))
		refused(NOT_OPENED, subject:acknowledge(message, 0, {}, {}))
	end)
end)

method("Client:disconnect", function()
	line("description", "a client that is set to reconnect does so", function(version)
		local subject, server = connected(version, { reconnect = 0.01 })
		returned({ true }, subject:disconnect())
		arrival(server, subject, packet_type.CONNECT, 2)
	end)

	line("description", "ends a client before the CONNACK, too", function(version)
		local server = start_server(version, { [packet_type.CONNECT] = true })
		local subject = client({ version = version, uri = server.uri })
		arrival(server, subject, packet_type.CONNECT)
		returned({ true }, subject:disconnect())
		assert.is_nil((subject:step()))
		harness.serve_to_end(subject)
	end)

	line("rc", "is the reason code of DISCONNECT, 0 by default", function(version)
		local subject, server = connected(version)
		subject:disconnect(4)
		assert.equal(4, arrival(server, subject, packet_type.DISCONNECT).rc)
		subject, server = connected(version)
		subject:disconnect()
		assert.equal(0, arrival(server, subject, packet_type.DISCONNECT).rc)
	end, mqtt.v50)

	line("rc", "is ignored", function(version)
		local subject, server = connected(version)
		returned({ true }, subject:disconnect(0))
		assert.is_nil(arrival(server, subject, packet_type.DISCONNECT).rc)
	end, mqtt.v311)

	line("properties", "arrive", function(version)
		local subject, server = connected(version)
		subject:disconnect(0, { reason_string = "bye" })
		assert.same({ reason_string = "bye" }, arrival(server, subject, packet_type.DISCONNECT).properties)
	end, mqtt.v50)

	line("user_properties", "arrive", function(version)
		local subject, server = connected(version)
		subject:disconnect(0, nil, { a = "b" })
		assert.same({ a = "b" }, arrival(server, subject, packet_type.DISCONNECT).user_properties)
	end, mqtt.v50)

	line("returns[1]", "true when DISCONNECT has been sent and the connection closed, and nothing else", function(version)
		local subject, server = connected(version)
		local events = record(subject)
		returned({ true }, subject:disconnect())
		assert.is_nil(subject.connection)
		assert.same({ "close" }, harness.names(events))
		assert.equal("connection closed by client", events[1][2].close_reason)
		serve({ server.serve }, function()
			return server.ended
		end)
		assert.equal(packet_type.DISCONNECT, server.received[#server.received].type)
	end)

	line("returns[2]", "false and an error message", function(version)
		refused(NOT_OPENED, client({ version = version }):disconnect())
		local subject = connected(version)
		subject:disconnect()
		refused(NOT_OPENED, subject:disconnect())
	end)
end)

method("Client:shutdown", function()
	line("description", "a client never reconnects after it, in a loop or not", function(version)
		local subject, server = connected(version, { reconnect = 0.01 })
		local loop = mqtt.get_ioloop()
		loop:add(subject)
		loop:add(function()
			subject:shutdown()
			loop:remove(subject)
		end)
		finally(function()
			for _, item in ipairs({ unpack(loop.clients) }) do
				loop:remove(item)
			end
		end)
		loop:iteration()
		assert.is_nil((subject:step()))
		harness.serve_to_end(subject)
		server:poll()
		assert.equal(1, server.accepted)
	end)

	line("...", "are those of disconnect", function(version)
		local subject, server = connected(version)
		subject:shutdown(4, { reason_string = "bye" }, { a = "b" })
		local packet = arrival(server, subject, packet_type.DISCONNECT)
		assert.equal(4, packet.rc)
		assert.same({ reason_string = "bye" }, packet.properties)
		assert.same({ a = "b" }, packet.user_properties)
	end, mqtt.v50)

	line("returns", "true when it has disconnected, and nothing else", function(version)
		local subject, server = connected(version, { reconnect = 0.01 })
		local events = record(subject)
		returned({ true }, subject:shutdown())
		assert.is_nil(subject.connection)
		assert.same({ "close", "shutdown" }, harness.names(events))
		arrival(server, subject, packet_type.DISCONNECT)
	end)

	line("returns", "true also without a connection", function(version)
		local subject = client({ version = version, reconnect = 0.01 })
		local events = record(subject)
		returned({ true }, subject:shutdown())
		assert.same({ { "shutdown", subject } }, events)
		assert.is_nil((subject:step()))
	end)
end)

method("Client:auth", function()
	-- A client that may authenticate itself, and its server.
	local function authenticating(version)
		return connected(version, { properties = { authentication_method = "spec" } })
	end

	line("rc", "is the reason code of AUTH, 0 by default", function(version)
		local subject, server = authenticating(version)
		assert(subject:auth(0x19, { authentication_method = "spec" }))
		assert.equal(0x19, arrival(server, subject, packet_type.AUTH).rc)
		assert(subject:auth())
		assert.equal(0, arrival(server, subject, packet_type.AUTH, 2).rc)
	end, mqtt.v50)

	line("properties", "arrive", function(version)
		local subject, server = authenticating(version)
		local properties = { authentication_method = "spec", authentication_data = "\0data" }
		assert(subject:auth(0x19, properties))
		assert.same(properties, arrival(server, subject, packet_type.AUTH).properties)
	end, mqtt.v50)

	line("user_properties", "arrive", function(version)
		local subject, server = authenticating(version)
		assert(subject:auth(0x19, { authentication_method = "spec" }, { a = "b" }))
		assert.same({ a = "b" }, arrival(server, subject, packet_type.AUTH).user_properties)
	end, mqtt.v50)

	line("returns[1]", "true, and nothing else", function(version)
		returned({ true }, authenticating(version):auth(0x19, { authentication_method = "spec" }))
	end, mqtt.v50)

	line("returns[2]", "false and an error message", function(version)
		refused(NOT_OPENED, client({ version = version }):auth())
	end, mqtt.v50)

	line("returns[2]", "nothing, since it raises: it is for MQTT 5.0", function(version)
		local subject = connected(version)
		harness.blames_caller("allowed only in MQTT v5.0 protocol", subject.auth, subject)
	end, mqtt.v311)
end)

method("Client:close_connection", function()
	line("description", "there is no DISCONNECT", function(version)
		local subject, server = connected(version)
		subject:close_connection("tired")
		serve({ server.serve }, function()
			return server.ended
		end)
		assert.equal(0, server:count(packet_type.DISCONNECT))
	end)

	line("description", "ends a client before the CONNACK, too", function(version)
		local server = start_server(version, { [packet_type.CONNECT] = true })
		local subject = client({ version = version, uri = server.uri })
		local events = record(subject)
		arrival(server, subject, packet_type.CONNECT)
		subject:close_connection("tired")
		assert.same({ "close" }, harness.names(events))
		assert.equal("tired", events[1][2].close_reason)
		assert.is_nil((subject:step()))
		harness.serve_to_end(subject)
	end)

	line("reason", "is what the close event tells", function(version)
		local subject = connect(client({ version = version }))
		local events = record(subject)
		subject:close_connection("tired")
		assert.same({ "close" }, harness.names(events))
		assert.equal("tired", events[1][2].close_reason)
		assert.is_nil(subject.connection)
	end)

	line("reason", "may be absent", function(version)
		local subject = connect(client({ version = version }))
		local events = record(subject)
		subject:close_connection()
		assert.equal("string", type(events[1][2].close_reason))
	end)
end)

method("Client:start_connecting", function()
	line("returns[1]", "true when it has connected and sent CONNECT, and nothing else", function(version)
		local server = start_server(version)
		local subject = client({ version = version, uri = server.uri })
		returned({ true }, subject:start_connecting())
		assert.is_table(subject.connection)
		assert.is_nil(subject.connection.connack)
		serve({ server.serve }, function()
			return server:count(packet_type.CONNECT) == 1
		end)
		connect_to(server, subject)
		assert.equal(1, server:count(packet_type.CONNECT))
	end)

	line("returns[1]", "true also for a client whose connection has ended", function(version)
		local subject = connect(client({ version = version }))
		subject:disconnect()
		returned({ true }, subject:start_connecting())
		assert.equal(0, connack_of(subject).rc)
	end)

	line("returns[2]", "false and an error message", function(version)
		local subject = client({ version = version, uri = nobody() })
		local events = record(subject)
		refused("refused", subject:start_connecting())
		assert.same({ "error" }, harness.names(events))
		assert.is_nil(subject.connection)
	end)
end)

method("Client:send_pingreq", function()
	line("returns[1]", "true when PINGREQ is on its way, and nothing else", function(version)
		local subject, server = connected(version)
		returned({ true }, subject:send_pingreq())
		arrival(server, subject, packet_type.PINGREQ)
	end)

	line("returns[2]", "false and an error message", function(version)
		refused(NOT_OPENED, client({ version = version }):send_pingreq())
	end)
end)

local CONNECTORS = { { "the native connection" }, { "LuaSocket", require("mqtt.connector.luasocket") } }

method("Client:open_connection", function()
	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[1]", "true when there is a connection, and nothing else, with " .. name, function(version)
			local server = start_server(version)
			local subject = client({ version = version, uri = server.uri, connector = connector })
			returned({ true }, subject:open_connection())
			assert.is_table(subject.connection)
			serve({ server.serve }, function()
				return server.accepted == 1
			end)
			server:poll()
			assert.equal(0, #server.received)
			assert.equal("", server.buffer)
		end)
	end

	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[2]", "false and an error message, with " .. name, function(version)
			refused("refused", client({ version = version, uri = nobody(), connector = connector }):open_connection())
		end)
	end
end)

method("Client:send_connect", function()
	line("returns[1]", "true when CONNECT is on its way, and nothing else", function(version)
		local server = start_server(version)
		local subject = client({ version = version, uri = server.uri })
		assert(subject:open_connection())
		returned({ true }, subject:send_connect())
		connect_to(server, subject)
		assert.equal(1, #server.received)
		assert.equal(packet_type.CONNECT, server.received[1].type)
	end)

	line("returns[2]", "false and an error message", function(version)
		refused(NOT_OPENED, client({ version = version }):send_connect())
	end)
end)

method("Client:check_keep_alive", function()
	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[1]", "the seconds to the next keep alive, and nothing else, with " .. name, function(version)
			local subject = connect(client({ version = version, keep_alive = 20, connector = connector }))
			assert.equal(1, select("#", subject:check_keep_alive()))
			local wait = subject:check_keep_alive()
			assert.is_true(wait > 10 and wait <= 20)
		end)
	end

	line_once("returns[1]", "the seconds after which PINGREQ is sent, if it is called then", function()
		local connections = {}
		for i, version in ipairs(VERSIONS) do
			local subject, server = connected(version[1], { keep_alive = 1, connector = CONNECTORS[2][2] })
			connections[i] = { subject = subject, server = server, at = harness.now(), wait = 0 }
		end
		local arrived = 0
		serve({ function()
			for _, this in ipairs(connections) do
				if harness.now() >= this.at + this.wait and not this.arrived then
					local wait, err = this.subject:check_keep_alive()
					assert.is_nil(err)
					assert.is_true(wait >= 0 and wait <= 1)
					this.at, this.wait = harness.now(), wait
				end
				this.server:poll()
				if not this.arrived and this.server:count(packet_type.PINGREQ) > 0 then
					this.arrived, arrived = true, arrived + 1
				end
			end
		end }, function()
			return arrived == #connections
		end)
	end)

	line("returns[2]", "seconds and an error message without a connection", function(version)
		local subject = client({ version = version, keep_alive = 5 })
		returned({ 5, "network connection is not opened" }, subject:check_keep_alive())
	end)

	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[2]", "seconds and an error message when the broker does not answer PINGREQ, with " .. name,
			function(version)
				local subject, server = connected(version, { ping_timeout = 0.05, connector = connector },
					{ [packet_type.PINGREQ] = true })
				assert(subject:send_pingreq())
				local wait, err
				serve({ server.serve, function()
					wait, err = subject:check_keep_alive()
				end }, function()
					return err
				end)
				assert.equal("number", type(wait))
				assert.matches("PINGRESP", err)
			end)
	end

	line_once("usage", "keeps alive the clients of a program that runs Copas", function()
		local copas, missing = copas_loader.load(4)
		finally(copas_loader.unload)
		if not copas then
			pending(missing)
			return
		end
		local all = {}
		for i, version in ipairs(VERSIONS) do
			local server = start_server(version[1])
			local my_client = client({ uri = server.uri, version = version[1], keep_alive = 1 })
			all[i] = server
			copas.addthread(function()
				while my_client do
					if not my_client:step() then
						return
					end
				end
			end)
			copas.addthread(function()
				while true do
					if not my_client then
						return
					end
					copas.pause(my_client:check_keep_alive())
				end
			end)
			copas.addthread(function()
				while server:count(packet_type.PINGREQ) == 0 do
					server:poll()
					copas.pause(0.002)
				end
				my_client = nil
			end)
		end
		local deadline = harness.deadline()
		while all[1]:count(packet_type.PINGREQ) == 0 or all[2]:count(packet_type.PINGREQ) == 0 do
			assert.is_true(harness.now() < deadline, "nothing came of it in time")
			copas.step(0.05)
		end
	end)
end)

method("Client:step", function()
	line("description", "it connects, and reconnects if set to", function(version)
		local server = start_server(version)
		local subject = client({ version = version, uri = server.uri, reconnect = 0.01 })
		local function step_until_connected()
			serve({ server.serve, function()
				assert.is_number((subject:step()))
			end }, function()
				return subject.connection and subject.connection.connack
			end)
		end
		step_until_connected()
		server:drop()
		serve({ function()
			assert.is_number((subject:step()))
		end }, function()
			return not (subject.connection and subject.connection.connack)
		end)
		step_until_connected()
		assert.equal(2, server:count(packet_type.CONNECT))
	end)

	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[1]", "-1, and nothing else, when there is nothing to read, with " .. name, function(version)
			local subject = connect(client({ version = version, connector = connector }))
			returned({ -1 }, subject:step())
		end)
	end

	line("returns[1]", "never -1 in a thread of Copas: it waits", function(version)
		local copas, missing = copas_loader.load(4)
		finally(copas_loader.unload)
		if not copas then
			pending(missing)
			return
		end
		local subject, topic = client({ version = version }), harness.topic()
		local results, ended = {}, nil
		subject:on({
			connect = function()
				assert(subject:subscribe({ topic = topic, callback = function()
					assert(subject:publish({ topic = topic }))
				end }))
			end,
			message = function()
				subject:disconnect()
			end,
		})
		copas.addthread(function()
			repeat
				local wait = subject:step()
				results[#results + 1] = wait
			until not wait
			ended = true
		end)
		local deadline = harness.deadline()
		while not ended do
			assert.is_true(harness.now() < deadline, "nothing came of it in time")
			copas.step(0.05)
		end
		for _, wait in ipairs(results) do
			assert.equal(0, wait)
		end
		assert.is_true(#results >= 3)
	end)

	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[2]", "0, and nothing else, when a packet has been handled, with " .. name, function(version)
			local subject, server = connected(version, { connector = connector })
			local events = record(subject, { "message" })
			server:send({ type = packet_type.PUBLISH, topic = "t", qos = 0, dup = false, retain = false })
			local results
			serve({ function()
				results = { n = select("#", subject:step()) }
			end }, function()
				return events[1]
			end)
			assert.equal(1, results.n)
			server:send({ type = packet_type.PUBLISH, topic = "t", qos = 0, dup = false, retain = false })
			serve({ function()
				results = subject:step()
			end }, function()
				return events[2]
			end)
			assert.equal(0, results)
		end)
	end

	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[3]", "the seconds until it may reconnect, and nothing else, with " .. name, function(version)
			local subject, server = connected(version, { connector = connector, reconnect = 30 })
			local events = record(subject, { "close" })
			server:drop()
			serve({ subject }, function()
				return events[1]
			end)
			-- Calling sooner is no harm.
			for _ = 1, 3 do
				assert.equal(1, select("#", subject:step()))
				local wait = subject:step()
				assert.is_true(wait > 0 and wait <= 30)
			end
			server:poll()
			assert.equal(1, server.accepted)
			subject.opts.reconnect = 0.01
			arrival(server, subject, packet_type.CONNECT, 2)
		end)
	end

	for _, case in ipairs(CONNECTORS) do
		local name, connector = unpack(case)
		line("returns[4]", "nil and an error message when there is nothing more to do, with " .. name, function(version)
			local subject = connect(client({ version = version, connector = connector }))
			subject:disconnect()
			local count = select("#", subject:step())
			local wait, err = subject:step()
			assert.equal(2, count)
			assert.is_nil(wait)
			assert.matches(NOT_OPENED, err)
		end)

		line("returns[4]", "nil and an error message when it cannot connect, with " .. name, function(version)
			local subject = client({ version = version, uri = nobody(), connector = connector })
			local wait, err
			serve({ function()
				wait, err = subject:step()
			end }, function()
				return err
			end)
			assert.is_nil(wait)
			assert.matches("refused", err)
		end)
	end
end)

method("client.create", function()
	line("...", "are those of Client:__init", function(version)
		local opts = { uri = "mqtt://user:secret@broker.example", clean = "first", version = version }
		local made = Client.create(opts)
		assert.equal(version, made.opts.version)
		assert.equal("first", made.opts.clean)
		assert.same({ uri = "mqtt://user:secret@broker.example", clean = "first", version = version }, opts)
		harness.blames_caller("unexpected key in client opts: nonsense = true", Client.create, { nonsense = true })
	end)

	line("returns", "a client, and nothing else", function(version)
		local opts = { uri = broker.uri, clean = true, version = version }
		assert.equal(1, select("#", Client.create(opts)))
		local made = Client.create(opts)
		assert.equal(getmetatable(client()), getmetatable(made))
		assert.equal(0, connect(made).connection.connack.rc)
		assert.is_true(made:shutdown())
		assert.equal(mqtt.client, Client.create)
	end)
end)

-- All of it -----------------------------------------------------------------------------------------------------------

local RESULT = { "returns[1]", "returns[2]" }

-- What the document describes: methods, and their lines, in its order.
local DOCUMENT = {
	{ "Client:__init", {
		"opts.uri", "opts.clean", "opts.protocol", "opts.username", "opts.password", "opts.host", "opts.port",
		"opts.version", "opts.id", "opts.secure", "opts.will", "opts.keep_alive", "opts.reconnect", "opts.connector",
		"opts.ssl_module", "opts.on", "returns", "usage", "opts.properties", "opts.user_properties",
	} },
	{ "Client:on", {
		"events", "events.connect", "events.error", "events.close", "events.shutdown", "events.subscribe",
		"events.unsubscribe", "events.message", "events.acknowledge", "events.auth", "usage",
	} },
	{ "Client:off", { "event", "func", "usage" } },
	{ "Client:subscribe", {
		"opts.topic", "opts.qos", "opts.no_local", "opts.retain_as_published", "opts.retain_handling", "opts.properties",
		"opts.user_properties", "opts.callback", "returns[1]", "returns[2]",
	} },
	{ "Client:unsubscribe", {
		"opts.topic", "opts.properties", "opts.user_properties", "opts.callback", "returns[1]", "returns[2]",
	} },
	{ "Client:publish", {
		"opts.topic", "opts.payload", "opts.qos", "opts.retain", "opts.dup", "opts.properties", "opts.user_properties",
		"opts.callback", "returns[1]", "returns[2]",
	} },
	{ "Client:acknowledge", { "msg", "rc", "properties", "user_properties", "returns[1]", "returns[2]" } },
	{ "Client:disconnect", { "description", "rc", "properties", "user_properties", "returns[1]", "returns[2]" } },
	{ "Client:shutdown", { "description", "...", "returns" } },
	{ "Client:auth", { "rc", "properties", "user_properties", "returns[1]", "returns[2]" } },
	{ "Client:close_connection", { "description", "reason" } },
	{ "Client:start_connecting", RESULT },
	{ "Client:send_pingreq", RESULT },
	{ "Client:open_connection", RESULT },
	{ "Client:send_connect", RESULT },
	{ "Client:check_keep_alive", { "returns[1]", "returns[2]", "usage" } },
	{ "Client:step", { "description", "returns[1]", "returns[2]", "returns[3]", "returns[4]" } },
	{ "client.create", { "...", "returns" } },
}

describe("the document", function()
	it("has a test for each of its lines, in its order", function()
		assert.same(DOCUMENT, tested)
	end)
end)

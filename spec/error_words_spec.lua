-- What programs look for in the text of an error: LuaSocket's words, beside the library's own, whatever carries the
-- connection.

local broker = require("spec.support.broker")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local servers = require("spec.support.server")
local socket = require("socket")

local TRUSTING = { cafile = broker.cafile }
local UNKNOWN = "no-such-host.invalid"

-- Takes the socket of the connection that a server has accepted, and does something to it when the client has said
-- something.
local function once_heard(act)
	return function(server)
		server.poll = function()
			local sock = server.sock or server.listener:accept()
			server.sock = sock
			if sock then
				sock:settimeout(0)
				local _, err, partial = sock:receive(65536)
				if err ~= "timeout" or partial ~= "" then
					server.sock = nil
					act(sock)
				end
			end
		end
	end
end

local closes = once_heard(function(sock)
	sock:close()
end)

local resets = once_heard(function(sock)
	sock:setoption("linger", { on = true, timeout = 0 })
	sock:close()
end)

-- Nobody reads, nor answers.
local function is_silent(server)
	server.poll = function() end
end

local function has_gone(server)
	server:stop()
end

local function fills_its_backlog(server)
	server:fill()
end

-- Accepts, then does something to the connection.
local function accepts_and(act)
	return function(server)
		server.on_packet = function(self, packet)
			if packet.type == 1 then
				servers.accept(self, packet)
				act(self)
			end
		end
	end
end

-- An address that only a file has: nobody listens there.
local function dead_socket()
	local unix = require("socket.unix")
	local path = os.tmpname()
	os.remove(path)
	local listener = (type(unix) == "table" and (unix.stream or unix.tcp) or unix)()
	assert(listener:bind(path))
	listener:close()
	return path
end

-- Ways to a server; the first argument is its port.
local WAYS = {
	TCP = { uri = "mqtt://127.0.0.1:%d" },
	TLS = { uri = "mqtts://localhost:%d", secure = TRUSTING },
	WebSocket = { uri = "ws://127.0.0.1:%d" },
	["WebSocket over TLS"] = { uri = "wss://localhost:%d", secure = TRUSTING },
	["an HTTP proxy"] = { uri = "mqtt://h", proxy = "http://127.0.0.1:%d" },
	["a SOCKS proxy"] = { uri = "mqtt://h", proxy = "socks5://127.0.0.1:%d" },
}

local function to(port, way)
	return {
		uri = way.uri:format(port),
		secure = way.secure,
		proxy = way.proxy and way.proxy:format(port),
		connect_timeout = 0.1,
	}
end

local function check(words, opts, server)
	local subject = harness.client(opts)
	local events = harness.record(subject, { "error" })
	harness.serve({ subject, server and server.serve or nil }, function()
		return events[1]
	end)
	assert.equal("string", type(events[1][2]))
	assert.truthy(events[1][2]:find(words, 1, true), events[1][2])
	return events[1][2]
end

-- That what a call returns is the same.
local function check_call(opts, text)
	local ok, err = harness.client(opts):start_connecting()
	assert.same({ false, text }, { ok, err })
end

describe("the text of an error", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	for name, way in pairs(WAYS) do
		it("says 'connection refused', by " .. name, function()
			local server = servers.start(4)
			has_gone(server)
			check_call(to(server.port, way), check("connection refused", to(server.port, way)))
		end)

		it("says 'timeout', by " .. name, function()
			for _, behave in ipairs({ fills_its_backlog, name ~= "TCP" and is_silent or nil }) do
				local server = servers.start(4)
				behave(server)
				check_call(to(server.port, way), check("timeout", to(server.port, way), server))
			end
		end)

		it("says 'closed', by " .. name, function()
			for _, behave in ipairs({ closes, resets }) do
				local server = servers.start(4)
				behave(server)
				local opts = to(server.port, way)
				opts.connect_timeout = nil
				check("closed", opts, server)
			end
		end)

		it("says 'host or service not provided, or not known', by " .. name, function()
			local opts = to(1, way)
			opts.connect_timeout = nil
			if opts.proxy then
				opts.proxy = opts.proxy:gsub("127.0.0.1", UNKNOWN)
			else
				opts.uri = opts.uri:gsub("localhost", UNKNOWN):gsub("127.0.0.1", UNKNOWN)
			end
			check_call(opts, check("host or service not provided, or not known", opts))
		end)
	end

	it("says 'connection refused' and 'closed', by a Unix socket #unix", function()
		local path = dead_socket()
		check_call({ uri = "unix://" .. path }, check("connection refused", { uri = "unix://" .. path }))
		os.remove(path)
	end)

	it("says 'connection refused' if a proxy is told so", function()
		local server = servers.start(4)
		local answers = { "\5\0", "\5\5\0\1" }
		once_heard(function(sock)
			sock:settimeout(10)
			sock:send(table.remove(answers, 1))
			server.sock = answers[1] and sock
		end)(server)
		local opts = to(server.port, WAYS["a SOCKS proxy"])
		opts.connect_timeout = nil
		check("connection refused", opts, server)
	end)

	for name, version in pairs({ ["3.1.1"] = mqtt.v311, ["5.0"] = mqtt.v50 }) do
		it("says 'timeout' when the broker does not answer, MQTT " .. name, function()
			local server = servers.start(version, function() end)
			local text = check("timeout", { uri = server.uri, version = version, connect_timeout = 0.1 }, server)
			assert.matches("^failed to receive CONNACK within ", text)
			server = servers.start(version)
			text = check("timeout",
				{ uri = server.uri, version = version, keep_alive = 1, ping_timeout = 0.1 }, server)
			assert.matches("^failed to receive PINGRESP within 0.1 seconds", text)
		end)

		it("says 'closed' when the broker ends the connection, MQTT " .. name, function()
			for _, act in ipairs({ "drop", "reset", "half_close" }) do
				local server = servers.start(version)
				accepts_and(function(self)
					self[act](self)
				end)(server)
				check("closed", { uri = server.uri, version = version }, server)
			end
		end)
	end

	it("is the reason of every broker in a list", function()
		local server = servers.start(4)
		has_gone(server)
		local subject = harness.client({ uri = { server.uri, UNKNOWN } })
		local events = harness.record(subject, { "error" })
		harness.serve_to_end(subject)
		assert.matches("connection refused", events[1][2], 1, true)
		assert.matches("host or service not provided, or not known", events[2][2], 1, true)
	end)

	it("says what helps: mqtt:// on a TLS port", function()
		assert.equal("connection closed by broker before its CONNACK: if this is its port for TLS, use mqtts://",
			check("closed", { uri = "mqtt://127.0.0.1:" .. broker.tls_port }))
	end)

	it("says what helps: an unknown issuer", function()
		check("secure.cafile names a certificate to trust", { uri = broker.tls_uri })
	end)

	it("says what helps: a colon, a list, a number as the payload, a version as a string", function()
		local subject = harness.client()
		harness.blames_caller("expecting mqtt.client { ... } with a dot, not mqtt:client { ... } with a colon",
			mqtt.client, mqtt, { uri = "h", clean = true })
		harness.blames_caller("expecting mqtt.client { ... } with a dot, not mqtt:client { ... } with a colon",
			require("mqtt.client").create, require("mqtt.client"), { uri = "h", clean = true })
		local list = { subject }
		harness.blames_caller("expecting a client or a function, got: " .. tostring(list)
			.. ": give the items of a list one by one, run_ioloop(first, second)", mqtt.run_ioloop, list)
		harness.blames_caller("expecting opts.payload to be a string, got a number: use tostring", subject.publish, subject,
			{ topic = "t", payload = 21.5 })
		harness.connect(subject)
		harness.blames_caller("expecting opts.payload to be a string, got a number: use tostring", subject.publish, subject,
			{ topic = "t", payload = 21.5 })
		harness.blames_caller("expecting version to be a number: mqtt.v311 or mqtt.v50", mqtt.client,
			{ uri = "h", clean = true, version = "5.0" })
	end)

	it("says what helps: all packet identifiers in use", function()
		local server = servers.start(4)
		local subject = harness.client({ uri = server.uri })
		harness.serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		local ok, err
		for _ = 1, 65536 do
			ok, err = subject:publish({ topic = "t", qos = 1 })
		end
		assert.same({ false, "failed to send PUBLISH: all 65535 packet identifiers are in use: go on when a callback or the "
			.. "event acknowledge tells of an answer" }, { ok, err })
	end)

	it("says what helps: two clients with one client identifier, MQTT 5.0", function()
		local server = servers.start(mqtt.v50)
		accepts_and(function(self)
			self:send({ type = 14, rc = 0x8E })
		end)(server)
		check(": another client uses this client identifier (the option id)",
			{ uri = server.uri, version = mqtt.v50 }, server)
	end)

	it("is what run_sync and await return", function()
		local server = servers.start(4)
		has_gone(server)
		local subject = harness.client({ uri = server.uri })
		local ok, err = mqtt.run_sync(subject)
		assert.is_false(ok)
		assert.matches("connection refused", err, 1, true)
		ok, err = harness.client({ uri = server.uri }):await("connect")
		assert.is_nil(ok)
		assert.matches("connection refused", err, 1, true)
	end)

	it("is as LuaSocket says it with its connector", function()
		local server = servers.start(4)
		has_gone(server)
		local _, words = socket.connect("127.0.0.1", server.port)
		check(words, { uri = server.uri, connector = require("mqtt.connector.luasocket") })
	end)
end)

-- WebSocket, Unix sockets and proxies on the native connection, against the broker's listeners.

local broker = require("spec.support.broker")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local proxies = require("spec.support.proxy")
local servers = require("spec.support.server")

local WS = "ws://127.0.0.1:" .. broker.ws_port
local WSS = "wss://localhost:" .. broker.wss_port
local UNIX = "unix://" .. broker.socket
local TRUSTING = { cafile = broker.cafile }

-- Returns why a client cannot be made.
local function refusal(opts)
	opts.clean = true
	return (harness.failure(mqtt.client, opts):gsub("^.-:%d+: ", ""))
end

-- Returns why a client cannot connect.
local function failure(opts)
	local subject = harness.client(opts)
	local ok, err = subject:start_connecting()
	assert.is_false(ok)
	return (err:gsub("^failed to open network connection: ", ""))
end

-- Sends a message of each QoS through a client, served together with other things, and waits until they have come back.
local function exchanges(subject, ...)
	local topic, received = harness.topic(), {}
	subject:on("message", function(message)
		received[#received + 1] = message.payload
		if message.qos > 0 then
			subject:acknowledge(message)
		end
	end)
	subject:on("connect", function()
		subject:subscribe({ topic = topic, qos = 2, callback = function()
			for qos = 0, 2 do
				assert(subject:publish({ topic = topic, payload = "qos " .. qos, qos = qos }))
			end
		end })
	end)
	harness.serve({ subject, ... }, function()
		return #received == 3
	end)
	table.sort(received)
	assert.same({ "qos 0", "qos 1", "qos 2" }, received)
end

describe("a transport", function()
	after_each(harness.cleanup)

	for version_name, version in pairs({ ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }) do
		it("carries " .. version_name .. " #unix", function()
			for _, opts in ipairs({
				{ uri = WS },
				{ uri = WS .. "/any/path?query" },
				{ uri = "127.0.0.1:" .. broker.ws_port, protocol = "ws" },
				{ uri = WSS, secure = TRUSTING },
				{ uri = UNIX },
			}) do
				opts.version = version
				local subject = harness.client(opts)
				exchanges(subject)
				assert.equal(subject.opts.secure == TRUSTING, subject:stats().tls_version ~= nil)
				assert.is_true(subject:disconnect())
			end
		end)
	end

	it("shows in the connection #unix", function()
		local subject = harness.connect(harness.client({ uri = WS }))
		local conn = subject.connection
		assert.same({ "ws", "127.0.0.1", broker.ws_port, "/mqtt", false },
			{ conn.protocol, conn.host, conn.port, conn.path, conn.secure })
		subject = harness.connect(harness.client({ uri = UNIX }))
		conn = subject.connection
		assert.same({ "unix", broker.socket, false }, { conn.protocol, conn.path, conn.secure })
		assert.is_nil(conn.host or conn.port)
	end)

	it("moves a message that is larger than every buffer #unix", function()
		local payload = ("0123456789abcdef"):rep(150000)
		for _, opts in ipairs({ { uri = WS }, { uri = WSS, secure = TRUSTING }, { uri = UNIX } }) do
			local topic, received = harness.topic(), nil
			-- By TCP, since this broker sends 4 KiB in 100 ms over WebSocket.
			local subscriber = harness.connect(harness.client({ uri = broker.uri }))
			subscriber:on("message", function(message)
				received = message.payload
			end)
			harness.subscribe(subscriber, topic)
			local subject = harness.connect(harness.client(opts))
			assert(subject:publish({ topic = topic, payload = payload }))
			harness.serve({ subject, subscriber }, function()
				return received
			end)
			assert.is_true(received == payload)
		end
	end)

	it("gathers a burst, and takes one in", function()
		local subject, topic, count = harness.connect(harness.client({ uri = WS })), harness.topic(), 0
		subject:on("message", function()
			count = count + 1
		end)
		harness.subscribe(subject, topic)
		for i = 1, 500 do
			assert(subject:publish({ topic = topic, payload = tostring(i), qos = 0 }))
		end
		harness.serve({ subject }, function()
			return count == 500
		end)
	end)

	it("may follow another one in a list #unix", function()
		for _, last in ipairs({ WS, WSS, UNIX, broker.uri }) do
			local subject = harness.client({
				uri = { "unix:///does/not/exist", "ws://127.0.0.1:" .. broker.port, last },
				secure = last == WSS and TRUSTING or nil,
			})
			local events = harness.record(subject, { "error", "connect" })
			harness.connect(subject)
			assert.same({ "error", "error", "connect" }, harness.names(events))
			assert.matches("connection to '/does/not/exist' failed: No such file", events[1][2], 1, true)
			assert.matches("WebSocket handshake with '127.0.0.1:" .. broker.port .. "' failed: ", events[2][2], 1, true)
			assert.equal(last, subject.connection.uri)
		end
	end)

	it("is kept when a broker refers to another one, but for a Unix socket #unix", function()
		for uri, expected in pairs({
			[WS .. "/path"] = "ws://localhost:" .. broker.ws_port .. "/path",
			[UNIX] = "mqtt://localhost:" .. broker.port,
		}) do
			local subject = harness.connect(harness.client({ uri = uri }))
			subject._brokers:refer(expected:match("//([^/]+)"), true)
			subject:close_connection()
			assert(subject:start_connecting())
			assert.equal(expected, subject.connection.uri)
			subject:disconnect()
		end
	end)

	it("says why it cannot be opened", function()
		assert.matches("^WebSocket handshake with '127.0.0.1:%d+' failed: the server closed the connection, perhaps",
			failure({ uri = "ws://127.0.0.1:" .. broker.port }))
		assert.matches("^TLS handshake with 'localhost:%d+' failed: verification of the server's certificate failed",
			failure({ uri = WSS }))
	end)

	it("sends the headers of ws_headers", function()
		local server = servers.start(4)
		local subject = harness.client({
			uri = server.uri:gsub("^mqtt", "ws") .. "/path",
			ws_headers = { ["X-Tenant"] = "sesame", Authorization = "Bearer sesame" },
		})
		-- Its own protocol is none of the server's.
		server.poll = function()
			local tcp = server.listener:accept()
			if tcp then
				tcp:settimeout(10)
				server.request = {}
				repeat
					local line = tcp:receive()
					table.insert(server.request, line)
				until line == ""
				tcp:send("HTTP/1.1 401 Unauthorized\r\n\r\n")
				tcp:close()
			end
		end
		local events = harness.record(subject, { "error" })
		harness.serve({ subject, server.serve }, function()
			return events[1]
		end)
		server:stop()
		local request = table.concat(server.request, "\n")
		assert.matches("GET /path HTTP/1.1\n", request, 1, true)
		assert.matches("\nx-tenant: sesame\n", request:lower(), 1, true)
		assert.matches("\nauthorization: bearer sesame\n", request:lower(), 1, true)
		assert.matches("failed: the server answers with HTTP status 401 Unauthorized", events[1][2], 1, true)
		assert.is_nil(events[1][2]:find("sesame", 1, true))
	end)

	it("is checked when the client is made", function()
		assert.equal("cannot use protocol 'ws' with 'secure=true|table'", refusal({ uri = "ws://h", secure = true }))
		assert.equal("cannot use protocol 'unix' with 'secure=true|table'", refusal({ uri = UNIX, secure = {} }))
		assert.equal("cannot use protocol 'wss' with 'secure=false'", refusal({ uri = "wss://h", secure = false }))
		assert.equal("only 'mqtt', 'mqtts', 'ws', 'wss' and 'unix' are supported as protocol, got 'http'",
			refusal({ uri = "h", protocol = "http" }))
		assert.equal("expecting a uri as in 'unix:///run/mosquitto.sock' with protocol 'unix'",
			refusal({ uri = "h", protocol = "unix" }))
		assert.equal("path in uri must be absolute, as in 'unix:///run/mosquitto.sock'", refusal({ uri = "unix://run/x" }))
		assert.equal("uri must have no fragment ('#')", refusal({ uri = "ws://h/a#b" }))
		assert.equal("path in uri must begin with '/' and have special characters percent-encoded",
			refusal({ uri = "ws://h/a b" }))
		assert.equal("expecting a host in uri", refusal({ uri = "ws:///mqtt" }))
		assert.equal("expecting ws_headers to be a table", refusal({ uri = "ws://h", ws_headers = "X: y" }))
		for _, case in ipairs({
			{ { Host = "x" }, "ws_headers: 'Host' cannot be set" },
			{ { ["a b"] = "x" }, "ws_headers: 'a b' is not a name of a header" },
			{ { X = "sesame\n" }, "ws_headers: the value of 'X' has characters that a header cannot have" },
			{ { X = 1 }, "expecting ws_headers['X'] to be a string" },
			{ { "x" }, "expecting names of headers as keys of ws_headers" },
		}) do
			assert.equal(case[2], refusal({ uri = "ws://h", ws_headers = case[1] }))
		end
	end)

	it("takes a native connection", function()
		for _, name in ipairs({ "luasocket", "bytes" }) do
			local connector = require("mqtt.connector." .. name)
			for protocol, uri in pairs({ ws = WS, wss = WSS, unix = UNIX }) do
				assert.equal(
					"protocol '" .. protocol .. "' takes a native connection: mqtt.connector.native, without the option ssl_module",
					refusal({ uri = uri, connector = connector }))
			end
			assert.equal(
				"the option proxy takes a native connection: mqtt.connector.native, without the option ssl_module",
				refusal({ uri = "h", proxy = "http://p", connector = connector }))
		end
		assert.matches("^protocol 'wss' takes a native connection: ", refusal({ uri = WSS, ssl_module = "my.ssl" }))
	end)
end)

describe("a proxy", function()
	local proxy

	before_each(function()
		proxy = proxies.start("usr", "sesame:@/")
	end)

	after_each(function()
		harness.cleanup()
		proxy.stop()
	end)

	it("carries every other transport", function()
		for _, opts in ipairs({
			{ uri = "mqtt://localhost:" .. broker.port },
			{ uri = broker.tls_uri, secure = TRUSTING },
			{ uri = "ws://localhost:" .. broker.ws_port },
			{ uri = WSS, secure = TRUSTING },
		}) do
			opts.proxy = "http://usr:sesame%3A@/@127.0.0.1:" .. proxy.port
			local subject = harness.client(opts)
			exchanges(subject, proxy.serve)
			-- It was not looked up here.
			assert.equal("localhost:" .. subject.connection.port, proxy.targets[#proxy.targets])
		end
		assert.equal(4, #proxy.targets)
	end)

	it("is not for Unix sockets #unix", function()
		harness.connect(harness.client({ uri = UNIX, proxy = "http://does-not-exist.invalid" }))
	end)

	it("may refuse, which is an error without credentials", function()
		for _, credentials in ipairs({ "", "usr:wrong@" }) do
			local subject = harness.client({ uri = broker.uri, proxy = "http://" .. credentials .. "127.0.0.1:" .. proxy.port })
			local events = harness.record(subject, { "error" })
			harness.serve({ subject, proxy.serve }, function()
				return events[1]
			end)
			local reason = credentials == "" and "it asks for a username and password" or "it rejects the username or password"
			assert.equal(("failed to open network connection: proxy '127.0.0.1:%d' does not connect to '127.0.0.1:%d': %s")
				:format(proxy.port, broker.port, reason .. " (HTTP status 407)"), events[1][2])
		end
	end)

	it("shares the time for connecting", function()
		local subject = harness.client({ uri = broker.uri, proxy = "http://127.0.0.1:" .. proxy.port, connect_timeout = 0.1 })
		-- The kernel accepts, but the proxy is not served.
		local ok, err = subject:start_connecting()
		assert.is_false(ok)
		assert.matches("timed out after 0.1 s while the proxy connected to '127.0.0.1:", err, 1, true)
	end)

	it("is checked when the client is made", function()
		assert.equal("expecting proxy to be a string", refusal({ uri = "h", proxy = {} }))
		for _, case in ipairs({
			{ "usr:sesame@h", "expecting 'http://' or 'socks5://' and a host" },
			{ "ftp://h", "expecting 'http://' or 'socks5://' and a host" },
			{ "http://usr:sesame@", "expecting a host" },
			{ "socks5://usr@h", "username and password must have 1 to 255 bytes each" },
		}) do
			assert.equal("proxy: " .. case[2], refusal({ uri = "h", proxy = case[1] }))
		end
	end)
end)

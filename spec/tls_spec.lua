-- TLS on the native connection: what is verified, with which settings, and what the errors say.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local copas_loader = require("spec.support.copas")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")

local function client(opts)
	opts.uri = opts.uri or broker.tls_uri
	return harness.client(opts)
end

-- Connects; returns the client.
local function connects(opts)
	return (harness.connect(client(opts)))
end

-- Returns why a client cannot connect.
local function refusal(opts)
	local ok, err = client(opts):start_connecting()
	assert.is_false(ok)
	return err
end

-- Returns what happens to a client whose server finds its certificate missing or bad: in TLS 1.3 that may only be known
-- after the handshake.
local function rejected(opts)
	local subject = client(opts)
	local events = harness.record(subject)
	harness.serve_to_end(subject)
	return events
end

describe("TLS", function()
	after_each(harness.cleanup)

	for version_name, version in pairs({ ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }) do
		it("connects with a cafile, " .. version_name, function()
			local subject = connects({ version = version, secure = { cafile = broker.cafile } })
			assert.is_true(subject.connection.secure)
			assert.equal("localhost", subject.connection.host)
			assert.equal(broker.tls_port, subject.connection.port)
			harness.flush(subject)
		end)
	end

	it("connects with a capath", function()
		connects({ secure = { capath = broker.capath } })
	end)

	it("connects to an address", function()
		connects({ uri = "mqtts://127.0.0.1:" .. broker.tls_port, secure = { cafile = broker.cafile } })
	end)

	it("takes LuaSec's table", function()
		connects({ secure = {
			mode = "client",
			protocol = "any",
			verify = { "peer", "fail_if_no_peer_cert" },
			cafile = broker.cafile,
			options = { "all", "no_sslv2", "no_sslv3" },
			ciphers = "HIGH",
			depth = 3,
		} })
	end)

	for _, protocol in ipairs({ "any", "tlsv1_2", "tlsv1_3" }) do
		it("speaks " .. protocol, function()
			connects({ secure = { protocol = protocol, cafile = broker.cafile } })
		end)
	end

	it("moves a message that is larger than every buffer", function()
		local subject, topic = connects({ secure = { cafile = broker.cafile } }), harness.topic()
		local payload = ("0123456789abcdef"):rep(150000)
		local received
		subject:on("message", function(message)
			received = message.payload
		end)
		harness.subscribe(subject, topic)
		assert(subject:publish({ topic = topic, payload = payload, qos = 1 }))
		harness.serve({ subject }, function()
			return received
		end)
		assert.is_true(received == payload)
	end)

	it("does not trust an unknown issuer", function()
		assert.equal(
			"failed to open network connection: TLS handshake with 'localhost:" .. broker.tls_port
				.. "' failed: verification of the server's certificate failed: unknown issuer "
				.. "\"luamqtt-native test CA\"; secure.cafile names a certificate to trust",
			refusal({ secure = true })
		)
	end)

	it("does not trust a certificate that has expired", function()
		assert.matches(
			"verification of the server's certificate failed: it expired on 2020%-01%-02$",
			refusal({ uri = "mqtts://localhost:" .. broker.expired_port, secure = { cafile = broker.cafile } })
		)
	end)

	it("does not trust a certificate for another name", function()
		assert.matches(
			"verification of the server's certificate failed: it is not valid for name 'localhost', only for other.example$",
			refusal({ uri = "mqtts://localhost:" .. broker.wrong_name_port, secure = { cafile = broker.cafile } })
		)
	end)

	it("verifies the server_name that it is given", function()
		local uri = "mqtts://127.0.0.1:" .. broker.wrong_name_port
		connects({ uri = uri, secure = { cafile = broker.cafile, server_name = "other.example" } })
		assert.matches(
			"not valid for name 'third.example'",
			refusal({ uri = uri, secure = { cafile = broker.cafile, server_name = "third.example" } })
		)
	end)

	it("trusts anybody with verify = 'none'", function()
		connects({ secure = { verify = "none" } })
		connects({ secure = { verify = { "none" } } })
		connects({ secure = { verify = { "none", "none" } } })
		connects({ uri = "mqtts://localhost:" .. broker.expired_port, secure = { verify = "none" } })
		connects({ uri = "mqtts://localhost:" .. broker.wrong_name_port, secure = { verify = "none" } })
	end)

	-- LuaSec joins flags.
	for _, verify in ipairs({
		{ "peer", "none" },
		{ "none", "peer" },
		{ "none", "fail_if_no_peer_cert" },
		{},
	}) do
		it("trusts not anybody with verify = { " .. table.concat(verify, ", ") .. " }", function()
			assert.matches("verification of the server's certificate failed: unknown issuer",
				refusal({ secure = { verify = verify } }))
			connects({ secure = { verify = verify, cafile = broker.cafile } })
		end)
	end

	it("tells the client by events, too", function()
		local events = rejected({ secure = true })
		assert.same({ "error" }, harness.names(events))
		assert.matches("verification of the server's certificate failed: unknown issuer ", events[1][2])
	end)

	it("says when the server does not speak TLS", function()
		assert.matches(
			"TLS handshake with '127.0.0.1:%d+' failed: ",
			refusal({ uri = "mqtts://127.0.0.1:" .. broker.port, secure = { verify = "none" } })
		)
	end)

	for name, settings in pairs({
		["a PKCS #8 key"] = { certificate = broker.certificate, key = broker.key_pkcs8 },
		["a PKCS #1 key"] = { certificate = broker.certificate, key = broker.key_pkcs1 },
		["an encrypted key"] = {
			certificate = broker.certificate,
			key = broker.key_encrypted,
			password = broker.key_password,
		},
		["a SEC1 key"] = { certificate = broker.ec_certificate, key = broker.ec_key_sec1 },
	}) do
		it("shows a client certificate with " .. name, function()
			settings.cafile = broker.cafile
			connects({ uri = "mqtts://localhost:" .. broker.mutual_port, secure = settings })
		end)
	end

	it("asks for the key's password when the client is made, once for each secure table", function()
		local asked = 0
		local subject = client({
			uri = "mqtts://localhost:" .. broker.mutual_port,
			secure = {
				cafile = broker.cafile,
				certificate = broker.certificate,
				key = broker.key_encrypted,
				password = function()
					asked = asked + 1
					return broker.key_password
				end,
			},
		})
		assert.equal(1, asked)
		harness.connect(subject)
		subject:disconnect()
		assert.is_true(subject:start_connecting())
		harness.connect(subject)
		assert.equal(1, asked)
		assert.equal("function", type(subject.opts.secure.password))
	end)

	it("refuses what a password function returns if it is no string", function()
		harness.blames_caller("secure: expecting password to be a string, got: number", mqtt.client, {
			uri = broker.tls_uri,
			clean = true,
			secure = { certificate = broker.certificate, key = broker.key_encrypted, password = function()
				return 1
			end },
		})
	end)

	-- Windows throws away what was received when the peer resets the connection.
	it("without a client certificate is ended by a server that wants one #unix", function()
		local events = rejected({
			uri = "mqtts://localhost:" .. broker.mutual_port,
			secure = { cafile = broker.cafile },
		})
		assert.equal("error", events[1][1])
		assert.matches("the server wants a client certificate", events[1][2])
	end)

	it("offers the protocols of alpn", function()
		connects({ secure = { cafile = broker.cafile, alpn = "mqtt" } })
		connects({ secure = { cafile = broker.cafile, alpn = { "mqtt", "other" } } })
	end)

	it("uses the secure table of the next connection", function()
		local subject = client({ secure = true })
		assert.is_false((subject:start_connecting()))
		subject.opts.secure = { cafile = broker.cafile }
		assert.is_true(subject:start_connecting())
		harness.connect(subject)
	end)

	for text, secure in pairs({
		["secure: unexpected setting 'cafiles'"] = { cafiles = "x" },
		['secure: expecting mode to be "client"'] = { mode = "server" },
		["secure: expecting cafile to be a string, got: number"] = { cafile = 1 },
	}) do
		it("refuses bad settings when the client is made: " .. text, function()
			harness.blames_caller(text, mqtt.client, { uri = broker.tls_uri, clean = true, secure = secure })
		end)
	end

	for text, secure in pairs({
		["no%-such%-file"] = { cafile = "no-such-file" },
		["no%-such%-dir"] = { capath = "no-such-dir" },
		["no%-such%-cert"] = { certificate = "no-such-cert", key = broker.key_pkcs8 },
		["no%-such%-key"] = { certificate = broker.certificate, key = "no-such-key" },
		["sslv3"] = { protocol = "sslv3" },
		["tlsv1_1"] = { protocol = "tlsv1_1" },
		["certificate"] = { key = broker.key_pkcs8 },
		["key"] = { certificate = broker.certificate },
		["password"] = { certificate = broker.certificate, key = broker.key_encrypted },
		["password.*"] = { certificate = broker.certificate, key = broker.key_encrypted, password = "wrong" },
	}) do
		it("refuses settings that cannot work when the client is made, naming: " .. text, function()
			local err = harness.failure(mqtt.client, { uri = broker.tls_uri, clean = true, secure = secure })
			assert.matches("^[^:]*spec.*: secure: .*" .. text, err)
			assert.not_matches("wrong", err)
		end)
	end

	for variable, value in pairs({ SSL_CERT_FILE = broker.cafile, SSL_CERT_DIR = broker.capath }) do
		it("trusts the system's roots, which " .. variable .. " replaces", function()
			local output = child.run([[
				local client = require("mqtt").client({ uri = %q, clean = true, on = { connect = function(packet, client)
					print("connected", packet.rc)
					client:disconnect()
				end, error = print } })
				require("mqtt").run_ioloop(client)
			]], broker.tls_uri, { [variable] = value })
			assert.equal("connected\t0\n", output)
		end)
	end
end)

describe("a TLS module of the program's own #luasec", function()
	local wrapped

	setup(function()
		local ssl = require("ssl")
		package.loaded.own_ssl = {
			newcontext = ssl.newcontext,
			wrap = function(...)
				wrapped = wrapped + 1
				return ssl.wrap(...)
			end,
		}
	end)

	before_each(function()
		wrapped = 0
	end)

	teardown(function()
		package.loaded.own_ssl = nil
	end)

	after_each(harness.cleanup)

	it("is used instead of the native TLS", function()
		local subject = connects({ ssl_module = "own_ssl", secure = { cafile = broker.cafile } })
		assert.equal(1, wrapped)
		harness.flush(subject)
	end)

	it("is not needed for a plain connection", function()
		local subject = client({ uri = broker.uri, ssl_module = "own_ssl" })
		assert.is_truthy(subject:getfd())
		harness.connect(subject)
		assert.equal(0, wrapped)
	end)

	it("is told of settings that are of no use when the client is made", function()
		for text, opts in pairs({
			["ssl_module 'no_such_module' cannot be loaded"] = { ssl_module = "no_such_module", secure = true },
			["error loading CA locations"] = { ssl_module = "own_ssl", secure = { cafile = "no-such-file" } },
			["error loading private key"] = {
				ssl_module = "own_ssl",
				secure = { cafile = broker.cafile, certificate = broker.certificate, key = "no-such-key" },
			},
		}) do
			opts.uri, opts.clean = broker.tls_uri, true
			local err = harness.failure(mqtt.client, opts)
			assert.matches("^[^:]*spec.*: secure: .*" .. text, err)
		end
	end)

	it("is used in Copas threads", function()
		local copas, reason = copas_loader.load(4)
		finally(function()
			package.loaded["mqtt.connector.copas"] = nil
			copas_loader.unload()
		end)
		if not copas then
			pending(reason)
			return
		end
		local subject = client({ ssl_module = "own_ssl", secure = { cafile = broker.cafile } })
		local kind, ended
		subject:on("connect", function()
			kind = subject.connection.type
			subject:disconnect()
		end)
		copas.addthread(function()
			mqtt.run_sync(subject)
			ended = true
		end)
		local deadline = harness.deadline()
		while not ended do
			assert.is_true(harness.now() < deadline, "it did not end in time")
			copas.step(0.1)
		end
		assert.equal(1, wrapped)
		assert.equal("buffered, yielding i/o", kind)
	end)
end)

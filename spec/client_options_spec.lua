-- What mqtt.client takes and refuses, before there is any connection.

local harness = require("spec.support.harness")
local mqtt = require("mqtt")

local function copy(opts)
	local result = {}
	for key, value in pairs(opts) do
		result[key] = value
	end
	return result
end

describe("an option of mqtt.client", function()
	local function refuses(text, opts)
		harness.blames_caller(text, mqtt.client, opts)
	end

	it("has a string as its name", function()
		refuses("expecting string key in opts, got: number", { 1 })
		refuses("expecting string key in opts, got: boolean", { [true] = 1 })
	end)

	it("is one of the documented ones", function()
		refuses("unexpected key in client opts: unexpected = true", { unexpected = true })
		refuses("unexpected key in client opts: Uri = host, did you mean uri?", { Uri = "host" })
	end)

	for name, expected in pairs({
		uri = "a string",
		protocol = "a string",
		host = "a string",
		port = "a number",
		id = "a string",
		username = "a string",
		password = "a string",
		ssl_module = "a string",
		keep_alive = "a number",
		connect_timeout = "a number",
		follow_server_reference = "a boolean",
		auto_ack = "a boolean",
		version = "a number: mqtt.v311 or mqtt.v50",
		properties = "a table",
		user_properties = "a table",
		will = "a table",
		connector = "a table",
		reconnect = "a boolean or number",
		secure = "a boolean or table",
		clean = "a boolean, or 'first'",
	}) do
		it(name .. " is " .. expected, function()
			for _, value in ipairs({ "text", 1, true, {}, print }) do
				-- What these tables may hold has specs of its own.
				local is_taken = (name == "uri" or name == "reconnect") and type(value) == "table"
				if not (is_taken or expected:find(type(value), 1, true) or name == "clean" and value == true) then
					refuses("expecting " .. name .. " to be " .. expected, { [name] = value })
				end
			end
		end)
	end

	it("clean is no other string than 'first'", function()
		refuses("expecting clean to be a boolean, or 'first'", { clean = "second" })
	end)

	it("version is 4 or 5", function()
		for _, version in ipairs({ 3, 6, 4.5, 0 }) do
			refuses("expecting version to be a value either 4 or 5: mqtt.v311 or mqtt.v50", { version = version })
		end
	end)

	it("connect_timeout is above 0", function()
		for _, value in ipairs({ 0, -1, 0 / 0, math.huge }) do
			refuses("expecting connect_timeout to be a number of seconds above 0, got: " .. tostring(value),
				{ connect_timeout = value })
		end
	end)

	it("uri may be a list of strings, each of them sound", function()
		local no_list = "expecting uri to be a string or a list of strings, got "
		refuses(no_list .. "an empty list", { uri = {} })
		refuses(no_list .. "a table with the key host", { uri = { host = "a" } })
		refuses("expecting uri[2] to be a string, got: number", { uri = { "a", 2 } })
		refuses("expecting uri[1] to be a string, got: nil", { uri = { [2] = "b" } })
		refuses("uri[2]: only 'mqtt', 'mqtts', 'ws', 'wss' and 'unix' are supported as scheme in uri, got: 'http'",
			{ uri = { "a", "http://b" }, clean = true })
		refuses("uri[2]: cannot use protocol 'mqtt' with 'secure=true|table'",
			{ uri = { "mqtts://a", "mqtt://b" }, clean = true, secure = true })
	end)

	it("reconnect may be a table of delays", function()
		local function refuses_table(text, reconnect)
			refuses(text, { uri = "host", clean = true, reconnect = reconnect })
		end
		for _, name in ipairs({ "min", "max" }) do
			for _, value in ipairs({ 0, -1, "1", true, 0 / 0, math.huge }) do
				refuses_table(("expecting reconnect.%s to be a number of seconds above 0, got: %s"):format(name, tostring(value)),
					{ [name] = value })
			end
		end
		for _, value in ipairs({ -0.5, 1.5, "1", 0 / 0 }) do
			refuses_table("expecting reconnect.jitter to be a number from 0 to 1, got: " .. tostring(value), { jitter = value })
		end
		refuses_table("unexpected key in reconnect: wait = 5", { wait = 5 })
		refuses_table("unexpected key in reconnect: 1 = 5", { 5 })
		refuses_table("expecting reconnect.min to be at most reconnect.max, got: 3 and 2", { min = 3, max = 2 })
		for _, reconnect in ipairs({ {}, { min = 100 }, { max = 0.5 }, { min = 2, max = 2, jitter = 0 }, { jitter = 1 } }) do
			assert.equal(reconnect, mqtt.client({ uri = "host", clean = true, reconnect = reconnect }).opts.reconnect)
		end
	end)

	it("is checked by its type before anything is missed", function()
		refuses("expecting id to be a string", { id = 1 })
		refuses("expecting id to be a string", { uri = "host", id = 1 })
		refuses("unexpected key in client opts: x = 1", { clean = true, x = 1 })
	end)

	it("uri is required, and clean", function()
		refuses('expecting uri="..." to create MQTT client', {})
		refuses('expecting uri="..." to create MQTT client', { clean = true })
		refuses("expecting clean=true, clean=false, or clean='first' to create MQTT client", { uri = "host" })
	end)

	it("will is checked field by field", function()
		for text, will in pairs({
			["expecting will.topic to be a string"] = { payload = "gone" },
			["expecting will.payload to be a string, got a number: use tostring"] = { topic = "t", payload = 1 },
			["expecting will.qos to be a number"] = { topic = "t", payload = "", qos = "1" },
			["expecting will.qos to be a valid QoS value"] = { topic = "t", payload = "", qos = 3 },
			["expecting will.retain to be a boolean"] = { topic = "t", payload = "", retain = 1 },
		}) do
			refuses(text, { uri = "host", clean = true, will = will })
		end
	end)

	it("on holds handlers of known events", function()
		refuses("invalid event 'nonsense' to handle", { uri = "host", clean = true, on = { nonsense = print } })
		refuses("expecting func to be a function", { uri = "host", clean = true, on = { message = "text" } })
		refuses("expecting 'on' to be a table with events and callbacks", { on = print })
	end)

	it("may not contradict another", function()
		refuses("cannot use protocol 'mqtts' with 'secure=false'", { uri = "mqtts://host", clean = true, secure = false })
		refuses("cannot use protocol 'mqtt' with 'secure=true|table'", { uri = "mqtt://host", clean = true, secure = true })
		refuses("password is not accepted in absence of username", { uri = "host", clean = true, password = "secret" })
	end)

	it("may add TLS to the scheme of the uri, and change it no other way", function()
		for _, case in ipairs({
			{ "mqtts", "mqtt" }, { "mqtts", "ws" }, { "mqtts", "wss" }, { "mqtt", "ws" }, { "mqtt", "wss" },
			{ "wss", "ws" }, { "wss", "mqtt" }, { "wss", "mqtts" }, { "ws", "mqtt" }, { "ws", "mqtts" },
			{ "unix", "mqtt" }, { "unix", "mqtts" }, { "unix", "ws" }, { "mqtt", "unix" },
		}) do
			local scheme, protocol = case[1], case[2]
			local uri = scheme .. (scheme == "unix" and ":///run/socket" or "://host")
			local text = ("cannot use protocol '%s' with a uri that begins with '%s://'"):format(protocol, scheme)
			for _, secure in ipairs({ "unset", true, false }) do
				local opts = { uri = uri, protocol = protocol, host = "other", clean = true }
				if secure ~= "unset" then
					opts.secure = secure
				end
				refuses(text, opts)
			end
			refuses("uri[1]: " .. text, { uri = { uri }, protocol = protocol, host = "other", clean = true })
		end
		for scheme, protocol in pairs({ mqtt = "mqtts", ws = "wss" }) do
			for _, same in ipairs({ scheme, protocol }) do
				local subject = mqtt.client({ uri = scheme .. "://host", protocol = same, clean = true })
				assert.equal(same == protocol, subject.opts.secure)
			end
		end
	end)

	it("password needs no username in MQTT 5.0", function()
		assert.equal("secret", mqtt.client({ uri = "host", clean = true, version = 5, password = "secret" }).opts.password)
	end)
end)

describe("mqtt.client", function()
	local all = {
		uri = "broker.example",
		clean = true,
		version = mqtt.v50,
		id = "spec",
		username = "user",
		password = "secret",
		protocol = "mqtts",
		host = "other.example",
		port = 8884,
		secure = true,
		will = { topic = "will", payload = "gone", qos = 1, retain = true },
		keep_alive = 15,
		properties = { session_expiry_interval = 20 },
		user_properties = { a = "b", c = "d" },
		reconnect = 5,
		connect_timeout = 10,
		follow_server_reference = true,
		auto_ack = true,
		connector = require("mqtt.connector"),
		ssl_module = "ssl",
		on = { message = function() end },
	}

	it("takes every documented option, and neither changes nor keeps the table", function()
		local given = copy(all)
		local client = mqtt.client(given)
		assert.same(all, given)
		for key, value in pairs(all) do
			assert.equal(value, client.opts[key])
		end
		given.id = "changed"
		assert.equal("spec", client.opts.id)
	end)

	it("takes one table for two clients", function()
		local opts = { uri = "mqtt://user:secret@host", clean = "first" }
		local one, two = mqtt.client(opts), mqtt.client(opts)
		assert.same({ uri = "mqtt://user:secret@host", clean = "first" }, opts)
		assert.not_equal(one.opts.id, two.opts.id)
		one.opts.clean = false
		assert.equal("first", two.opts.clean)
	end)

	it("has defaults", function()
		local opts = mqtt.client({ uri = "host", clean = true }).opts
		assert.equal(4, opts.version)
		assert.equal(60, opts.keep_alive)
		assert.is_falsy(opts.reconnect)
	end)

	it("takes reconnect = true for 30 seconds, and false for never", function()
		assert.equal(30, mqtt.client({ uri = "host", clean = true, reconnect = true }).opts.reconnect)
		assert.equal(false, mqtt.client({ uri = "host", clean = true, reconnect = false }).opts.reconnect)
	end)

	it("makes up an id of its own for each client", function()
		local ids = {}
		for _ = 1, 20 do
			local id = mqtt.client({ uri = "host", clean = true }).opts.id
			assert.matches("^luamqtt%-v1%-0%-2%-" .. ("%x"):rep(16) .. "$", id)
			assert.is_nil(ids[id])
			ids[id] = true
		end
	end)

	it("starts without a connection", function()
		local client = mqtt.client({ uri = "no-such-host.invalid", clean = true })
		assert.is_nil(client.connection)
		assert.is_true(client.first_connect)
		assert.equal("number", type(client.send_time))
		assert.equal(client.opts, client.args)
	end)

	it("is shown by its id", function()
		assert.equal('mqtt.client{id="spec"}', tostring(mqtt.client({ uri = "host", clean = true, id = "spec" })))
	end)

	it("adds the handlers of its option on", function()
		local handler = function() end
		local client = mqtt.client({ uri = "host", clean = true, on = { message = handler } })
		assert.same({ handler }, client.handlers.message)
	end)

	it("is what mqtt.client.create makes", function()
		assert.equal(require("mqtt.client").create, mqtt.client)
	end)
end)

describe("the connection table", function()
	local parse

	setup(function()
		-- Not `insulate`: that would load the core a second time, too.
		local loaded = package.loaded["mqtt.client"]
		_G._TEST, package.loaded["mqtt.client"] = true, nil
		parse = require("mqtt.client").__parse_connection_opts
		_G._TEST, package.loaded["mqtt.client"] = nil, loaded
	end)

	-- Returns the options and the connection table after parsing, without what no program looks at.
	local function parsed(opts)
		opts = type(opts) == "string" and { uri = opts } or copy(opts)
		local conn = { uri = opts.uri }
		parse(opts, conn)
		assert.equal(opts.uri, conn.uri)
		opts.uri, conn.uri, conn.secure_params = nil, nil, nil
		return opts, conn
	end

	it("is only shown to tests", function()
		assert.is_nil(require("mqtt.client").__parse_connection_opts)
	end)

	for uri, expected in pairs({
		["mqtts://user:secret@broker.example:123"] = {
			{ username = "user", password = "secret", secure = true },
			{ protocol = "mqtts", host = "broker.example", port = 123, secure = true, ssl_module = "ssl" },
		},
		["user:secret@broker.example:123"] = {
			{ username = "user", password = "secret" },
			{ protocol = "mqtt", host = "broker.example", port = 123, secure = false },
		},
		["user@broker.example"] = {
			{ username = "user" },
			{ protocol = "mqtt", host = "broker.example", port = 1883, secure = false },
		},
		["mqtts://broker.example:123"] = {
			{ secure = true },
			{ protocol = "mqtts", host = "broker.example", port = 123, secure = true, ssl_module = "ssl" },
		},
		["mqtts://user:secret@broker.example/"] = {
			{ username = "user", password = "secret", secure = true },
			{ protocol = "mqtts", host = "broker.example", port = 8883, secure = true, ssl_module = "ssl" },
		},
		["mqtt://broker.example"] = {
			{ secure = false },
			{ protocol = "mqtt", host = "broker.example", port = 1883, secure = false },
		},
		["mqtts://broker.example"] = {
			{ secure = true },
			{ protocol = "mqtts", host = "broker.example", port = 8883, secure = true, ssl_module = "ssl" },
		},
		["broker.example:123"] = {
			{},
			{ protocol = "mqtt", host = "broker.example", port = 123, secure = false },
		},
		["broker.example"] = {
			{},
			{ protocol = "mqtt", host = "broker.example", port = 1883, secure = false },
		},
		["mqtt://[::1]:123"] = {
			{ secure = false },
			{ protocol = "mqtt", host = "::1", port = 123, secure = false },
		},
		["mqtt://us%40er:pass%3Aw%40rd@127.0.0.1"] = {
			{ username = "us@er", password = "pass:w@rd", secure = false },
			{ protocol = "mqtt", host = "127.0.0.1", port = 1883, secure = false },
		},
	}) do
		it("is filled from " .. uri, function()
			local opts, conn = parsed(uri)
			assert.same(expected[1], opts)
			assert.same(expected[2], conn)
		end)
	end

	it("is filled from explicit options first", function()
		local opts, conn = parsed({
			uri = "mqtt://user:secret@broker.example:123",
			protocol = "mqtt",
			host = "other.example",
			port = 456,
			username = "arthur",
			password = "king",
		})
		assert.same({
			protocol = "mqtt",
			host = "other.example",
			port = 456,
			username = "arthur",
			password = "king",
			secure = false,
		}, opts)
		assert.same({ protocol = "mqtt", host = "other.example", port = 456, secure = false }, conn)
	end)

	it("is secure by the option alone", function()
		local secure = { verify = "none" }
		local opts, conn = parsed({ uri = "broker.example", secure = secure, ssl_module = "my.ssl" })
		assert.equal(secure, opts.secure)
		assert.same({ protocol = "mqtts", host = "broker.example", port = 8883, secure = true, ssl_module = "my.ssl" }, conn)
	end)

	-- A port or host that is not one may be a password whose '@' was forgotten: it is not shown.
	for _, case in ipairs({
		{ "mqtts.*secure=false", { uri = "mqtts://host", secure = false } },
		{ "mqtt'.*secure=true", { uri = "mqtt://host", secure = true } },
		{ "mqtt'.*secure=true|table", { uri = "mqtt://host", secure = {} } },
		{ "scheme.*http", { uri = "http://host" } },
		{ "protocol.*http", { uri = "host", protocol = "http" } },
		{ "expecting a host in uri", { uri = "mqtt://" } },
		{ "^port in uri must be a number from 1 to 65535", { uri = "host:0" } },
		{ "^port in uri must be a number from 1 to 65535", { uri = "host:65536" } },
		{ "^port in uri must be a number from 1 to 65535", { uri = "user:secret" } },
		{ "port.*got 0", { uri = "host", port = 0 } },
		{ "port.*got 1.5", { uri = "host", port = 1.5 } },
		{ "^uri must end after host and port, got a path", { uri = "mqtt://host/mqtt" } },
		{ "^uri must end after host and port, got a path", { uri = "mqtts://host//" } },
		{ "^uri must end after host and port, got a path", { uri = "mqtt://host/?query" } },
		{ "^port in uri must be a number from 1 to 65535", { uri = "mqtt://user:secret/" } },
		{ "^host in uri must be a name in ASCII, an IPv4 address or an IPv6 address in brackets", { uri = "::1" } },
		{ "password in uri", { uri = "mqtt://:secret@host" } },
	}) do
		local text, opts = case[1], case[2]
		it("is refused for " .. opts.uri .. ", naming the part: " .. text, function()
			local err = harness.failure(parsed, opts)
			assert.matches(text, err)
			assert.not_matches("secret", err)
		end)
	end
end)

-- What programs written for luamqtt 3.x need: connectors that are tables of functions, and the loops of that time.

local broker = require("spec.support.broker")
local copas_loader = require("spec.support.copas")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")
local protocol4 = require("mqtt.protocol4")
local servers = require("spec.support.server")

local v3 = require("mqtt.connector.v3")

local CONNACK = "\32\2\0\0"
local PUBLISH = "\48\204\1\0\2ab" .. ("p"):rep(200)

-- The functions of a table alone: what a program's own connector has that calls them.
local function functions(connector)
	local own = {}
	for _, name in ipairs({ "connect", "shutdown", "send", "receive", "settimeout" }) do
		own[name] = connector[name]
	end
	return own
end

-- Subscribes, sends itself a message of each QoS and ends. Returns a function that says what has arrived.
local function greet_itself(client)
	local topic, received = harness.topic(), {}
	client:on({
		connect = function(connack)
			assert.equal(0, connack.rc)
			client:subscribe({ topic = topic, qos = 2, callback = function()
				for qos = 0, 2 do
					client:publish({ topic = topic, payload = ("x"):rep(100000) .. qos, qos = qos })
				end
			end })
		end,
		message = function(message)
			client:acknowledge(message)
			received[#received + 1] = #message.payload .. " " .. message.payload:sub(-1)
			if #received == 3 then
				client:disconnect()
			end
		end,
	})
	return function()
		assert.same({ "100001 0", "100001 1", "100001 2" }, received)
	end
end

-- A connector on a stream that holds `bytes`. `pieces` says how many arrive from one receive to the next; 0 is nothing
-- at all. `passes` says whether it returns what has arrived when that is less than it is asked for.
local function stream(bytes, pieces, passes)
	local arrived, taken, count = 0, 0, 0
	local connector = { timeouts = {} }
	function connector.connect()
		return true
	end
	function connector.shutdown() end
	function connector.settimeout(_, seconds)
		table.insert(connector.timeouts, seconds or "for ever")
	end
	function connector.send(_, data)
		return #data
	end
	function connector.receive(_, size)
		if taken == #bytes then
			return nil, connector.ending or "timeout"
		end
		if arrived - taken < size then
			count = count % #pieces + 1
			arrived = math.min(arrived + pieces[count], #bytes)
		end
		local part = bytes:sub(taken + 1, math.min(taken + size, arrived))
		taken = taken + #part
		if #part == size then
			return part
		end
		return nil, count % 2 == 0 and "timeout" or "wantread", passes and part or nil
	end
	return connector
end

describe("a connector of luamqtt 3.x", function()
	after_each(harness.cleanup)

	for name, passes in pairs({ ["which returns parts"] = true, ["which keeps parts to itself"] = false }) do
		for _, pieces in ipairs({ { 1 }, { 0, 1 }, { 2, 0, 3 }, { 7 }, { 100, 0 }, { 1000 } }) do
			it(("receives in pieces of %s, %s"):format(table.concat(pieces, ", "), name), function()
				local connector = stream(CONNACK .. PUBLISH .. PUBLISH, pieces, passes)
				local subject = harness.client({ connector = connector })
				local payloads = {}
				subject:on("message", function(message)
					payloads[#payloads + 1] = message.payload
				end)
				harness.serve({ subject }, function()
					return #payloads == 2
				end)
				assert.same({ ("p"):rep(200), ("p"):rep(200) }, payloads)
				assert.is_nil(subject.connection.close_reason)
			end)
		end
	end

	it("is asked for single bytes until it has returned a part", function()
		local sizes = {}
		local connector = stream(CONNACK .. PUBLISH, { #CONNACK, 0, 1000 }, true)
		local receive = connector.receive
		function connector.receive(conn, size)
			sizes[#sizes + 1] = size
			return receive(conn, size)
		end
		local subject = harness.client({ connector = connector })
		local done
		subject:on("message", function()
			done = true
		end)
		harness.serve({ subject }, function()
			return done
		end)
		-- CONNACK, nothing, and PUBLISH: its type and two bytes of length, and the rest
		assert.same({ 1, 1, 1, 1, 1, 2, 1, 204 }, sizes)
	end)

	it("that says so is not asked for single bytes", function()
		local connector = stream(CONNACK, { 4 }, true)
		connector.returns_partial = true
		local conn = setmetatable({}, v3.class(connector))
		assert.equal(CONNACK, conn:receive(4))
	end)

	it("sends what is left when it has sent a part", function()
		for name, send in pairs({
			-- The index of the last byte, as an index or with the error.
			index = function(sent, data, i)
				local part = data:sub(i or 1, (i or 1) + 6)
				sent[#sent + 1] = part
				return (i or 1) + #part - 1
			end,
			["error"] = function(sent, data, i)
				local part = data:sub(i or 1, (i or 1) + 6)
				sent[#sent + 1] = part
				if #part < 7 then
					return (i or 1) + #part - 1
				end
				return nil, #sent % 2 == 0 and "timeout" or "wantwrite", (i or 1) + 6
			end,
		}) do
			local sent = {}
			local connector = stream(CONNACK, { 4 })
			function connector.send(_, data, i)
				return send(sent, data, i)
			end
			local conn = setmetatable({}, v3.class(connector))
			local data = ("0123456789"):rep(20000)
			assert.is_true(conn:send(data))
			assert.is_true(data == table.concat(sent), name)
		end
	end)

	it("that cannot send costs the connection", function()
		for expected, results in pairs({
			["connector.send failed: closed"] = { nil, "closed" },
			["connector.send failed: timeout"] = { nil, "timeout", 0 },
			["connector.send failed: wantwrite"] = { nil, "wantwrite" },
			["connector.send failed: nothing was sent"] = { 0 },
		}) do
			local connector = stream(CONNACK, { 4 })
			function connector.send()
				return results[1], results[2], results[3]
			end
			local subject = harness.client({ connector = connector })
			local ok, err = subject:start_connecting()
			assert.is_false(ok)
			assert.equal("failed to send CONNECT: " .. expected, err)
		end
	end)

	it("tells how the connection ends", function()
		for ending, expected in pairs({
			closed = "connection closed by broker",
			["no carrier"] = "error",
		}) do
			local connector = stream(CONNACK, { 4 })
			connector.ending = ending
			local subject = harness.client({ connector = connector })
			local events = harness.record(subject, { "error", "close" })
			harness.serve_to_end(subject)
			assert.equal(expected == "error" and ending or expected, events[1][2])
			assert.equal(expected, events[2][2].close_reason)
		end
	end)

	it("tells why there is no connection", function()
		local connector = stream("", { 0 })
		function connector.connect()
			return false, "no line"
		end
		local ok, err = harness.client({ connector = connector }):start_connecting()
		assert.is_false(ok)
		assert.equal("failed to open network connection: no line", err)
	end)

	it("waits only shortly in a loop, and long in run_sync", function()
		local connector = stream(CONNACK, { 4 })
		local subject = harness.client({ connector = connector, keep_alive = 1000 })
		assert(subject:start_connecting())
		subject:step()
		local last = connector.timeouts[#connector.timeouts]
		assert.is_true(last > 0 and last < 0.1)
		subject:_sync_iteration()
		last = connector.timeouts[#connector.timeouts]
		assert.is_true(last > 700 and last <= 1000)
		subject.opts.keep_alive = 0
		subject:close_connection()

		connector = stream(CONNACK, { 4 })
		subject = harness.client({ connector = connector, keep_alive = 0 })
		assert(subject:start_connecting())
		subject:step()
		subject:_sync_iteration()
		assert.equal("for ever", connector.timeouts[#connector.timeouts])
		subject:step()
		assert.is_true(connector.timeouts[#connector.timeouts] < 0.1)
	end)

	it("finds complete TLS settings", function()
		local connector = stream("", { 0 })
		local params
		function connector.connect(conn)
			params = conn.secure_params
			return false, "that is all"
		end
		local secure = { cafile = broker.cafile }
		harness.client({ connector = connector, uri = broker.tls_uri, secure = secure }):start_connecting()
		assert.equal("client", params.mode)
		assert.equal("peer", params.verify)
		assert.equal(broker.cafile, params.cafile)
		assert.same({ cafile = broker.cafile }, secure)
	end)

	it("must be complete", function()
		for _, name in ipairs({ "connect", "shutdown", "send", "receive" }) do
			local connector = stream("", { 0 })
			connector[name] = nil
			harness.blames_caller("expecting connector." .. name .. " to be a function", function()
				mqtt.client({ uri = "localhost", clean = true, connector = connector })
			end)
		end
		local connector = stream("", { 0 })
		connector.settimeout = nil
		harness.blames_caller("expecting connector.validate to be a function", function()
			mqtt.client({ uri = "localhost", clean = true, connector = connector })
		end)
	end)
end)

describe("the connectors that come under the names of luamqtt 3.x", function()
	after_each(harness.cleanup)

	local runs = {
		run_ioloop = mqtt.run_ioloop,
		run_sync = mqtt.run_sync,
	}

	for run_name, run in pairs(runs) do
		for _, name in ipairs({ "mqtt.luasocket", "mqtt.luasocket_ssl" }) do
			local secure = name == "mqtt.luasocket_ssl" and { cafile = broker.cafile } or nil
			local uri = secure and broker.tls_uri or broker.uri
			local tag = secure and " #luasec" or ""
			it(name .. " serves " .. run_name .. tag, function()
				local subject = harness.client({ uri = uri, secure = secure, connector = require(name) })
				local check = greet_itself(subject)
				run(subject)
				check()
			end)

			it("the functions of " .. name .. " serve " .. run_name .. tag, function()
				local subject = harness.client({ uri = uri, secure = secure, connector = functions(require(name)) })
				local check = greet_itself(subject)
				run(subject)
				check()
			end)
		end
	end

	it("keep the connection alive in run_sync", function()
		local connector, pings = functions(require("mqtt.luasocket")), 0
		local send, receive = connector.send, connector.receive
		local client = harness.client({ connector = connector, keep_alive = 1 })
		function connector.send(conn, data, i)
			pings = pings + (data == "\192\0" and 1 or 0)
			return send(conn, data, i)
		end
		function connector.receive(conn, size)
			-- The second one is sent only if the first one was answered.
			if pings == 2 then
				client:disconnect()
				return nil, "closed"
			end
			return receive(conn, size)
		end
		mqtt.run_sync(client)
		assert.is_nil(client.connection)
		assert.equal(2, pings)
	end)

	it("mqtt.luasocket does TLS where it is the connector itself #luasec", function()
		local subject = harness.tls_client({ connector = require("mqtt.luasocket") })
		local check = greet_itself(subject)
		mqtt.run_ioloop(subject)
		check()
	end)

	it("the functions of mqtt.luasocket_ssl verify the server #luasec", function()
		local connector = functions(require("mqtt.luasocket_ssl"))
		for uri, secure in pairs({
			[broker.tls_uri] = true,
			["mqtts://localhost:" .. broker.wrong_name_port] = { cafile = broker.cafile },
		}) do
			local ok, err = harness.client({ uri = uri, secure = secure, connector = connector }):start_connecting()
			assert.is_false(ok)
			assert.matches("verification of the server's certificate failed", err, nil, true)
		end
	end)

	for version = 1, 4, 3 do
		local copas, reason = copas_loader.load(version)
		copas_loader.unload()

		for _, name in ipairs({ "the connector", "the functions" }) do
			it(("mqtt.luasocket-copas serves run_sync in Copas %d, %s"):format(version, name), function()
				if not copas then
					pending(reason)
					return
				end
				finally(function()
					for _, module in ipairs({ "mqtt.luasocket-copas", "mqtt.connector.copas" }) do
						package.loaded[module] = nil
					end
					copas_loader.unload()
				end)
				local loaded = copas_loader.load(version)
				package.loaded["mqtt.connector.copas"] = nil
				local connector = require("mqtt.luasocket-copas")
				local subject = harness.client({
					connector = name == "the connector" and connector or functions(connector),
				})
				local check = greet_itself(subject)
				local ended
				loaded.addthread(function()
					mqtt.run_sync(subject)
					ended = true
				end)
				local deadline = harness.deadline()
				while not ended do
					assert.is_true(harness.now() < deadline, "it did not end in time")
					loaded.step(0.1)
				end
				check()
			end)
		end
	end

	it("mqtt.ngxsocket can be loaded outside of nginx", function()
		assert.is_true(v3.is(require("mqtt.ngxsocket")))
	end)
end)

describe("mqtt.ngxsocket", function()
	local connector = require("mqtt.ngxsocket")
	local calls, results

	-- Stands in for nginx: cosockets that note what is done with them.
	before_each(function()
		calls, results = {}, {}
		local sock = setmetatable({}, {
			__index = function(_, method)
				return function(_, ...)
					calls[#calls + 1] = { method, ... }
					local result = results[method] or { true }
					return result[1], result[2], result[3]
				end
			end,
		})
		rawset(_G, "ngx", { socket = { tcp = function()
			return sock
		end } })
	end)

	after_each(function()
		rawset(_G, "ngx", nil)
	end)

	it("connects", function()
		local conn = { host = "example.com", port = 1883 }
		assert.is_true(connector.connect(conn))
		connector.settimeout(conn, 0.5)
		connector.settimeout(conn, nil)
		connector.shutdown(conn)
		assert.same({
			{ "settimeout", 30000 },
			{ "connect", "example.com", 1883 },
			{ "settimeout", 500 },
			{ "settimeout", 0x7FFFFFFF },
			{ "close" },
		}, calls)
	end)

	it("does TLS, and verifies unless told otherwise", function()
		for params, expected in pairs({
			[{}] = true,
			[{ verify = { "peer", "none" } }] = true,
			[{ verify = "none", server_name = "other" }] = false,
			[{ verify = { "none" } }] = false,
		}) do
			calls = {}
			assert.is_true(connector.connect({ host = "example.com", port = 8883, secure = true, secure_params = params }))
			assert.same({ "sslhandshake", nil, params.server_name or "example.com", expected }, calls[3])
		end
	end)

	it("tells why there is no connection", function()
		results.connect = { nil, "connection refused" }
		assert.same({ false, "connection to 'example.com:1883' failed: connection refused" },
			{ connector.connect({ host = "example.com", port = 1883 }) })
		assert.equal("close", calls[#calls][1])
	end)

	it("sends a part of the data, and returns the index of the last byte", function()
		local conn = { host = "example.com", port = 1883 }
		connector.connect(conn)
		results.send = { 3 }
		assert.equal(5, (connector.send(conn, "0123456", 3, 5)))
		assert.same({ "send", "234" }, calls[#calls])
		results.send = { nil, "closed" }
		assert.same({ nil, "closed" }, { connector.send(conn, "0123456") })
	end)

	it("receives, and passes on what has arrived", function()
		local conn = { host = "example.com", port = 1883 }
		connector.connect(conn)
		results.receive = { nil, "timeout", "ab" }
		assert.same({ nil, "timeout", "ab" }, { connector.receive(conn, 3) })
	end)
end)

describe("a program for luamqtt 3.x", function()
	after_each(harness.cleanup)

	it("may run a client again and again", function()
		local subject = harness.client()
		local connected = 0
		subject:on("connect", function()
			connected = connected + 1
			subject:disconnect()
		end)
		for round = 1, 3 do
			mqtt.run_ioloop(subject)
			assert.equal(round, connected)
		end
	end)

	it("may connect a client before it runs it", function()
		local subject = harness.client()
		local connected = 0
		subject:on("connect", function()
			connected = connected + 1
			subject:disconnect()
		end)
		local loop = require("mqtt.ioloop").create({ timeout = 0.01, sleep = 0.01 })
		loop:add(subject)
		assert(subject:start_connecting())
		loop:run_until_clients()
		assert.equal(1, connected)
	end)

	it("finds the loop of a client", function()
		local subject = harness.client()
		local loop = mqtt.get_ioloop()
		assert.is_nil(subject.ioloop)
		loop:add(subject)
		assert.equal(loop, subject.ioloop)
		loop:remove(subject)
		assert.is_nil(subject.ioloop)
	end)

	it("waits in _ioloop_iteration of a client without a loop", function()
		local server = servers.start(4)
		finally(function()
			server:stop()
		end)
		local subject = harness.client({ uri = server.uri })
		harness.serve({ subject, server.serve }, function()
			return subject.connection and subject.connection.connack
		end)
		local started = harness.now()
		assert.is_true(subject:_ioloop_iteration())
		assert.is_true(harness.now() - started > 0.5)
		server:send_bytes(tostring(protocol4.make_packet({ type = 3, topic = "t", qos = 0 })))
		local events = harness.record(subject, { "message" })
		assert.is_true(subject:_ioloop_iteration())
		assert.equal(1, #events)
	end)

	it("finds the options of a client in args", function()
		local subject = harness.client({ id = "three" })
		assert.equal("three", subject.args.id)
		assert.equal(subject.opts, subject.args)
	end)
end)

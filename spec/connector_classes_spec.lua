-- What connector classes of programs may do: take a detour, count, yield anywhere, and end at any byte.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local copas_loader = require("spec.support.copas")
local harness = require("spec.support.harness")
local listen = require("spec.support.listen")
local luasocket = require("mqtt.connector.luasocket")
local mqtt = require("mqtt")

local VERSIONS = { ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }

-- A class derived from a connector.
local function derive(super)
	local class = setmetatable({ super = super }, super)
	class.__index = class
	return class
end

-- An HTTP proxy for one connection (RFC 9110, 9.3.6). Prints its port, and when the tunnel has been closed where that
-- went and how many bytes have gone there and come back.
local PROXY = [[
	local socket = require("socket")
	local listener = assert(socket.bind("127.0.0.1", 0))
	print((select(2, listener:getsockname())))
	io.stdout:flush()
	listener:settimeout(10)
	local client = assert(listener:accept())
	local target = client:receive("*l"):match("^CONNECT (%S+) HTTP/1%.1$")
	repeat until client:receive("*l") == ""
	local host, port = target:match("^(.*):(%d+)$")
	local server = socket.connect(host, port)
	if not server then
		client:send("HTTP/1.1 502 Bad Gateway\r\n\r\n")
		os.exit(0)
	end
	client:send("HTTP/1.1 200 OK\r\n\r\n")
	local other, count = { [client] = server, [server] = client }, { [client] = 0, [server] = 0 }
	local open = true
	while open do
		for _, sock in ipairs((socket.select({ client, server }))) do
			sock:settimeout(0)
			local data, err, partial = sock:receive(65536)
			data = data or partial
			count[sock] = count[sock] + #data
			other[sock]:settimeout(10)
			other[sock]:send(data)
			open = open and err ~= "closed"
		end
	end
	print(target, count[client], count[server])
]]

-- Starts the proxy. Returns its port, and a function that waits for its end and returns what it printed then.
local function start_proxy()
	local pipe, finish = child.open((PROXY:gsub("%%", "%%%%")))
	local port = assert(tonumber(pipe:read("*l")))
	return port, finish
end

-- A class that connects through the proxy. `wrap` makes of a socket one to talk to the proxy by.
local function through_proxy(super, proxy_port, wrap)
	local class = derive(super)
	function class:connect_tcp()
		local host, port = self.host, self.port
		self.host, self.port = "127.0.0.1", proxy_port
		local ok, err = super.connect_tcp(self)
		self.host, self.port = host, port
		if not ok then
			return false, err
		end
		local sock = wrap(self.sock)
		sock:send(("CONNECT %s:%d HTTP/1.1\r\nHost: %s\r\n\r\n"):format(host, port, host))
		local status = sock:receive("*l")
		repeat
			local line = sock:receive("*l")
		until line == "" or not line
		if status ~= "HTTP/1.1 200 OK" then
			self.sock:close()
			return false, "the proxy answered: " .. status
		end
		return true
	end
	return class
end

-- A class that counts bytes, in fields of its own.
local function counting(super)
	local class = derive(super)
	class.sent, class.received = 0, 0
	function class:send(data)
		class.sent = class.sent + #data
		return super.send(self, data)
	end
	function class:plain_receive(size)
		local data, err = super.plain_receive(self, size)
		class.received = class.received + #(data or "")
		return data, err
	end
	return class
end

-- Has a client send itself a message, and end when nothing more will come. Returns a function that returns the payload.
local function send_itself(client, payload)
	local topic, received = harness.topic(), nil
	client:on({
		connect = function()
			client:subscribe({ topic = topic, callback = function()
				client:publish({ topic = topic, payload = payload })
			end })
		end,
		message = function(message)
			received = message.payload
			client:shutdown()
		end,
	})
	return function()
		return received
	end
end

describe("a connector class that goes through an HTTP proxy", function()
	after_each(harness.cleanup)

	local function same(sock)
		return sock
	end

	it("carries a connection, whose bytes another one counts", function()
		local port, stop = start_proxy()
		local class = counting(through_proxy(luasocket, port, same))
		local client = harness.client({ connector = class })
		local received = send_itself(client, ("x"):rep(100000))
		harness.serve_to_end(client)
		assert.equal(100000, #received())
		assert.equal(("127.0.0.1:%d\t%d\t%d\n"):format(broker.port, class.sent, class.received), stop())
		assert.is_true(class.received > 100000)
	end)

	it("carries TLS, which verifies the broker #luasec", function()
		local port, stop = start_proxy()
		local client = harness.tls_client({ connector = through_proxy(luasocket, port, same) })
		local received = send_itself(client, "secret")
		harness.serve_to_end(client)
		assert.equal("secret", received())
		assert.matches("^localhost:" .. broker.tls_port .. "\t", stop())

		port, stop = start_proxy()
		local ok, err = harness.client({
			uri = "mqtts://localhost:" .. broker.wrong_name_port,
			secure = { cafile = broker.cafile },
			connector = through_proxy(luasocket, port, same),
		}):start_connecting()
		assert.is_false(ok)
		assert.matches("it is not valid for name 'localhost', only for other.example", err, nil, true)
		stop()
	end)

	it("tells what the proxy answered", function()
		local port, stop = start_proxy()
		local server = listen()
		local _, closed_port = server:getsockname()
		server:close()
		local ok, err = harness.client({
			uri = "127.0.0.1:" .. closed_port,
			connector = through_proxy(luasocket, port, same),
		}):start_connecting()
		assert.is_false(ok)
		assert.equal("failed to open network connection: the proxy answered: HTTP/1.1 502 Bad Gateway", err)
		stop()
	end)

	for scheme, opts in pairs({
		mqtt = { uri = broker.uri },
		["mqtts #luasec"] = { uri = broker.tls_uri, secure = { cafile = broker.cafile } },
	}) do
		it("carries a connection in Copas, " .. scheme, function()
			local copas, reason = copas_loader.load(4)
			finally(function()
				package.loaded["mqtt.connector.copas"], package.loaded["mqtt.loop.copas"] = nil, nil
				copas_loader.unload()
			end)
			if not copas then
				pending(reason)
				return
			end
			package.loaded["mqtt.connector.copas"], package.loaded["mqtt.loop.copas"] = nil, nil
			local port, stop = start_proxy()
			opts.connector = through_proxy(require("mqtt.connector.copas"), port, copas.wrap)
			local client = harness.client(opts)
			local received, closed = send_itself(client, "in Copas"), nil
			client:on("close", function()
				closed = true
			end)
			require("mqtt.loop.copas").add(client)
			local deadline = harness.deadline()
			while not closed do
				assert.is_true(harness.now() < deadline, "it did not end in time")
				copas.step(0.1)
			end
			assert.equal("in Copas", received())
			assert.matches("^%w", stop())
		end)
	end
end)

-- Packets in both versions: a CONNACK, and messages of which one is longer than 127 bytes.
local function packets(version)
	local protocol = require("mqtt.protocol" .. version)
	local function make(packet)
		return tostring(protocol.make_packet(packet))
	end
	return make({ type = 2, sp = false, rc = 0 }),
		make({ type = 3, topic = "ab", payload = "p", qos = 0 }),
		make({ type = 3, topic = "ab", payload = ("p"):rep(200), qos = 1, packet_id = 7 })
end

-- A class on a stream of bytes, after which it says `ending`, a name of a signal or an error. With `idle`, signal_idle
-- comes before each byte.
local function scripted(base, data, ending, idle)
	local class = derive(require(base))
	local position, turn = 0, false
	function class.connect()
		return true
	end
	function class.shutdown() end
	function class.send()
		return true
	end
	local function receive(self, size)
		turn = not turn
		if idle and turn then
			return nil, self.signal_idle
		elseif position + size > #data then
			return nil, self[ending] or ending
		end
		position = position + size
		return data:sub(position - size + 1, position)
	end
	if rawget(class.super, "plain_receive") then
		function class:plain_receive(size)
			return receive(self, idle and 1 or size)
		end
	else
		class.receive = receive
	end
	return class
end

describe("the stream of a connector class", function()
	after_each(harness.cleanup)

	for version_name, version in pairs(VERSIONS) do
		local connack, short, long = packets(version)
		local all = connack .. short .. long

		for _, base in ipairs({ "mqtt.connector.base.buffered_base", "mqtt.connector.base.non_buffered_base" }) do
			for ending, expected in pairs({
				signal_closed = "connection closed by broker",
				["the cable is cut"] = "error",
			}) do
				it(("may end at any byte by %s, %s, %s"):format(ending, base, version_name), function()
					for length = 0, #all do
						local client = harness.client({
							version = version,
							connector = scripted(base, all:sub(1, length), ending),
						})
						local events = harness.record(client, { "connect", "message", "error", "close" })
						harness.serve_to_end(client)
						local names = {}
						for name, needed in pairs({
							connect = #connack,
							short = #connack + #short,
							long = #all,
						}) do
							if length >= needed then
								names[#names + 1] = name
							end
						end
						assert.equal(#names + 2, #events)
						local text = expected == "error" and ending
							or length < #connack and expected .. " before its CONNACK: if this is its port for TLS, use mqtts://"
						assert.equal(text or expected, events[#events - 1][2])
						assert.equal(expected, events[#events][2].close_reason)
					end
				end)
			end
		end

		it("may pause before any byte, " .. version_name, function()
			local client = harness.client({
				version = version,
				connector = scripted("mqtt.connector.base.buffered_base", all, "signal_closed", true),
			})
			local payloads = {}
			client:on("message", function(message)
				payloads[#payloads + 1] = message.payload
			end)
			local idle = 0
			for wait in client.step, client do
				idle = idle + (wait == -1 and 1 or 0)
			end
			assert.equal(#all + 1, idle)
			assert.same({ "p", ("p"):rep(200) }, payloads)
		end)
	end
end)

describe("a connector class that yields", function()
	after_each(harness.cleanup)

	-- A class that yields before and after everything it does, and in the middle of what it sends and receives.
	local function yielding()
		local class = derive(luasocket)
		for _, name in ipairs({ "connect", "shutdown", "receive", "buffer_clear" }) do
			class[name] = function(self, ...)
				coroutine.yield()
				local first, second = luasocket[name](self, ...)
				coroutine.yield()
				return first, second
			end
		end
		function class:send(data)
			local half = math.floor(#data / 2)
			coroutine.yield()
			local ok, err = luasocket.send(self, data:sub(1, half))
			coroutine.yield()
			if ok then
				ok, err = luasocket.send(self, data:sub(half + 1))
				coroutine.yield()
			end
			return ok, err
		end
		function class:plain_receive()
			coroutine.yield()
			return luasocket.plain_receive(self, 3)
		end
		return class
	end

	-- Runs functions as coroutines, in turns, until all have returned.
	local function run(...)
		local threads = {}
		for i, func in ipairs({ ... }) do
			threads[i] = coroutine.create(func)
		end
		local deadline = harness.deadline()
		while threads[1] do
			assert.is_true(harness.now() < deadline, "it did not end in time")
			for i = #threads, 1, -1 do
				local ok, err = coroutine.resume(threads[i])
				assert.is_true(ok, err)
				if coroutine.status(threads[i]) == "dead" then
					table.remove(threads, i)
				end
			end
		end
	end

	for version_name, version in pairs(VERSIONS) do
		for name, serve in pairs({
			["in run_sync"] = mqtt.run_sync,
			["in an ioloop"] = function(client)
				local loop = require("mqtt.ioloop").create({ sleep_max = 0 })
				loop:add(client)
				loop:run_until_clients()
			end,
			["step by step"] = function(client)
				while client:step() do
					coroutine.yield()
				end
			end,
		}) do
			it(("may be used by several coroutines, one of them %s, %s"):format(name, version_name), function()
				local client = harness.client({ version = version, connector = yielding() })
				local topic, acknowledged, waiting, payloads, closed = harness.topic(), {}, 20, {}, nil
				client:on({
					message = function(message)
						payloads[#payloads + 1] = message.payload
						client:acknowledge(message)
					end,
					close = function(connection)
						closed = connection.close_reason
					end,
				})

				-- Publishes ten messages, waiting for each to be acknowledged.
				local function publish(prefix)
					return function()
						while not client.subscribed do
							coroutine.yield()
						end
						for i = 1, 10 do
							local payload = prefix .. i
							assert(client:publish({ topic = topic, payload = payload, qos = 1 + i % 2, callback = function()
								acknowledged[payload] = true
								waiting = waiting - 1
							end }))
							while not acknowledged[payload] do
								coroutine.yield()
							end
						end
					end
				end

				run(function()
					serve(client)
				end, function()
					while not (client.connection and client.connection.connack) do
						coroutine.yield()
					end
					assert(client:subscribe({ topic = topic, qos = 2, callback = function()
						client.subscribed = true
					end }))
					while #payloads < 20 or waiting > 0 do
						coroutine.yield()
					end
					client:disconnect()
				end, publish("a"), publish("b"))

				assert.equal("connection closed by client", closed)
				local expected = {}
				for i = 1, 10 do
					expected[i], expected[i + 10] = "a" .. i, "b" .. i
				end
				table.sort(expected)
				table.sort(payloads)
				assert.same(expected, payloads)
			end)
		end
	end
end)

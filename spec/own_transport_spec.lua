-- Clients for which the program moves the bytes itself.

local broker = require("spec.support.broker")
local bytes = require("mqtt.connector.bytes")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")

local VERSIONS = { ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }

-- What a broker's session sends, as packets that follow upon a CONNACK; and a client that is to see them.
local function stream(version)
	local protocol = require("mqtt.protocol" .. version)
	local packets = {}
	local function add(packet)
		packets[#packets + 1] = tostring(protocol.make_packet(packet))
	end
	add({ type = 2, sp = false, rc = 0 })
	add({ type = 3, topic = "a", payload = "short", qos = 0 })
	add({ type = 3, topic = "a", qos = 1, packet_id = 1 })
	add({ type = 13 })
	add({ type = 3, topic = ("topic/"):rep(30), payload = ("long"):rep(5000), qos = 2, packet_id = 2 })
	add({ type = 6, packet_id = 2, rc = 0 })
	add({ type = 3, topic = "a", payload = "last", qos = 0 })
	return packets
end

local EXPECTED = { "connect", "short", false, ("long"):rep(5000), "last" }

local function fed_client(opts)
	local own = { uri = "serial", connector = bytes }
	for key, value in pairs(opts or {}) do
		own[key] = value
	end
	return harness.client(own)
end

-- What a client has seen: "connect", and the payload of each message, which it acknowledges.
local function observe(client)
	local seen = {}
	client:on({
		connect = function()
			seen[#seen + 1] = "connect"
		end,
		message = function(message)
			seen[#seen + 1] = message.payload or false
			client:acknowledge(message)
		end,
	})
	return seen
end

-- The types of the packets in a string of bytes.
local function packet_types(data, version)
	local protocol = require("mqtt.protocol" .. version)
	local types, position = {}, 1
	while position <= #data do
		local packet = assert(protocol.parse_packet(function(size)
			position = position + size
			return data:sub(position - size, position - 1)
		end))
		types[#types + 1] = packet.type
	end
	return types
end

describe("a transport of the program's own", function()
	after_each(harness.cleanup)

	for version_name, version in pairs(VERSIONS) do
		for name, size in pairs({ ["one byte at a time"] = 1, ["in threes"] = 3, ["by the thousand"] = 1000,
			["all at once"] = math.huge }) do
			it("may bring the bytes " .. name .. ", " .. version_name, function()
				local client = fed_client({ version = version })
				local seen = observe(client)
				assert.is_true(client:start_connecting())
				local sent, packets = client:take(), stream(version)
				-- A broker sends PUBREL, and what is behind it here, when it has PUBREC.
				for _, data in ipairs({ table.concat(packets, "", 1, 5), table.concat(packets, "", 6) }) do
					for first = 1, #data, math.min(size, #data) do
						assert.is_true(client:feed(data:sub(first, math.min(first + size - 1, #data))))
						sent = sent .. (client:take() or "")
					end
				end
				assert.same(EXPECTED, seen)
				-- CONNECT, PUBACK, PUBREC, PUBCOMP
				assert.same({ 1, 4, 5, 7 }, packet_types(sent, version))
			end)
		end

		it("may be split anywhere, " .. version_name, function()
			local connack, message = stream(version)[1], stream(version)[2]
			local data = connack .. message .. message
			for split = 0, #data do
				local client = fed_client({ version = version })
				local seen = observe(client)
				client:start_connecting()
				assert.is_true(client:feed(data:sub(1, split)))
				assert.is_true(client:feed(data:sub(split + 1)))
				assert.same({ "connect", "short", "short" }, seen)
			end
		end)

		it("sees the last bytes after disconnect, " .. version_name, function()
			local client = fed_client({ version = version })
			local events = harness.record(client, { "close" })
			client:start_connecting()
			client:feed(stream(version)[1])
			client:take()
			assert.is_true(client:publish({ topic = "t" }))
			assert.is_true(client:disconnect())
			assert.equal("connection closed by client", events[1][2].close_reason)
			assert.same({ 3, 14 }, packet_types(client:take(), version))
			assert.is_nil(client:take())
			assert.same({ false, "network connection is not opened" }, { client:feed("") })
		end)
	end

	it("has nothing to send before it is open", function()
		local client = fed_client()
		assert.is_nil(client:take())
		assert.same({ false, "network connection is not opened" }, { client:feed("\32\2\0\0") })
		assert.same({ false, "network connection is not opened" }, { client:publish({ topic = "t" }) })
	end)

	it("may close, and open again", function()
		local client = fed_client()
		local seen, closed = observe(client), nil
		client:on("close", function(connection)
			closed = connection.close_reason
		end)
		local connack, message = stream(4)[1], stream(4)[2]
		client:start_connecting()
		client:feed(connack .. message:sub(1, 3))
		client:publish({ topic = "t" })
		client:close_connection("connection closed by broker")
		assert.equal("connection closed by broker", closed)
		-- Neither what was to be sent nor what had arrived passes over to the next connection.
		assert.is_true(client:start_connecting())
		assert.same({ 1 }, packet_types(client:take(), 4))
		client:feed(connack .. message)
		assert.same({ "connect", "connect", "short" }, seen)
	end)

	it("brings nonsense", function()
		local client = fed_client({ version = mqtt.v50 })
		local events = harness.record(client, { "error", "close" })
		client:start_connecting()
		client:feed(stream(5)[1])
		client:take()
		local ok, err = client:feed("\0\0")
		assert.is_false(ok)
		assert.equal(events[1][2], err)
		assert.same({ "error", "close" }, harness.names(events))
		-- The broker is told why.
		assert.same({ 14 }, packet_types(client:take(), 5))
	end)

	it("brings a refusal", function()
		local client = fed_client()
		local events = harness.record(client)
		client:start_connecting()
		local ok, err = client:feed("\32\2\0\5")
		assert.is_false(ok)
		assert.matches("^CONNECT failed with CONNACK %[rc=5%]", err)
		assert.same({ "error", "connect", "close" }, harness.names(events))
	end)

	it("goes on after a handler has raised an error", function()
		local client = fed_client()
		local payloads = {}
		client:on("message", function(message)
			payloads[#payloads + 1] = message.payload
			error("in the handler", 0)
		end)
		client:start_connecting()
		local packets = stream(4)
		assert.equal("in the handler", harness.failure(client.feed, client, packets[1] .. packets[2] .. packets[7]))
		assert.same({ "short" }, payloads)
		assert.equal("in the handler", harness.failure(client.feed, client, ""))
		assert.same({ "short", "last" }, payloads)
		assert.is_true(client:feed(""))
	end)

	it("may be fed from within a handler", function()
		local client = fed_client()
		local seen = observe(client)
		local packets = stream(4)
		client:on("connect", function()
			assert.is_true(client:feed(packets[2]))
		end)
		client:start_connecting()
		assert.is_true(client:feed(packets[1] .. packets[7]))
		assert.same({ "connect", "last", "short" }, seen)
	end)

	it("is kept alive", function()
		local client = fed_client({ keep_alive = 1 })
		client:start_connecting()
		client:feed(stream(4)[1])
		client:take()
		local deadline, sent = harness.deadline(), nil
		while not sent do
			assert.is_true(harness.now() < deadline)
			local seconds, err = client:check_keep_alive()
			assert.is_nil(err)
			assert.is_true(seconds >= 0 and seconds <= 1, "in " .. seconds .. " seconds")
			sent = client:take()
		end
		assert.same({ 12 }, packet_types(sent, 4))
		-- No PINGRESP comes.
		local err
		while not err do
			assert.is_true(harness.now() < deadline)
			err = select(2, client:check_keep_alive())
		end
		assert.is_nil(client.connection)
	end)

	it("carries everything between a client and a broker", function()
		local sock = assert(require("socket").connect("127.0.0.1", broker.port))
		sock:settimeout(0)
		local client, topic = fed_client(), harness.topic()
		local payload, received = ("x"):rep(200000), {}
		client:on({
			connect = function()
				client:subscribe({ topic = topic, qos = 2, callback = function()
					for qos = 0, 2 do
						client:publish({ topic = topic, payload = payload .. qos, qos = qos })
					end
				end })
			end,
			message = function(message)
				client:acknowledge(message)
				received[#received + 1] = message.payload:sub(-1) .. #message.payload
			end,
		})
		client:start_connecting()
		local waiting, deadline = "", harness.deadline()
		while #received < 3 do
			assert.is_true(harness.now() < deadline)
			waiting = waiting .. (client:take() or "")
			local last, _, partial = sock:send(waiting)
			waiting = waiting:sub((last or partial) + 1)
			local data, _, part = sock:receive(65536)
			assert.is_true(client:feed(data or part))
		end
		sock:close()
		table.sort(received)
		assert.same({ "0200001", "1200001", "2200001" }, received)
	end)

	it("may be opened, written and closed by a derived class in a loop", function()
		local lines = {}
		local line = setmetatable({ super = bytes }, bytes)
		line.__index = line
		function line:connect()
			lines[#lines + 1] = { sent = "" }
			self.line = lines[#lines]
			return bytes.connect(self)
		end
		function line:send(data)
			self.line.sent = self.line.sent .. data
			return true
		end
		function line:shutdown()
			self.line.closed = true
		end
		local client = fed_client({ connector = line, reconnect = 0.01 })
		local connected = 0
		client:on("connect", function()
			connected = connected + 1
			client:close_connection()
		end)
		harness.serve({ client, function()
			local current = lines[#lines]
			if current and not current.closed and current.sent ~= "" then
				client:feed("\32\2\0\0")
			end
			return 0
		end }, function()
			return connected == 2
		end)
		assert.equal(2, #lines)
		assert.same({ 1 }, packet_types(lines[2].sent, 4))
		assert.is_true(lines[1].closed and lines[2].closed)
		assert.is_nil(client:take())
	end)

	it("is for clients with that connector only", function()
		local client = harness.client()
		harness.blames_caller("expecting a client whose connector is mqtt.connector.bytes", client.feed, client, "")
		harness.blames_caller("expecting a client whose connector is mqtt.connector.bytes", client.take, client)
		harness.blames_caller("expecting bytes to be a string", client.feed, fed_client(), 1)
	end)
end)

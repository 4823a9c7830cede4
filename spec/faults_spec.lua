-- Brokers and networks that fail, one way or another: the client is told in time, ends or connects again as configured,
-- and other clients of the program do not notice.

local broker = require("spec.support.broker")
local core = require("mqtt.core")
local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

local now, own_time = harness.now, harness.own_time
local packet_type = require("mqtt.protocol").packet_type

-- How long the client may wait for a broker that fails, and for one that does not, in seconds, and how much later it
-- may tell on a slow machine.
local TIMEOUT, GENEROUS = 0.3, 30
local SLACK = 5
-- How long a broker may take to answer PINGREQ that is only late, in seconds.
local PING_TIMEOUT = 1
-- The shortest keep alive that MQTT knows, and the time that looking up a name may take, in seconds.
local KEEP_ALIVE = 1
local LOOKUP_TIMEOUT = 5
-- How long others may be held up, in seconds: whatever waits for a peer does so for much longer. The machine may slow
-- down anything: one of so many rounds has to do.
local LIMIT = 0.1
local ROUNDS = 10
-- How soon others want to have their next turn, in seconds.
local TICK = 0.001

-- What publishing into a connection that takes nothing may keep, how much is published in vain, and the size of one
-- message, in bytes. How many messages are published at once, so that the program itself holds up nobody.
local BOUND = 16 * 2 ^ 20
local MUCH = 100 * 10 ^ 6
local MESSAGE = 100000
local PORTION = 5
-- After how many seconds without progress publishing counts as waiting.
local PATIENCE = 0.2

local VERSIONS = { mqtt.v311, mqtt.v50 }

-- The first half of a PUBLISH.
local HALF = "\48\14\0\5topic"

-- The bytes of a packet that a server sends.
local function bytes_of(server, packet)
	return tostring(server.protocol.make_packet(packet))
end

-- Each fault: `name`; `prepare`, what is done to the server before the client is there; `answer`, what the server does
-- on the first CONNECT instead of accepting it; `strike`, what it does once the client is connected; `opts` of the
-- client; `heal`, what is done to let it connect again. Then the events of a client that does not reconnect, what the
-- error is, why the connection was closed, and how long that takes, in seconds. `phase` is what goes on meanwhile.
local CONNACK_ERROR = "^failed to receive CONNACK within 0%.%d+ seconds: timeout$"
local PINGRESP_ERROR = "^failed to receive PINGRESP within %d%.?%d* seconds?: timeout$"
local CLOSED = "connection closed by broker"
local FAULTS = {
	{
		name = "accepts the connection and never answers",
		answer = function() end,
		events = { "error", "close" },
		error = CONNACK_ERROR,
		reason = "error",
		takes = TIMEOUT,
	},
	{
		name = "sends one byte a second",
		answer = function(server)
			server:drip(bytes_of(server, { type = packet_type.CONNACK, sp = false, rc = 0 }), 1)
		end,
		events = { "error", "close" },
		error = CONNACK_ERROR,
		reason = "error",
		takes = TIMEOUT,
	},
	{
		name = "closes the connection in the middle of a packet",
		answer = function(server)
			server:send_bytes("\32\3")
			server:drop()
		end,
		events = { "error", "close" },
		error = "^" .. CLOSED,
		reason = CLOSED,
		takes = 0,
	},
	{
		name = "stops in the middle of a packet",
		strike = function(server)
			server:send_bytes(HALF)
		end,
		events = { "connect", "error", "close" },
		error = PINGRESP_ERROR,
		reason = "error",
		takes = KEEP_ALIVE + TIMEOUT,
	},
	{
		name = "never answers a PINGREQ",
		strike = function() end,
		events = { "connect", "error", "close" },
		error = PINGRESP_ERROR,
		reason = "error",
		takes = KEEP_ALIVE + TIMEOUT,
	},
	{
		name = "stops reading",
		phase = "sending",
		strike = function(server, client, run)
			local published, payload = 0, ("p"):rep(MESSAGE)
			local function publish_some()
				for _ = 1, PORTION do
					client:publish({ topic = "unread", payload = payload })
					published = published + MESSAGE
				end
				if published < BOUND / 2 then
					run(publish_some)
				end
			end
			server.deaf = true
			run(publish_some)
		end,
		heal = function(server)
			server.deaf = false
		end,
		events = { "connect", "error", "close" },
		error = PINGRESP_ERROR,
		reason = "error",
		takes = KEEP_ALIVE + TIMEOUT,
	},
	{
		name = "ends its half of the connection",
		strike = function(server)
			server:half_close()
		end,
		events = { "connect", "error", "close" },
		error = "^" .. CLOSED,
		reason = CLOSED,
		takes = 0,
	},
	{
		name = "resets the connection",
		strike = function(server)
			server:reset()
		end,
		events = { "connect", "error", "close" },
		error = "^" .. CLOSED,
		reason = CLOSED,
		takes = 0,
	},
	{
		name = "resets the connection in the middle of a packet",
		strike = function(server)
			server:send_bytes(HALF)
			server:reset()
		end,
		events = { "connect", "error", "close" },
		error = "^" .. CLOSED,
		reason = CLOSED,
		takes = 0,
	},
	{
		name = "drops attempts to connect",
		phase = "opening",
		prepare = function(server)
			server:fill()
		end,
		heal = function(server)
			server:make_room()
		end,
		events = { "error" },
		error = "^failed to open network connection: .*127%.0%.0%.1:%d+",
		takes = TIMEOUT,
	},
	{
		name = "has a name that does not resolve",
		phase = "resolving",
		opts = { uri = "no-such-host.invalid", connect_timeout = LOOKUP_TIMEOUT },
		heal = function(server, client)
			client.opts.uri = server.uri
		end,
		events = { "error" },
		error = "^failed to open network connection: .*no%-such%-host%.invalid",
		takes = { 0, LOOKUP_TIMEOUT },
	},
	{
		name = "accepts the connection and never begins with TLS",
		phase = "shaking hands",
		opts = { protocol = "mqtts" },
		answer = function() end,
		prepare = function(server)
			server.deaf = true
		end,
		heal = function(_, client)
			client.opts.uri, client.opts.secure = broker.tls_uri, { cafile = broker.cafile }
		end,
		events = { "error" },
		error = "^failed to open network connection: timed out after 0%.3 s during the TLS handshake with ",
		takes = TIMEOUT,
	},
}

-- Where the clients live, and what carries them: `connector`, the module; `blocks`, the phases in which that cannot be
-- helped; `waits`, whether publishing waits for the broker there. `world` returns how to add a client and a server,
-- whether a client has left, how to run a function, and one turn of the loop.
local function in_ioloop()
	local loop = ioloop.create({ sleep_max = TICK })
	return {
		add = function(client)
			assert(loop:add(client))
		end,
		serve = function(server)
			assert(loop:add(server.serve))
		end,
		has_left = function(client)
			return not loop.clients[client]
		end,
		run = function(func)
			local function once()
				loop:remove(once)
				func()
			end
			loop:add(once)
		end,
		turn = function()
			loop:iteration()
		end,
	}
end

local function in_copas(version)
	return function()
		local copas, missing, errors = copas_support.load_watched(version)
		if not copas then
			return nil, missing
		end
		package.loaded["mqtt.connector.copas"] = nil
		local served, due = {}, {}
		return {
			add = function(client)
				assert(require("mqtt.loop").add(client))
			end,
			serve = function(server)
				served[#served + 1] = server
			end,
			has_left = function(client)
				return rawget(client, "handle_received_packet") == nil
			end,
			run = function(func)
				due[#due + 1] = func
			end,
			turn = function()
				local threads = due
				due = {}
				for _, thread in ipairs(threads) do
					copas.addthread(thread)
				end
				copas.step(TICK)
				for _, server in ipairs(served) do
					server:poll()
				end
				assert.same({}, errors)
			end,
		}
	end
end

local WAYS = {
	{ name = "in an ioloop", connector = "mqtt.connector.native", world = in_ioloop, blocks = {} },
	{ name = "on LuaSocket in an ioloop", connector = "mqtt.connector.luasocket", world = in_ioloop,
		blocks = { opening = true, resolving = true, ["shaking hands"] = true, sending = true } },
	{ name = "under Copas 1", connector = "mqtt.connector.native", world = in_copas(1), blocks = {}, waits = true },
	{ name = "under Copas 4", connector = "mqtt.connector.native", world = in_copas(4), blocks = {}, waits = true },
	{ name = "on Copas 4", connector = "mqtt.connector.copas", world = in_copas(4), waits = true,
		blocks = { resolving = true } },
}

-- How much memory this process uses, in bytes.
local function memory()
	local file = assert(io.open("/proc/self/status"))
	local kilobytes = tonumber(file:read("*a"):match("VmRSS:%s*(%d+)"))
	file:close()
	return kilobytes * 1024
end

-- A client that makes round trips to the real broker, and counts them.
local function neighbour()
	local client, topic = harness.client(), harness.topic()
	client.trips = 0
	client:on({
		connect = function()
			assert(client:subscribe({ topic = topic, callback = function()
				assert(client:publish({ topic = topic }))
			end }))
		end,
		message = function()
			client.trips = client.trips + 1
			assert(client:publish({ topic = topic }))
		end,
	})
	return client
end

for _, way in ipairs(WAYS) do
	describe("a client " .. way.name, function()
		local world, started

		before_each(function()
			started = {}
		end)

		after_each(function()
			harness.cleanup()
			for _, server in ipairs(started) do
				server:stop()
			end
			copas_support.unload()
			package.loaded["mqtt.connector.copas"] = nil
			world, started = nil, nil
		end)

		-- Starts a server, which is served by the loop.
		local function start(version, on_packet)
			local server = servers.start(version, on_packet)
			started[#started + 1] = server
			world.serve(server)
			return server
		end

		-- Makes a client on this way, which is added to the loop.
		local function new(opts, more)
			for key, value in pairs(more or {}) do
				opts[key] = value
			end
			opts.connector = require(way.connector)
			return harness.client(opts)
		end

		-- Runs the loop with a neighbour in it, until something has happened. Returns for how long the others were held up
		-- at most.
		local function run_beside_neighbour(done)
			local other = neighbour()
			world.add(other)
			local deadline = harness.deadline()
			while other.trips == 0 do
				assert(now() < deadline, "the neighbour does not get anywhere")
				world.turn()
			end
			local trips, longest, last = other.trips, 0, own_time()
			repeat
				assert(now() < deadline, "nothing came of it in time")
				world.turn()
				local time = own_time()
				longest, last = math.max(longest, time - last - TICK), time
			until done() and other.trips >= trips + 3
			return longest
		end

		-- A test, if what carries the clients is there: runs `round`, which returns what `run_beside_neighbour` does, until
		-- nobody was held up for too long, or it is plain that this is not the machine's fault. In a `phase` that blocks by
		-- its nature it runs once.
		local function with_neighbour(name, phase, round)
			it(name, function()
				local least = math.huge
				for _ = 1, ROUNDS do
					local missing
					world, missing = way.world()
					if not world then
						return pending(missing)
					end
					least = math.min(least, harness.without_collecting(round))
					harness.cleanup()
					if least <= LIMIT or way.blocks[phase] then
						return
					end
				end
				error(("others are held up for %.1f ms"):format(least * 1000))
			end)
		end

		-- Has a client suffer a fault. Returns a function that says whether all has come of it that must, having checked
		-- that nothing else has.
		local function suffer(fault, version, reconnect)
			local since, took, began, lasted
			local struck = not fault.strike
			local server = start(version, function(self, packet)
				-- Keep alive counts from here, though the fault may strike later on a busy machine.
				began = began or now()
				if packet.type == packet_type.CONNECT and self.accepted == 1 and fault.answer then
					fault.answer(self)
				else
					servers.accept(self, packet)
				end
			end)
			if fault.prepare then
				fault.prepare(server)
			end
			local client = new({
				uri = server.uri,
				version = version,
				reconnect = reconnect,
				keep_alive = KEEP_ALIVE,
				connect_timeout = fault.strike and GENEROUS or TIMEOUT,
				ping_timeout = TIMEOUT,
			}, fault.opts)
			local events = harness.record(client, { "connect", "error", "close" })
			since = now()
			local function note()
				if not took then
					took = now() - since
					lasted = fault.strike and now() - began or took
					client.opts.connect_timeout, client.opts.ping_timeout = GENEROUS, GENEROUS
					if fault.heal then
						fault.heal(server, client)
					end
				end
			end
			client:on({ error = note, close = note })
			world.add(client)

			local function is_connected()
				return client.connection and client.connection.connack
			end

			local function check()
				local expected = { (table.unpack or unpack)(fault.events) } -- luacheck: ignore 143
				if reconnect then
					expected[#expected + 1] = "connect"
				end
				assert.same(expected, harness.names(events))
				for _, event in ipairs(events) do
					if event[1] == "error" then
						assert.matches(fault.error, event[2])
					elseif event[1] == "close" then
						assert.equal(fault.reason, event[2].close_reason)
					end
				end
				local least, most = fault.takes, fault.takes
				if type(least) == "table" then
					least, most = least[1], most[2]
				end
				assert.is_true(lasted >= least * 0.9 and took <= most + SLACK, ("it took %.3f s"):format(took))
				return true
			end

			return function()
				if not struck and is_connected() then
					struck, since = true, now()
					fault.strike(server, client, world.run)
				end
				if reconnect then
					return took and is_connected() and check()
				end
				return world.has_left(client) and check()
			end
		end

		-- Has a client publish to a server that stops reading, and reads on when the client takes no more. Returns what
		-- `run_beside_neighbour` does.
		local function stops_reading(version, qos)
			local received = {}
			local server = start(version, function(self, packet)
				if packet.type == packet_type.PUBLISH then
					received[#received + 1] = packet.topic
					if qos > 0 then
						self:send({ type = packet_type.PUBACK, packet_id = packet.packet_id, rc = 0 })
					end
				else
					servers.accept(self, packet)
					self.deaf = true
				end
			end)
			local client = new({ uri = server.uri, version = version, keep_alive = 0 })
			local events = harness.record(client, { "error", "close" })
			local payload, attempts, accepted, refusal = ("p"):rep(MESSAGE), 0, {}, nil
			local messages = way.waits and 2 * BOUND / MESSAGE or MUCH / MESSAGE
			local function publish_some()
				for _ = 1, PORTION do
					attempts = attempts + 1
					local topic = tostring(attempts)
					local ok, err = client:publish({ topic = topic, payload = payload, qos = qos })
					if ok then
						accepted[#accepted + 1] = topic
					else
						refusal = refusal or err
						assert.is_false(ok)
					end
				end
				if attempts < messages then
					world.run(publish_some)
				end
			end
			client:on("connect", function()
				world.run(publish_some)
			end)
			world.add(client)
			local before, count, since = memory(), 0, now()
			return run_beside_neighbour(function()
				if #accepted > count then
					count, since = #accepted, now()
				end
				if server.deaf and (attempts >= messages or way.waits and count > 0 and now() > since + PATIENCE) then
					assert.is_true(memory() - before < 2 * BOUND)
					assert.is_true(attempts < messages or not way.waits)
					server.deaf = false
				end
				if server.deaf or attempts < messages or #received < #accepted then
					return false
				end
				assert.same(accepted, received)
				assert.same({}, { (events[1] or {})[2] })
				if way.waits then
					assert.is_nil(refusal)
				else
					assert.matches("^failed to send PUBLISH: %d+ bytes wait to be sent or acknowledged already$", refusal)
				end
				return true
			end)
		end

		for _, fault in ipairs(FAULTS) do
			-- TLS with the connectors is LuaSec's, see connectors_spec; sending on LuaSocket see below.
			if not (fault.phase == "shaking hands" and way.connector ~= "mqtt.connector.native"
				or fault.phase == "sending" and way.blocks.sending) then
				with_neighbour("whose broker " .. fault.name .. " is told, and ends or connects again", fault.phase, function()
					local sufferers = {}
					for _, version in ipairs(VERSIONS) do
						table.insert(sufferers, suffer(fault, version, false))
						table.insert(sufferers, suffer(fault, version, 0.01))
					end
					return run_beside_neighbour(function()
						for i = #sufferers, 1, -1 do
							if sufferers[i]() then
								table.remove(sufferers, i)
							end
						end
						return #sufferers == 0
					end)
				end)
			end
		end

		with_neighbour("whose broker sends byte by byte receives everything", nil, function()
			local payload = ("p"):rep(50)
			local waiting = {}
			for _, version in ipairs(VERSIONS) do
				local server = start(version, function(self, packet)
					if packet.type == packet_type.CONNECT then
						self:drip(bytes_of(self, { type = packet_type.CONNACK, sp = false, rc = 0 }))
						self:drip(bytes_of(self, { type = packet_type.PUBLISH, topic = "slow", payload = payload, qos = 0 }))
					end
				end)
				local client = new({ uri = server.uri, version = version })
				local events = harness.record(client, { "connect", "message", "error", "close" })
				world.add(client)
				table.insert(waiting, function()
					if #events < 2 then
						return false
					end
					assert.same({ "connect", "message" }, harness.names(events))
					assert.equal(payload, events[2][2].payload)
					return true
				end)
			end
			return run_beside_neighbour(function()
				for _, has_come in ipairs(waiting) do
					if not has_come() then
						return false
					end
				end
				return true
			end)
		end)

		for _, version in ipairs(way.blocks.sending and {} or VERSIONS) do
			for qos = 0, 1 do
				local name = ("whose broker stops reading keeps some and %s, MQTT %s, QoS %d"):format(
					way.waits and "waits" or "refuses the rest", version == mqtt.v50 and "5.0" or "3.1.1", qos)
				with_neighbour(name, "sending", function()
					return stops_reading(version, qos)
				end)
			end
		end
	end)
end

describe("a client alone whose broker stops reading", function()
	local server

	after_each(function()
		harness.cleanup()
		server:stop()
	end)

	-- Connects a client to a server that reads nothing more.
	local function connected(opts)
		server = servers.start(mqtt.v311)
		opts.uri = server.uri
		local client = harness.client(opts)
		harness.serve({ client, server.serve }, function()
			return client.connection and client.connection.connack
		end)
		return client
	end

	-- Publishes until that fails. Returns how many messages were accepted, and the error.
	local function publish_until_refused(client)
		local accepted, payload = 0, ("p"):rep(MESSAGE)
		while accepted < MUCH / MESSAGE do
			local ok, err = client:publish({ topic = "unread", payload = payload })
			if not ok then
				assert.is_false(ok)
				return accepted, err
			end
			accepted = accepted + 1
		end
		error("everything was accepted")
	end

	it("waits, and refuses when nothing was taken for long, until something is", function()
		local client = connected({ keep_alive = 0 })
		local real_now, passed = core.now, 0
		-- Half a minute passes between two looks at the clock.
		function core.now()
			passed = passed + 30
			return real_now() + passed
		end
		local accepted, err = publish_until_refused(client)
		local more = accepted
		while more > 0 do
			-- The system may have taken something in between.
			more, err = publish_until_refused(client)
			accepted = accepted + more
		end
		core.now = real_now
		assert.equal("failed to send PUBLISH: the connection takes nothing", err)
		harness.serve({ client, server.serve }, function()
			return server:count(packet_type.PUBLISH) == accepted
		end)
		assert.is_true(client:publish({ topic = "read" }))
		harness.serve({ client, server.serve }, function()
			return server.received[#server.received].topic == "read"
		end)
	end)

	it("on LuaSocket is told after the connector's timeout", function()
		local luasocket = require("mqtt.connector.luasocket")
		local connector = setmetatable({ timeout = TIMEOUT }, luasocket)
		connector.__index = connector
		local client = connected({ connector = connector })
		local events = harness.record(client, { "error", "close" })
		local before = now()
		local _, err = publish_until_refused(client)
		local took = now() - before
		assert.equal("failed to send PUBLISH: connector.send failed: timeout", err)
		assert.same({ "error", "close" }, harness.names(events))
		assert.equal(err, events[1][2])
		assert.equal("error", events[2][2].close_reason)
		assert.is_true(took >= TIMEOUT * 0.9 and took < TIMEOUT + SLACK)
	end)
end)

describe("a slow consumer", function()
	local server

	after_each(function()
		harness.cleanup()
		server:stop()
		copas_support.unload()
	end)

	-- Connects a client, whose broker answers PINGREQ, behind what it has sent before.
	local function connected(opts)
		server = servers.start(opts.version or mqtt.v311, function(self, packet)
			servers.accept(self, packet)
			if packet.type == packet_type.PINGREQ then
				self:pour(bytes_of(self, { type = packet_type.PINGRESP }))
			end
		end)
		opts.uri, opts.keep_alive, opts.ping_timeout = server.uri, KEEP_ALIVE, PING_TIMEOUT
		return harness.client(opts)
	end

	local function pour(messages, size)
		local message = bytes_of(server, { type = packet_type.PUBLISH, topic = "t", payload = ("p"):rep(size), qos = 0 })
		for _ = 1, messages do
			server:pour(message)
		end
	end

	for _, version in ipairs(VERSIONS) do
		it("has little in memory, and keeps its connection, MQTT " .. (version == mqtt.v50 and "5.0" or "3.1.1"), function()
			local client = connected({ version = version })
			local events = harness.record(client, { "error", "close" })
			harness.serve({ client, server.serve }, function()
				return client.connection and client.connection.connack
			end)
			local received = 0
			client:on("message", function()
				received = received + 1
			end)
			pour(MUCH / MESSAGE, MESSAGE)
			-- Lua is elsewhere: the broker would have given up this client after one and a half keep alive intervals.
			local busy_until = now() + 2 * KEEP_ALIVE
			while now() < busy_until do
				server:poll()
			end
			-- The process has the server's garbage too: what the client has taken is what it may keep.
			assert.is_true(client:stats().bytes_received < BOUND, "it takes too much")
			-- Most of it waits where it comes from.
			assert.is_true(server.poured < MUCH / 2)
			assert.is_true(server:count(packet_type.PINGREQ) >= 1)
			harness.serve({ client, server.serve }, function()
				return received == MUCH / MESSAGE
			end)
			assert.same({}, harness.names(events))
		end)
	end

	for _, way in ipairs(WAYS) do
		-- The native connection is served while Lua is busy, as above.
		if way.connector ~= "mqtt.connector.native" then
			it("is not told that its broker is dead, " .. way.name, function()
				local world, missing = way.world()
				if not world then
					return pending(missing)
				end
				local client = connected({ connector = require(way.connector) })
				local events = harness.record(client, { "error", "close" })
				local received = 0
				client:on({
					connect = function()
						pour(3, 10)
					end,
					message = function()
						-- Longer than the broker may take to answer a PINGREQ.
						local busy_until = now() + 1.3 * PING_TIMEOUT
						while now() < busy_until do
							server:poll()
						end
						received = received + 1
						if received == 3 then
							pour(3, 10)
						end
					end,
				})
				world.add(client)
				world.serve(server)
				local deadline = harness.deadline()
				while received < 6 and not events[1] do
					assert(now() < deadline, "nothing came of it in time")
					world.turn()
				end
				assert.same({}, { (events[1] or {})[2] })
				assert.is_true(server:count(packet_type.PINGREQ) >= 1)
				-- But a dead one is noticed.
				server.on_packet = function() end
				while not events[1] do
					assert(now() < deadline, "nothing came of it in time")
					world.turn()
				end
				assert.matches(PINGRESP_ERROR, events[1][2])
			end)
		end
	end
end)

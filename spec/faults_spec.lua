-- Brokers and networks that fail, one way or another: the client is told in time, ends or connects again as configured,
-- and other clients of the program do not notice.

local broker = require("spec.support.broker")
local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

local now, own_time = harness.now, harness.own_time
local packet_type = require("mqtt.protocol").packet_type

-- How long the client may wait for its broker, in seconds, and how much later it may tell on a slow machine.
local TIMEOUT = 0.3
local SLACK = 1
-- The shortest keep alive that MQTT knows, and the time that looking up a name may take, in seconds.
local KEEP_ALIVE = 1
local LOOKUP_TIMEOUT = 5
-- How long others may be held up, in seconds. The machine may slow down anything: one of so many rounds has to do.
local LIMIT = 0.020
local ROUNDS = 10
-- How soon others want to have their next turn, in seconds.
local TICK = 0.001

local VERSIONS = { mqtt.v311, mqtt.v50 }

-- The first half of a PUBLISH.
local HALF = "\48\14\0\5topic"

-- Each fault: `name`; `prepare`, what is done to the server before the client is there; `answer`, what the server does
-- on the first CONNECT instead of accepting it; `strike`, what it does once the client is connected; `opts` of the
-- client; `heal`, what is done to let it connect again. Then the events of a client that does not reconnect, what the
-- error is, why the connection was closed, and how long that takes, in seconds. `phase` is what goes on meanwhile.
local CONNACK_ERROR = "^failed to receive CONNACK within 0%.%d+ seconds$"
local PINGRESP_ERROR = "^failed to receive PINGRESP within 0%.3 seconds$"
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
			server:drip(tostring(server.protocol.make_packet({ type = packet_type.CONNACK, sp = false, rc = 0 })), 1)
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
		events = { "close" },
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
		name = "ends its half of the connection",
		strike = function(server)
			server:half_close()
		end,
		events = { "connect", "close" },
		reason = CLOSED,
		takes = 0,
	},
	{
		name = "resets the connection",
		strike = function(server)
			server:reset()
		end,
		events = { "connect", "close" },
		reason = CLOSED,
		takes = 0,
	},
	{
		name = "resets the connection in the middle of a packet",
		strike = function(server)
			server:send_bytes(HALF)
			server:reset()
		end,
		events = { "connect", "close" },
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
-- helped; `world` returns how to add a client and a server, whether a client has left, and one turn of the loop.
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
		local served = {}
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
			turn = function()
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
		blocks = { opening = true, resolving = true, ["shaking hands"] = true } },
	{ name = "under Copas 1", connector = "mqtt.connector.native", world = in_copas(1), blocks = {} },
	{ name = "under Copas 4", connector = "mqtt.connector.native", world = in_copas(4), blocks = {} },
	{ name = "on Copas 4", connector = "mqtt.connector.copas", world = in_copas(4), blocks = { resolving = true } },
}

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
			local deadline = now() + 10
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

		-- Runs `round`, which returns what `run_beside_neighbour` does, until nobody was held up for too long, or it is
		-- plain that this is not the machine's fault.
		local function holds_up_nobody(round)
			local least = math.huge
			for _ = 1, ROUNDS do
				least = math.min(least, round())
				if least <= LIMIT then
					return
				end
			end
			error(("others are held up for %.1f ms"):format(least * 1000))
		end

		-- Has a client suffer a fault. Returns a function that says whether all has come of it that must, having checked
		-- that nothing else has.
		local function suffer(fault, version, reconnect)
			local server = start(version, function(self, packet)
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
				connect_timeout = TIMEOUT,
				ping_timeout = TIMEOUT,
			}, fault.opts)
			local events = harness.record(client, { "connect", "error", "close" })
			local since, struck, took = now(), not fault.strike, nil
			local function note()
				if not took then
					took = now() - since
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
				assert.is_true(took >= least * 0.9 and took <= most + SLACK, ("it took %.3f s"):format(took))
				return true
			end

			return function()
				if not struck and is_connected() then
					struck, since = true, now()
					fault.strike(server)
				end
				if reconnect then
					return took and is_connected() and check()
				end
				return world.has_left(client) and check()
			end
		end

		-- A test, if what carries the clients is there.
		local function with_world(name, func)
			it(name, function()
				local missing
				world, missing = way.world()
				if not world then
					return pending(missing)
				end
				func()
			end)
		end

		for _, fault in ipairs(FAULTS) do
			-- TLS with the connectors is LuaSec's, see connectors_spec.
			if not (fault.phase == "shaking hands" and way.connector ~= "mqtt.connector.native") then
				with_world("whose broker " .. fault.name .. " is told, and ends or connects again", function()
					local function round()
						world = way.world()
						local sufferers = {}
						for _, version in ipairs(VERSIONS) do
							table.insert(sufferers, suffer(fault, version, false))
							table.insert(sufferers, suffer(fault, version, 0.01))
						end
						local longest = run_beside_neighbour(function()
							for i = #sufferers, 1, -1 do
								if sufferers[i]() then
									table.remove(sufferers, i)
								end
							end
							return #sufferers == 0
						end)
						harness.cleanup()
						return longest
					end
					if way.blocks[fault.phase] then
						round()
					else
						holds_up_nobody(round)
					end
				end)
			end
		end

		with_world("whose broker sends byte by byte receives everything", function()
			holds_up_nobody(function()
				world = way.world()
				local waiting = {}
				for _, version in ipairs(VERSIONS) do
					local server = start(version, function(self, packet)
						if packet.type == packet_type.CONNECT then
							self:drip(tostring(self.protocol.make_packet({ type = packet_type.CONNACK, sp = false, rc = 0 })))
							self:drip(tostring(self.protocol.make_packet({
								type = packet_type.PUBLISH, topic = "slow", payload = ("p"):rep(50), qos = 0, retain = false,
							})))
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
						assert.equal(("p"):rep(50), events[2][2].payload)
						return true
					end)
				end
				local longest = run_beside_neighbour(function()
					for _, has_come in ipairs(waiting) do
						if not has_come() then
							return false
						end
					end
					return true
				end)
				harness.cleanup()
				return longest
			end)
		end)
	end)
end

-- Which broker is connected to, and when: the rules by themselves, then clients in front of brokers that fail.

local broker = require("spec.support.broker")
local brokers = require("mqtt.brokers")
local copas_support = require("spec.support.copas")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local log = require("mqtt.log")
local mqtt = require("mqtt")
local packet_type = require("mqtt.protocol").packet_type
local servers = require("spec.support.server")

local record, serve = harness.record, harness.serve

describe("the next broker", function()
	local LIST = { "a", "b", "c" }
	local state, chance, clock

	before_each(function()
		chance, clock = 0, 0
		state = brokers.new(function()
			return chance
		end, function()
			return clock
		end)
	end)

	-- Which one is tried now, as text.
	local function try(uris)
		local uri, host, port = state:next(uris or LIST)
		return host and ("%s>%s:%s"):format(uri, host, port or "") or uri
	end

	-- Tries, and fails. Returns which one it was.
	local function fail(uris)
		local tried = try(uris)
		state:ended()
		return tried
	end

	-- Connects to the next one. Returns which one it was.
	local function succeed(uris)
		local tried = try(uris)
		state:succeeded()
		clock = clock + 1000
		return tried
	end

	local function fails(count)
		local tried = {}
		for i = 1, count do
			tried[i] = fail()
		end
		return tried
	end

	local FIXED = { min = 1, max = 60, jitter = 0 }

	it("waits longer each time after connections that do not hold, and starts anew after one that did", function()
		local function hold(seconds, is_wanted)
			try("a")
			state:succeeded()
			clock = clock + seconds
			state:ended(is_wanted)
			return state:delay(FIXED)
		end
		local delays = {}
		for i, seconds in ipairs({ 0, 0.1, 4.9, 4.9, 15.9, 16.1, 0, 5, 0 }) do
			delays[i] = hold(seconds)
		end
		assert.same({ 1, 2, 4, 8, 16, 32, 60, 60, 60 }, delays)
		assert.equal(1, hold(120))
		assert.equal(1, hold(0))
		assert.equal(2, hold(0))
		assert.equal(1, hold(5))
		assert.equal(1, hold(0, true))
		-- Attempts that fail in between do not make it hold.
		hold(0)
		fail("a")
		assert.equal(2, state:delay(FIXED))
		assert.equal(4, hold(0))
	end)

	describe("of a list", function()
		it("is the one behind that which has failed, without delay", function()
			assert.is_false(state:is_midway())
			assert.equal("a", fail())
			assert.is_true(state:is_midway())
			assert.equal(0, state:delay(30))
			assert.equal("b", fail())
			assert.equal(0, state:delay(FIXED))
			assert.equal("c", try())
		end)

		it("is the first one again, after a delay, when all have failed", function()
			assert.same({ "a", "b", "c" }, fails(3))
			assert.is_false(state:is_midway())
			assert.equal(30, state:delay(30))
			assert.same({ "a", "b", "c" }, fails(3))
		end)

		it("is the same one, after a delay, when its connection is lost, and the pass goes on behind it", function()
			fails(1)
			assert.equal("b", succeed())
			assert.is_false(state:is_midway())
			state:ended()
			assert.is_false(state:is_midway())
			assert.equal(30, state:delay(30))
			assert.same({ "b", "c", "a" }, fails(3))
			assert.is_false(state:is_midway())
			assert.same({ "b", "c" }, fails(2))
		end)

		it("does not change when an end is told twice, or before there was anything to end", function()
			state:ended()
			fail()
			state:ended()
			assert.equal("b", try())
		end)

		it("stays the same while it is asked for", function()
			assert.equal("a", try())
			assert.equal("a", try())
			state:ended()
			assert.equal("b", try())
		end)

		it("is the first one of a list that takes its place", function()
			fails(2)
			local other = { "x", "y" }
			assert.equal("x", fail(other))
			assert.equal("y", fail(other))
			assert.equal("z", fail("z"))
			assert.is_false(state:is_midway())
		end)
	end)

	it("of a single one is that one, always after a delay", function()
		assert.equal("a", fail("a"))
		assert.is_false(state:is_midway())
		assert.equal(5, state:delay(5))
		assert.equal("a", succeed("a"))
		state:ended()
		assert.equal("a", try("a"))
	end)

	describe("is waited for", function()
		-- The delays after so many failed passes.
		local function delays(count, reconnect)
			local seconds = {}
			for i = 1, count do
				fail("a")
				seconds[i] = state:delay(reconnect)
			end
			return seconds
		end

		it("30 seconds with true, so many seconds with a number", function()
			assert.same({ 30, 30, 30 }, delays(3, true))
			assert.same({ 0.5, 0.5 }, delays(2, 0.5))
		end)

		it("twice as long after each failure, up to a limit", function()
			assert.same({ 1, 2, 4, 8, 16, 32, 60, 60 }, delays(8, FIXED))
			assert.equal(60, delays(5000, FIXED)[5000])
		end)

		it("for as long as the option says by then", function()
			assert.same({ 1, 2 }, delays(2, FIXED))
			assert.equal(0.2, state:delay({ min = 0.1, max = 1, jitter = 0 }))
		end)

		it("not longer because of a list: passes count, not attempts", function()
			fails(3)
			assert.equal(1, state:delay(FIXED))
			fails(3)
			assert.equal(2, state:delay(FIXED))
		end)

		it("as short as at first after a success", function()
			delays(5, FIXED)
			succeed("a")
			state:ended()
			assert.equal(1, state:delay(FIXED))
			assert.same({ 1, 2 }, delays(2, FIXED))
		end)

		it("by its defaults", function()
			assert.same({ 1, 2, 4, 8, 16, 32, 60 }, delays(7, {}))
			assert.equal(0.5, state:delay({ max = 0.5 }))
			assert.equal(100, state:delay({ min = 100 }))
			chance = 0.5
			assert.same({ 45 }, delays(1, {}))
		end)

		it("shorter by a random part of up to the jitter, the same one until the next failure", function()
			for _, drawn in ipairs({ 0, 0.25, 0.75, 0.999 }) do
				chance = drawn
				fail("a")
				chance = 0.1
				for _, jitter in ipairs({ 0, 0.5, 1 }) do
					assert.is_near(10 * (1 - jitter * drawn), state:delay({ min = 10, max = 10, jitter = jitter }), 1e-9)
				end
			end
		end)

		it("at random also after a loss", function()
			succeed("a")
			chance = 0.5
			state:ended()
			assert.equal(0.75, state:delay({}))
		end)
	end)

	describe("by a server reference", function()
		it("comes at once, then the rest of the list", function()
			try()
			assert.same({}, state:refer("x y:1884", false))
			state:ended()
			assert.is_true(state:is_midway())
			assert.same({ "a>x:", "a>y:1884", "b", "c" }, fails(4))
			assert.is_false(state:is_midway())
			-- It was for once.
			assert.same({ "a", "b", "c" }, fails(3))
		end)

		it("comes first from now on if the server has moved", function()
			fail()
			try()
			state:refer("x y", true)
			state:ended()
			assert.same({ "b>x:", "b>y:", "c" }, fails(3))
			assert.is_false(state:is_midway())
			assert.same({ "b>x:", "b>y:", "a", "b", "c" }, fails(5))
			assert.is_false(state:is_midway())
		end)

		it("is forgotten when one of the list accepts after all", function()
			try()
			state:refer("x", true)
			state:ended()
			assert.equal("a>x:", fail())
			assert.equal("b", succeed())
			state:ended()
			assert.same({ "b", "c", "a" }, fails(3))
			assert.is_false(state:is_midway())
		end)

		it("is tried again first when its connection is lost, and dropped when that fails", function()
			try()
			state:refer("x y", false)
			state:ended()
			fail()
			assert.equal("a>y:", succeed())
			state:ended()
			assert.is_false(state:is_midway())
			assert.same({ "a>y:", "a", "b", "c" }, fails(4))
			assert.is_false(state:is_midway())
			assert.same({ "a", "b", "c" }, fails(3))
		end)

		it("keeps its turn when it has moved there and its connection is lost", function()
			try()
			state:refer("x y", true)
			state:ended()
			fail()
			assert.equal("a>y:", succeed())
			state:ended()
			assert.same({ "a>y:", "a>x:", "a", "b", "c", "a>y:" }, fails(6))
		end)

		it("comes at once when it ends a connection", function()
			succeed()
			state:refer("x", false)
			state:ended()
			assert.is_true(state:is_midway())
			assert.same({ "a>x:", "a", "b", "c" }, fails(4))
			assert.is_false(state:is_midway())
		end)

		it("of one that was referred to itself waits, longer each time", function()
			try("a")
			state:refer("x", false)
			state:ended()
			for failures = 1, 3 do
				assert.equal("a>x:", try("a"))
				state:refer("x", false)
				state:ended()
				assert.is_false(state:is_midway())
				assert.equal(2 ^ (failures - 1), state:delay(FIXED))
			end
			assert.equal("a>x:", fail("a"))
			assert.equal(0, state:delay(FIXED))
			assert.equal("a", fail("a"))
			assert.equal(8, state:delay(FIXED))
		end)

		it("of one that was referred to and had accepted waits", function()
			try("a")
			state:refer("x", false)
			state:ended()
			succeed("a")
			state:refer("y", false)
			state:ended()
			assert.is_false(state:is_midway())
			assert.equal(1, state:delay(FIXED))
			assert.equal("a>y:", try("a"))
		end)

		it("is forgotten with the list", function()
			try()
			state:refer("x", true)
			state:ended()
			assert.equal("z", fail("z"))
			assert.equal("a", fail())
		end)

		it("is a host, perhaps with a port, several apart by blanks", function()
			try()
			assert.same({}, state:refer("  one.example two.example:1  192.0.2.1:65535 [::1]:1884 [2001:db8::1] ", false))
			state:ended()
			assert.same({
				"a>one.example:", "a>two.example:1", "a>192.0.2.1:65535", "a>::1:1884", "a>2001:db8::1:", "b",
			}, fails(6))
		end)

		it("is ignored if it is anything else", function()
			try()
			local bad = { "mqtt://h", "user@h", "user:secret@h", "h:0", "h:65536", "h:x", "::1", "h/path", ":1883", "[::1" }
			assert.same(bad, state:refer(table.concat(bad, " "), false))
			assert.same({ "h:0" }, state:refer("h:0 x", false))
			state:ended()
			assert.equal("a>x:", fail())
			try()
			assert.same({}, state:refer("", true))
			state:ended()
			assert.equal("c", fail())
		end)

		it("counts up to a number of hosts", function()
			try()
			local ignored = state:refer(("h "):rep(1000), false)
			state:ended()
			assert.equal(992, #ignored)
			local tried = fails(9)
			assert.equal("a>h:", tried[8])
			assert.equal("b", tried[9])
		end)

		it("is ignored when nothing is connected to", function()
			assert.same({}, state:refer("x", false))
			state:succeeded()
			assert.equal("a", fail())
		end)
	end)
end)

-- How a client may connect; `connector` returns nil and why where this Lua has no such thing.
local ways = {
	["the native connection"] = function()
		return require("mqtt.connector.native")
	end,
	LuaSocket = function()
		local found, connector = pcall(require, "mqtt.connector.luasocket")
		if not found then
			return nil, "no LuaSocket for this Lua: " .. connector:match("[^\n]*")
		end
		return connector
	end,
}

for way, load in pairs(ways) do
	local tag = way == "LuaSocket" and " #luasec" or ""
	describe("a client on " .. way, function()
		local connector, missing = load()
		if not connector then
			pending(missing)
			return
		end

		-- Servers started since the last test, and their functions for the loop.
		local started, serving

		before_each(function()
			started, serving = {}, {}
		end)

		after_each(function()
			harness.cleanup()
			for _, server in ipairs(started) do
				server:stop()
			end
		end)

		local function new(opts)
			opts.connector = connector
			return harness.client(opts)
		end

		-- Starts a scripted broker. `answer` is called instead of accepting a CONNECT.
		local function start(answer, version)
			local server = servers.start(version or mqtt.v50, function(self, packet)
				if packet.type == packet_type.CONNECT then
					(answer or servers.accept)(self, packet)
				end
			end)
			started[#started + 1] = server
			serving[#serving + 1] = server.serve
			return server
		end

		-- Serves a client and the scripted brokers until something has happened.
		local function run(subject, done)
			serve({ subject, (table.unpack or unpack)(serving) }, done) -- luacheck: ignore 143
		end

		-- Serves a client until it has ended, and the scripted brokers.
		local function run_to_end(subject)
			local wait = 0
			serve({ function()
				wait = subject:step()
			end, (table.unpack or unpack)(serving) }, function() -- luacheck: ignore 143
				return not wait
			end)
		end

		-- A uri where nobody listens.
		local function dead_uri()
			local server = servers.start(mqtt.v50)
			server:stop()
			return server.uri
		end

		local function is_connected(subject)
			return subject.connection and subject.connection.connack and subject.connection.connack.rc == 0
		end

		local function connected(subject)
			run(subject, function()
				return is_connected(subject)
			end)
			return subject
		end

		local function refuse(rc, properties)
			return function(server)
				server:send({ type = packet_type.CONNACK, sp = false, rc = rc, properties = properties })
			end
		end

		local function connects(server)
			return server:count(packet_type.CONNECT)
		end

		for name, version in pairs({ ["MQTT 3.1.1"] = mqtt.v311, ["MQTT 5.0"] = mqtt.v50 }) do
			it("goes on to the next broker at once, " .. name, function()
				local refusing = start(refuse(version == mqtt.v311 and 5 or 0x87), version)
				local dropping = start(function(server)
					server:drop()
				end, version)
				local good = start(nil, version)
				local uris = { dead_uri(), refusing.uri, dropping.uri, good.uri, dead_uri() }
				local subject = new({ uri = uris, version = version, reconnect = 600 })
				local events = record(subject)
				connected(subject)
				assert.same({ "error", "error", "connect", "close", "error", "close", "connect" }, harness.names(events))
				assert.matches("^failed to open network connection: ", events[1][2])
				assert.matches("^CONNECT failed with CONNACK ", events[2][2])
				assert.matches("^connection closed by broker before its CONNACK", events[5][2])
				assert.equal("connection closed by broker", events[6][2].close_reason)
				assert.equal(good.uri, subject.connection.uri)
				assert.equal(good.uri:match("%d+$"), tostring(subject.connection.port))
				assert.equal(uris, subject.opts.uri)
			end)

			it("makes one pass without reconnect, " .. name, function()
				local refusing = start(refuse(version == mqtt.v311 and 3 or 0x88), version)
				local subject = new({ uri = { dead_uri(), refusing.uri, dead_uri() }, version = version })
				local events = record(subject, { "error" })
				run_to_end(subject)
				assert.equal(3, #events)
				assert.is_false(subject.first_connect)
				local wait, err = subject:step()
				assert.is_nil(wait)
				assert.equal("network connection is not opened", err)
			end)
		end

		it("reports options that have become bad, and stays usable", function()
			local subject = new({ uri = broker.uri })
			for text, uri in pairs({
				["expecting uri to be a string or a list of strings, got an empty list"] = {},
				["expecting uri%[2%] to be a string, got: number"] = { "a", 1 },
				["expecting uri to be a string"] = 1,
			}) do
				subject.opts.uri = uri
				assert.matches(text, harness.failure(subject.step, subject))
			end
			subject.opts.uri = { dead_uri(), broker.uri }
			connected(subject)
		end)

		it("does not go on without reconnect once it was connected", function()
			local good, other = start(), start()
			local subject = connected(new({ uri = { good.uri, other.uri }, version = mqtt.v50 }))
			good:drop()
			run_to_end(subject)
			assert.equal(0, other.accepted)
		end)

		it("does not go on when it is shut down", function()
			local good = start()
			local subject = new({ uri = { dead_uri(), good.uri }, version = mqtt.v50, reconnect = 0.01 })
			subject:on("error", function()
				subject:shutdown()
			end)
			run_to_end(subject)
			assert.equal(0, good.accepted)
		end)

		it("begins a new pass when it is told to connect again", function()
			local subject = new({ uri = { dead_uri(), dead_uri() } })
			local events = record(subject, { "error" })
			run_to_end(subject)
			subject.first_connect = true
			run_to_end(subject)
			assert.equal(4, #events)
		end)

		it("goes on in run_sync", function()
			local subject = new({ uri = { dead_uri(), ("mqtt://127.0.0.1:%d"):format(broker.password_port), broker.uri } })
			local events = record(subject, { "error", "connect" })
			subject:on("connect", function(connack)
				if connack.rc == 0 then
					subject:disconnect()
				end
			end)
			assert.is_nil((mqtt.run_sync(subject)))
			assert.same({ "error", "error", "connect", "connect" }, harness.names(events))
			local ok, err = mqtt.run_sync(new({ uri = { dead_uri(), dead_uri() } }))
			assert.is_false(ok)
			assert.matches("^failed to open network connection: ", err)
		end)

		it("gives each broker the credentials of its own uri, and TLS to those that ask for it" .. tag, function()
			local first, last = start(refuse(0x86)), start(refuse(0x88))
			local uris = {
				("mqtt://one:first@127.0.0.1:%d"):format(first.port),
				-- This one knows nobody.
				("mqtt://two:second@127.0.0.1:%d"):format(broker.password_port),
				("mqtts://localhost:%d"):format(broker.expired_port),
				last.uri,
				-- Without a scheme `secure` counts, but nobody does TLS there.
				("127.0.0.1:%d"):format(broker.port),
				("mqtts://three:third@localhost:%d"):format(broker.tls_port),
			}
			local secure = { cafile = broker.cafile }
			local subject = new({ uri = uris, version = mqtt.v50, secure = secure, reconnect = 600 })
			local events = record(subject, { "error", "connect" })
			connected(subject)
			assert.equal("one", first.received[1].username)
			assert.equal("first", first.received[1].password)
			assert.is_nil(last.received[1].username)
			assert.is_nil(last.received[1].password)
			assert.same({ "error", "connect", "error", "connect", "error", "error", "connect", "error", "connect" },
				harness.names(events))
			assert.matches("rc=135", events[3][2])
			assert.matches("certificate", events[5][2])
			assert.matches("handshake", events[8][2])
			assert.is_true(subject.connection.secure)
			assert.equal("three", subject.opts.username)
			assert.equal(secure, subject.opts.secure)
		end)

		it("prefers explicit credentials to those of a uri", function()
			local first, last = start(refuse(0x86)), start()
			local subject = new({
				uri = { ("mqtt://one:first@127.0.0.1:%d"):format(first.port), last.uri },
				version = mqtt.v50,
				username = "me",
				password = "mine",
			})
			connected(subject)
			for _, server in ipairs({ first, last }) do
				assert.equal("me", server.received[1].username)
				assert.equal("mine", server.received[1].password)
			end
		end)

		it("does not show one broker the credentials of a uri that stood in its place", function()
			local first, other = start(), start()
			local subject = new({ uri = ("mqtt://one:first@127.0.0.1:%d"):format(first.port), version = mqtt.v50 })
			assert.equal("one", subject.opts.username)
			connected(subject)
			subject:disconnect()
			subject.opts.uri = other.uri
			subject.first_connect = true
			connected(subject)
			assert.is_nil(other.received[1].username)
			assert.is_nil(subject.opts.password)
		end)

		it("tries the same broker first when the connection is lost", function()
			local good, other = start(), start()
			local subject = new({ uri = { dead_uri(), good.uri, other.uri }, version = mqtt.v50, reconnect = 0.05 })
			connected(subject)
			good:drop()
			run(subject, function()
				return good.accepted == 2 and is_connected(subject)
			end)
			assert.equal(0, other.accepted)
			good:drop()
			good.listener:close()
			run(subject, function()
				return other.accepted == 1 and is_connected(subject)
			end)
		end)

		it("waits when all have failed, longer each time, and as short as at first after a success", function()
			local good = start(refuse(0x89))
			local subject = new({
				uri = { dead_uri(), good.uri },
				version = mqtt.v50,
				reconnect = { min = 0.1, max = 0.2, jitter = 0 },
			})
			local times, passes = {}, 0
			subject:on("error", function(_, _, packet)
				if not packet and not subject.connection then
					times[#times + 1] = harness.now()
				end
			end)
			run(subject, function()
				passes = #times
				return passes == 4
			end)
			for i, seconds in ipairs({ 0.1, 0.2, 0.2 }) do
				local waited = times[i + 1] - times[i]
				assert.is_true(waited > seconds * 0.95 and waited < seconds + 2, i .. ": " .. waited)
			end
			good.on_packet = servers.accept
			connected(subject)
			subject.opts.reconnect = { min = 0.3, max = 60, jitter = 0 }
			-- It has held for long.
			subject._brokers._since = subject._brokers._since - 1000
			local before = harness.now()
			good:drop()
			run(subject, function()
				return not subject.connection
			end)
			connected(subject)
			assert.is_true(harness.now() - before < 10)
		end)

		it("waits shorter by chance", function()
			local subject = new({ uri = dead_uri(), reconnect = { min = 30, max = 30, jitter = 0.5 } })
			local waits = {}
			for i = 1, 8 do
				local events = record(subject, { "error" })
				subject.first_connect, subject._brokers.last_attempt = true, nil
				run(subject, function()
					return events[1]
				end)
				waits[i] = subject:step()
				assert.is_true(waits[i] > 14 and waits[i] <= 30)
			end
			table.sort(waits)
			assert.is_true(waits[8] - waits[1] > 0.01)
		end)

		describe("that is referred to another broker", function()
			local first, second, warnings, warn

			before_each(function()
				warnings, warn = {}, rawget(log, "warn")
				log.warn = function(_, text, ...)
					warnings[#warnings + 1] = text:format(...)
				end
			end)

			after_each(function()
				log.warn = warn
			end)

			local function reference(server)
				return ("127.0.0.1:%d"):format(server.port)
			end

			local function new_follower(opts)
				opts.version = mqtt.v50
				if opts.follow_server_reference == nil then
					opts.follow_server_reference = true
				end
				opts.uri = ("mqtt://me:mine@127.0.0.1:%d"):format(first.port)
				return new(opts)
			end

			for code, moved in pairs({ [0x9C] = false, [0x9D] = true }) do
				local by_code = (" by 0x%X"):format(code)

				it("in CONNACK" .. by_code .. " goes there at once", function()
					second = start()
					first = start(refuse(code, { server_reference = reference(second) }))
					local subject = connected(new_follower({ reconnect = 600 }))
					assert.equal(1, connects(first))
					assert.equal("me", second.received[1].username)
					assert.equal("mine", second.received[1].password)
					assert.equal(second.uri, subject.connection.uri)
					assert.same({}, warnings)
				end)

				it("in CONNACK" .. by_code .. " goes there even without reconnect", function()
					second = start()
					first = start(refuse(code, { server_reference = reference(second) }))
					connected(new_follower({}))
				end)

				it("in CONNACK" .. by_code .. " goes nowhere unless that is allowed", function()
					second = start()
					first = start(refuse(code, { server_reference = reference(second) }))
					run_to_end(new_follower({ follow_server_reference = false }))
					assert.equal(0, second.accepted)
				end)

				it("in DISCONNECT" .. by_code .. " goes there at once", function()
					first, second = start(), start()
					local subject = connected(new_follower({ reconnect = 600 }))
					local events = record(subject, { "error", "close" })
					first:send({ type = packet_type.DISCONNECT, rc = code,
						properties = { server_reference = reference(second) } })
					run(subject, function()
						return second.accepted == 1 and is_connected(subject)
					end)
					assert.same({ "error", "close" }, harness.names(events))
					assert.equal(1, first.accepted)
				end)

				it("in DISCONNECT" .. by_code .. " goes nowhere unless that is allowed", function()
					first, second = start(), start()
					local subject = connected(new_follower({ reconnect = 0.01, follow_server_reference = false }))
					first:send({ type = packet_type.DISCONNECT, rc = code,
						properties = { server_reference = reference(second) } })
					run(subject, function()
						return first.accepted == 2 and is_connected(subject)
					end)
					assert.equal(0, second.accepted)
				end)

				it(by_code:sub(2) .. (moved and " stays there" or " comes back when it fails there"), function()
					second = start()
					first = start(refuse(code, { server_reference = reference(second) }))
					local subject = connected(new_follower({ reconnect = { min = 0.02, max = 0.02 } }))
					local events = record(subject, { "error" })
					second:drop()
					second.listener:close()
					first.on_packet = servers.accept
					if moved then
						first.on_packet = refuse(0x88)
						run(subject, function()
							return #events == 5
						end)
						-- The loss, then there, here, there, here.
						assert.equal(3, connects(first))
					else
						run(subject, function()
							return connects(first) == 2 and is_connected(subject)
						end)
						first:drop()
						run(subject, function()
							return connects(first) == 3 and is_connected(subject)
						end)
						-- Both losses, and the attempt there.
						assert.equal(3, #events)
					end
				end)
			end

			it("and back again does not go in circles without a pause", function()
				first = start(function(self)
					refuse(0x9C, { server_reference = reference(second) })(self)
				end)
				second = start(function(self)
					refuse(0x9C, { server_reference = reference(first) })(self)
				end)
				local subject = new_follower({ reconnect = 600 })
				run(subject, function()
					return connects(second) == 1 and not subject.connection
				end)
				assert.is_true(subject:step() > 500)
				assert.equal(1, connects(first))
			end)

			it("takes what is a host and ignores the rest with a warning", function()
				second = start()
				first = start(refuse(0x9C, { server_reference = "mqtt://evil.example " .. reference(second) }))
				local subject = connected(new_follower({ id = "follower" }))
				assert.equal(second.uri, subject.connection.uri)
				assert.same({
					"[LuaMQTT] client 'follower' ignores server reference \"mqtt://evil.example\": expecting host[:port]",
				}, warnings)
			end)

			it("with an IPv6 address goes there", function()
				if not broker.ipv6 then
					pending("this machine has no ::1")
					return
				end
				first = start(refuse(0x9C, { server_reference = ("[::1]:%d"):format(broker.port) }))
				local subject = connected(new_follower({ reconnect = 600 }))
				assert.equal("::1", subject.connection.host)
				assert.equal(("mqtt://[::1]:%d"):format(broker.port), subject.connection.uri)
			end)
		end)

		it("gives up on a broker that accepts and does not shake hands, in time" .. tag, function()
			local silent = start()
			local subject = new({
				uri = { ("mqtts://localhost:%d"):format(silent.port), broker.uri },
				connect_timeout = 0.3,
			})
			silent.on_packet = function() end
			silent.poll = function() end
			local events = record(subject, { "error", "connect" })
			local before = harness.now()
			connected(subject)
			local took = harness.now() - before
			assert.same({ "error", "connect" }, harness.names(events))
			assert.is_true(took > 0.25 and took < 5, took)
		end)

		it("gives up on a broker that opens and does not answer CONNECT, in time", function()
			local silent = start(function() end)
			local subject = new({ uri = { silent.uri, broker.uri }, version = mqtt.v50, connect_timeout = 0.3 })
			local events = record(subject, { "error", "connect", "close" })
			local before = harness.now()
			connected(subject)
			local took = harness.now() - before
			assert.same({ "error", "close", "connect" }, harness.names(events))
			assert.matches("^failed to receive CONNACK within 0%.%d+ seconds: timeout$", events[1][2])
			assert.is_true(took > 0.25 and took < 5, took)
		end)

		it("gives the CONNACK the time that opening has left, and a little in any case", function()
			local now = core.now
			-- Opens a connection with a clock that goes on by so many seconds at each look.
			local function rest(connect_timeout, step)
				local subject = new({ uri = broker.uri, connect_timeout = connect_timeout })
				local time = 0
				function core.now()
					time = time + step
					return time
				end
				local ok, err = subject:open_connection()
				core.now = now
				assert(ok, err)
				return subject.connection.connack_timeout
			end
			assert.equal(5, rest(5, 0))
			local left = rest(5, 1)
			assert.is_true(left >= 2 and left <= 4, left)
			assert.equal(0.5, rest(5, 100))
			assert.equal(30, rest(nil, 0))
			assert.equal(3, rest(nil, 100))
		end)

		it("keeps the identifier that the broker has assigned, and with it its session", function()
			local subject = new({
				version = mqtt.v50,
				id = "",
				clean = "first",
				properties = { session_expiry_interval = 60 },
				reconnect = 0.01,
			})
			local connacks = {}
			subject:on("connect", function(connack)
				connacks[#connacks + 1] = connack
			end)
			connected(subject)
			local assigned = connacks[1].properties.assigned_client_identifier
			assert.equal(assigned, subject.opts.id)
			assert.equal(("mqtt.client{id=%q}"):format(assigned), tostring(subject))
			subject:disconnect()
			run(subject, function()
				return #connacks == 2
			end)
			assert.is_true(connacks[2].sp)
			assert.equal(assigned, subject.opts.id)
			-- leaves nothing behind
			subject.opts.clean, subject.opts.properties = true, nil
			subject:disconnect()
			connected(subject)
		end)
	end)
end

for _, version in ipairs({ 1, 4 }) do
	for _, name in ipairs({ "native", "copas" }) do
		describe(("under Copas %d, %s, a client"):format(version, name), function()
			local copas, missing, errors

			before_each(function()
				copas, missing, errors = copas_support.load_watched(version)
				package.loaded["mqtt.connector.copas"] = nil
			end)

			after_each(function()
				harness.cleanup()
				copas_support.unload()
				package.loaded["mqtt.connector.copas"] = nil
				assert.same({}, errors)
			end)

			local tag = version == 4 and name == "copas" and " #luasec" or ""
			it("goes on to the next broker at once, and holds nobody up" .. tag, function()
				if not copas then
					pending(missing)
					return
				end
				local dead = servers.start(mqtt.v50)
				dead:stop()
				local uris = { dead.uri, broker.uri }
				-- Accepts, by the system, and says nothing. The ancient Copas has neither TLS nor time limits.
				local silent = servers.start(mqtt.v50)
				if version == 4 then
					table.insert(uris, 2, ("mqtts://localhost:%d"):format(silent.port))
				end
				local subject = harness.client({
					uri = uris,
					reconnect = 600,
					connect_timeout = 0.3,
					connector = require("mqtt.connector." .. name),
				})
				local events, turns = record(subject, { "error", "connect" }), 0
				assert.is_true(require("mqtt.loop").add(subject))
				local deadline = harness.deadline()
				repeat
					copas.step(0.01)
					turns = turns + 1
					assert(harness.now() < deadline, "nothing came of it in time")
				until subject.connection and subject.connection.connack
				silent:stop()
				assert.equal(version == 4 and 3 or 2, #events)
				assert.equal("connect", events[#events][1])
				assert.equal(broker.uri, subject.connection.uri)
				-- Others have had their turns while the broker was silent: up to 30.
				assert.is_true(turns > (version == 4 and 10 or 0), turns)
			end)
		end)
	end
end

for _, way in ipairs({ "native", "luasocket" }) do
	describe("a broker that accepts and then ends the connection each time, " .. way, function()
		after_each(function()
			harness.cleanup()
			servers.stop_all()
		end)

		it("is left alone for longer and longer, and the error says what taken over means", function()
			local server = servers.start(mqtt.v50, function(self, packet)
				servers.accept(self, packet)
				if packet.type == packet_type.CONNECT then
					self:send({ type = packet_type.DISCONNECT, rc = 0x8E })
				end
			end)
			local client = harness.client({ uri = server.uri, version = mqtt.v50,
				connector = require("mqtt.connector." .. way), reconnect = { min = 0.05, jitter = 0 } })
			local events = record(client, { "error" })
			local started = harness.now()
			serve({ client, server.serve }, function()
				return #events == 4
			end)
			-- The delays are 0.05, 0.1 and 0.2 seconds.
			assert.is_true(harness.now() - started >= 0.35)
			assert.matches("0x8E%]: another client uses this client identifier %(the option id%)$", events[1][2])
		end)
	end)
end

-- Handlers that do what they should not, or what is hard to bear: they throw, end the connection, change the handlers,
-- publish again and again, yield. The client stays consistent, and nobody else's business suffers.

local copas_support = require("spec.support.copas")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

local packet_type = require("mqtt.protocol").packet_type

local CLOSED_BY_CLIENT = "connection closed by client"

-- What handlers throw.
local THROWN = {
	["a string"] = "text",
	["a table"] = { code = 1 },
	["false"] = false,
	["a number"] = 42,
	["nil"] = nil,
}
local THROWN_NAMES = { "a string", "a table", "false", "a number", "nil" }

local AUTHENTICATION = { authentication_method = "spec" }

-- Where functions of the program are called: `trigger` brings it about once the client is connected, `registers` is
-- there for callbacks, which do not come from `Client:on`: it brings it about with the function as callback. With
-- `by_server` the server does so. With `ends` the connection ends by that, `reason` says why.
local MOMENTS = {
	connect = {},
	message = {
		by_server = true,
		trigger = function(_, server)
			server:send({ type = packet_type.PUBLISH, topic = "t", payload = "trigger", qos = 1, packet_id = 1 })
		end,
	},
	acknowledge = {
		trigger = function(client)
			assert(client:publish({ topic = "t", qos = 1 }))
		end,
	},
	subscribe = {
		trigger = function(client)
			assert(client:subscribe({ topic = "t" }))
		end,
	},
	unsubscribe = {
		trigger = function(client)
			assert(client:unsubscribe({ topic = "t" }))
		end,
	},
	auth = {
		by_server = true,
		trigger = function(_, server)
			server:send({ type = packet_type.AUTH, rc = 0x18, properties = AUTHENTICATION })
		end,
	},
	["the callback of a publish"] = {
		registers = function(client, callback)
			assert(client:publish({ topic = "t", qos = 1, callback = callback }))
		end,
	},
	["the callback of a publish with QoS 0"] = {
		registers = function(client, callback)
			assert(client:publish({ topic = "t", callback = callback }))
		end,
	},
	["the callback of a subscribe"] = {
		registers = function(client, callback)
			assert(client:subscribe({ topic = "t", callback = callback }))
		end,
	},
	["the callback of an unsubscribe"] = {
		registers = function(client, callback)
			assert(client:unsubscribe({ topic = "t", callback = callback }))
		end,
	},
	-- The moments at which the connection ends.
	error = {
		by_server = true,
		ends = true,
		reason = "error",
		trigger = function(_, server)
			server:send_bytes("\0\0")
		end,
	},
	close = {
		ends = true,
		reason = CLOSED_BY_CLIENT,
		trigger = function(client)
			client:disconnect()
		end,
	},
	shutdown = {
		ends = true,
		reason = CLOSED_BY_CLIENT,
		trigger = function(client)
			client:shutdown()
		end,
	},
}

-- A broker that answers every request.
local ANSWERS = {
	[packet_type.CONNECT] = function()
		return { type = packet_type.CONNACK, sp = false, rc = 0, properties = AUTHENTICATION }
	end,
	[packet_type.PUBLISH] = function(packet)
		return packet.qos == 1 and { type = packet_type.PUBACK, packet_id = packet.packet_id, rc = 0 }
	end,
	[packet_type.SUBSCRIBE] = function(packet)
		return { type = packet_type.SUBACK, packet_id = packet.packet_id, rc = { 0 } }
	end,
	[packet_type.UNSUBSCRIBE] = function(packet)
		return { type = packet_type.UNSUBACK, packet_id = packet.packet_id, rc = { 0 } }
	end,
}

-- Sends messages that nobody is to see if the connection ends before.
local function send_more(server)
	for _ = 1, 3 do
		server:send({ type = packet_type.PUBLISH, topic = "t", payload = "behind", qos = 0 })
	end
end

-- Answers a packet, and sends more right behind that if the server `chases`.
local function answer(server, packet)
	local make = ANSWERS[packet.type]
	local reply = make and make(packet)
	if reply then
		server:send(reply)
		if server.chases then
			server.chases = false
			send_more(server)
		end
	end
end

for way, connector in pairs({ native = "mqtt.connector.native", LuaSocket = "mqtt.connector.luasocket" }) do
	describe("a client (" .. way .. ") with a handler", function()
		local server, client

		before_each(function()
			server = servers.start(mqtt.v50, answer)
			client = harness.client({ uri = server.uri, version = mqtt.v50, connector = require(connector),
				properties = AUTHENTICATION })
		end)

		after_each(function()
			harness.cleanup()
			server:stop()
		end)

		local function serve(done)
			harness.serve({ client, server.serve }, done)
		end

		local function is_connected()
			return client.connection and client.connection.connack
		end

		-- Has a function called at a moment. `ready` is called once the client is connected, or is to be.
		local function bring_about(moment, name, func, ready)
			if not moment.registers then
				client:on(name, func)
			end
			if name ~= "connect" then
				serve(is_connected)
			end
			if ready then
				ready()
			end
			if moment.registers then
				moment.registers(client, func)
			elseif moment.trigger then
				moment.trigger(client, server)
			end
		end

		-- Checks that the client is of use: connected, requests are answered.
		local function is_of_use()
			serve(is_connected)
			local acknowledged
			assert(client:publish({ topic = "t", qos = 1, callback = function()
				acknowledged = true
			end }))
			serve(function()
				return acknowledged
			end)
		end

		-- Checks that a client that was to end has ended, and can connect again.
		local function has_ended()
			assert.is_nil(client.connection)
			assert.is_nil((client:step()))
			assert.is_true(client:start_connecting())
			is_of_use()
		end

		it("that throws is heard in each loop, which may run again", function()
			local calls = 0
			client:on("message", function()
				calls = calls + 1
				error(calls, 0)
			end)
			serve(is_connected)
			local loop = ioloop.create()
			loop:add(client)
			local runs = {
				function()
					mqtt.run_sync(client)
				end,
				function()
					loop:run_until_clients()
				end,
				function()
					while client:_sync_iteration() do end -- luacheck: ignore 542
				end,
				function()
					while client:step() do end -- luacheck: ignore 542
				end,
			}
			for _ = 1, 2 * #runs do
				MOMENTS.message.trigger(client, server)
			end
			for i = 1, 2 * #runs do
				assert.equal(i, harness.failure(runs[(i - 1) % #runs + 1]))
			end
			loop:remove(client)
			is_of_use()
			assert.equal(2 * #runs, calls)
		end)

		it("that connects again in error or close keeps the new connection", function()
			for _, name in ipairs({ "error", "close" }) do
				local calls, closes = 0, harness.record(client, { "close" })
				local function connect()
					calls = calls + 1
					if calls == 1 then
						client:close_connection("by the handler")
						assert.is_true(client:start_connecting())
					end
				end
				serve(is_connected)
				client:on(name, connect)
				server:send_bytes("\0\0")
				serve(function()
					return calls > 0 and is_connected()
				end)
				is_of_use()
				assert.equal(1, #closes)
				assert.equal(name == "error" and "by the handler" or "error", closes[1][2].close_reason)
				client:off(name, connect)
			end
		end)

		for name, moment in pairs(MOMENTS) do
			for _, thrown_name in ipairs(THROWN_NAMES) do
				local thrown = THROWN[thrown_name]
				it("that throws " .. thrown_name .. " in " .. name .. " is heard", function()
					local calls, closes = 0, harness.record(client, { "close" })
					local function throw()
						calls = calls + 1
						if calls == 1 then
							error(thrown, 0)
						end
					end
					local second_calls = 0
					local err = harness.failure(function()
						bring_about(moment, name, throw, function()
							if not moment.registers then
								client:on(name, function()
									second_calls = second_calls + 1
								end)
							end
						end)
						serve(function()
							return false
						end)
					end)
					-- Lua 5.5 makes a string of nil.
					assert.equal(harness.failure(error, thrown, 0), err)
					assert.equal(1, calls)
					-- The handlers behind are called nevertheless.
					assert.equal(moment.registers and 0 or 1, second_calls)
					if not moment.ends then
						is_of_use()
						assert.equal(0, #closes)
						return
					end
					assert.same({ "close" }, harness.names(closes))
					assert.equal(moment.reason, closes[1][2].close_reason)
					has_ended()
				end)
			end

			for deed, close_reason in pairs({
				disconnect = CLOSED_BY_CLIENT,
				shutdown = CLOSED_BY_CLIENT,
				close_connection = "by the handler",
			}) do
				it(("that calls %s in %s ends the connection once"):format(deed, name), function()
					local done, later = 0, 0
					local events = harness.record(client, { "message", "close" })
					local function act()
						done = done + 1
						client[deed](client, deed == "close_connection" and close_reason or nil)
					end
					if name == "shutdown" and deed == "shutdown" then
						-- It would shut down for ever.
						local shut_down = act
						function act()
							client:off("shutdown", act)
							shut_down()
						end
					end
					bring_about(moment, name, act, function()
						server.chases = true
						if not moment.registers then
							client:on(name, function()
								later = later + 1
							end)
						end
					end)
					if moment.by_server then
						send_more(server)
					end
					serve(function()
						return done > 0 and not client.connection
					end)
					for _ = 1, 3 do
						client:step()
					end
					local messages = 0
					for _, event in ipairs(events) do
						if event[1] == "message" then
							assert.equal("trigger", event[2].payload)
							messages = messages + 1
						end
					end
					assert.is_true(messages <= 1)
					assert.equal(1, #events - messages)
					local reason = close_reason
					if moment.ends and not (name == "error" and deed == "close_connection") then
						-- It was over before: there is nothing to disconnect from.
						reason = moment.reason
					end
					assert.equal(reason, events[#events][2].close_reason)
					assert.is_true(done == 1 or deed == "shutdown")
					-- The other handlers of the same event are called nevertheless.
					assert.is_true(moment.registers ~= nil or later >= 1)
					for event in pairs(client.handlers) do
						client.handlers[event] = {}
					end
					has_ended()
				end)
			end
		end
	end)
end

for _, version in ipairs({ mqtt.v311, mqtt.v50 }) do
	local in_version = version == mqtt.v50 and ", MQTT 5.0" or ", MQTT 3.1.1"

	describe("a message", function()
		after_each(harness.cleanup)

		-- Makes a client of a session that stays.
		local function new(id)
			return harness.client({
				version = version,
				clean = false,
				id = id,
				properties = version == mqtt.v50 and { session_expiry_interval = 60 } or nil,
			})
		end

		for qos = 1, 2 do
			it(("of QoS %d whose handler has thrown comes again in the next run of the program"):format(qos) .. in_version,
				function()
					local topic, payloads = harness.topic(), {}
					local first = harness.connect(new("spec-" .. core.random_hex(12)))
					harness.subscribe(first, topic)
					first:on("message", function()
						error("thrown", 0)
					end)
					assert(first:publish({ topic = topic, qos = qos, payload = "precious" }))
					assert.equal("thrown", harness.failure(harness.serve, { first }, function()
						return false
					end))
					harness.flush(first)
					first:close_connection()

					local second = new(first.opts.id)
					second:on("message", function(message)
						payloads[#payloads + 1] = message.payload
						assert.is_true(message.dup)
						assert(second:acknowledge(message))
					end)
					harness.serve({ second }, function()
						return payloads[1]
					end)
					harness.flush(second)
					second:close_connection()

					-- Now it has been acknowledged. This also ends the session.
					local third = new(first.opts.id)
					local events = harness.record(third, { "message" })
					harness.connect(third)
					harness.flush(third)
					assert.same({}, events)
					assert.same({ "precious" }, payloads)
					third.opts.clean, third.opts.properties = true, nil
					third:close_connection()
					assert(third:start_connecting())
					harness.connect(third)
				end)
		end
	end)
end

describe("a handler", function()
	local client, topic

	before_each(function()
		topic = harness.topic()
		client = harness.connect(harness.client())
		harness.subscribe(client, topic)
	end)

	after_each(harness.cleanup)

	it("may remove itself and add others while messages come", function()
		local calls = {}
		local function note(name)
			return function(message)
				calls[#calls + 1] = name .. message.payload
			end
		end
		local removed, added = note("removed"), note("added")
		local function changing(message)
			note("changing")(message)
			client:off("message", changing)
			client:off("message", removed)
			client:on("message", added)
		end
		client:on("message", changing)
		client:on("message", removed)
		client:on("message", note("last"))
		for i = 1, 2 do
			assert(client:publish({ topic = topic, payload = tostring(i) }))
		end
		harness.serve({ client }, function()
			return calls[#calls] == "added2"
		end)
		assert.same({ "changing1", "removed1", "last1", "last2", "added2" }, calls)
	end)

	it("that removes itself and throws is gone", function()
		local calls = 0
		local function once()
			calls = calls + 1
			client:off("message", once)
			error("thrown", 0)
		end
		client:on("message", once)
		for _ = 1, 2 do
			assert(client:publish({ topic = topic }))
		end
		assert.equal("thrown", harness.failure(harness.serve, { client }, function()
			return false
		end))
		harness.flush(client)
		assert.equal(1, calls)
	end)

	it("may publish for every message it gets, and its callbacks too", function()
		local ROUNDS = 30
		local received, acknowledged = {}, 0
		client:on("message", function(message)
			local number = tonumber(message.payload)
			received[#received + 1] = number
			assert(client:acknowledge(message))
			if number < ROUNDS then
				assert(client:publish({ topic = topic, payload = tostring(number + 1), qos = number % 3, callback = function()
					acknowledged = acknowledged + 1
				end }))
			end
		end)
		assert(client:publish({ topic = topic, payload = "1" }))
		harness.serve({ client }, function()
			return #received == ROUNDS and acknowledged == ROUNDS - 1 and client:stats().in_flight == 0
		end)
		for i = 1, ROUNDS do
			assert.equal(i, received[i])
		end
		assert.equal(0, client:stats().in_flight)
	end)

	it("may publish in the callback of a publish, to any depth", function()
		local DEPTH = 100
		local received, depth = {}, 0
		client:on("message", function(message)
			received[#received + 1] = message.payload
		end)
		local function publish()
			depth = depth + 1
			if depth <= DEPTH then
				assert(client:publish({ topic = topic, payload = tostring(depth), callback = publish }))
			end
		end
		publish()
		harness.serve({ client }, function()
			return #received == DEPTH
		end)
		for i = 1, DEPTH do
			assert.equal(tostring(i), received[i])
		end
	end)

	it("that throws in a callback leaves those of other requests alone", function()
		local called = {}
		for i = 1, 2 do
			assert(client:publish({ topic = topic, qos = 1, callback = function()
				called[#called + 1] = i
				error("thrown", 0)
			end }))
		end
		for i = 1, 2 do
			assert.equal("thrown", harness.failure(harness.serve, { client }, function()
				return false
			end))
			assert.equal(i, #called)
		end
		harness.flush(client)
		assert.same({ 1, 2 }, called)
	end)
end)

for way, connector in pairs({ native = "mqtt.connector.native", LuaSocket = "mqtt.connector.luasocket" }) do
	describe("a handler that yields, " .. way .. ",", function()
		local client, server

		after_each(function()
			harness.cleanup()
			servers.stop_all()
			server = nil
		end)

		local function new(opts)
			opts.connector = require(connector)
			return harness.client(opts)
		end

		-- Starts a coroutine that steps the client for ever.
		local function stepper()
			local thread = coroutine.create(function()
				while true do
					client:step()
					coroutine.yield("stepped")
				end
			end)
			-- Resumes it; returns what it has yielded. Raises what it has raised.
			return function()
				local ok, result = coroutine.resume(thread)
				if not ok then
					error(result, 0)
				end
				return result
			end
		end

		-- Resumes coroutines in turn until something has happened.
		local function run(resume, done)
			local deadline = harness.deadline()
			while not done() do
				assert(harness.now() < deadline, "nothing came of it in time")
				resume()
				client:check_keep_alive()
				if server then
					server:poll()
				end
				client:_pause()
			end
		end

		-- Makes a client that gets three messages, and steps it until the handler of the first one yields; that will call
		-- `finish`. Returns a function that resumes it, and a list of what the handlers do.
		local function waiting_in_message(finish)
			local topic, log = harness.topic(), {}
			client = new({})
			harness.connect(client)
			harness.subscribe(client, topic)
			client:on("message", function(message)
				log[#log + 1] = "begin " .. message.payload
				if message.payload == "1" then
					coroutine.yield("waiting")
					finish(message)
				end
				log[#log + 1] = "end " .. message.payload
			end)
			for i = 1, 3 do
				assert(client:publish({ topic = topic, payload = tostring(i), qos = 1 }))
			end
			local first = stepper()
			local state
			run(function()
				state = first()
			end, function()
				return state == "waiting"
			end)
			return first, log
		end

		it("goes on when it is resumed, while another coroutine has handled what came behind", function()
			local acknowledged
			local first, log = waiting_in_message(function(message)
				acknowledged = client:acknowledge(message)
			end)
			run(stepper(), function()
				return log[#log] == "end 3"
			end)
			assert.same({ "begin 1", "begin 2", "end 2", "begin 3", "end 3" }, log)
			assert.equal("stepped", first())
			assert.equal("end 1", log[#log])
			assert.is_true(acknowledged)
			harness.flush(client)
		end)

		it("and throws later is heard by who resumes it", function()
			local first, log = waiting_in_message(function()
				error("thrown", 0)
			end)
			assert.equal("thrown", harness.failure(first))
			run(stepper(), function()
				return log[#log] == "end 3"
			end)
			assert.same({ "begin 1", "begin 2", "end 2", "begin 3", "end 3" }, log)
			harness.flush(client)
		end)

		it("may find the connection gone", function()
			local results
			local first = waiting_in_message(function(message)
				results = { { client:acknowledge(message) }, { client:publish({ topic = "t" }) }, { client:disconnect() } }
			end)
			local closes = harness.record(client, { "close" })
			assert(client:disconnect())
			assert.equal("stepped", first())
			local not_opened = { false, "network connection is not opened" }
			assert.same({ not_opened, not_opened, not_opened }, results)
			assert.equal(1, #closes)
			-- Answers that had arrived are handled first.
			local wait
			repeat
				wait = client:step()
			until wait ~= 0
			assert.is_nil(wait)
		end)

		it("when the connection breaks has it closed once, after the handler", function()
			server = servers.start(mqtt.v311)
			client = new({ uri = server.uri })
			harness.serve({ client, server.serve }, function()
				return client.connection and client.connection.connack
			end)
			local log = {}
			client:on({
				error = function()
					log[#log + 1] = "error"
					coroutine.yield("waiting")
					log[#log + 1] = "error handled"
				end,
				close = function(conn)
					log[#log + 1] = conn.close_reason
				end,
			})
			server:send_bytes("\0\0")
			local first, second = stepper(), stepper()
			local state
			run(function()
				state = first()
			end, function()
				return state == "waiting"
			end)
			for _ = 1, 5 do
				second()
			end
			assert.same({ "error" }, log)
			assert.equal("stepped", first())
			assert.same({ "error", "error handled", "error" }, log)
			second()
			assert.equal(3, #log)
			assert.is_nil(client.connection)
		end)

		it("but is ended by an error does not keep others from closing a broken connection", function()
			server = servers.start(mqtt.v311)
			client = new({ uri = server.uri, reconnect = 0.01 })
			harness.serve({ client, server.serve }, function()
				return client.connection and client.connection.connack
			end)
			local closes = harness.record(client, { "close" })
			client:on("error", function()
				coroutine.yield("waiting")
				error("thrown", 0)
			end)
			server:send_bytes("\0\0")
			assert.equal("thrown", harness.failure(run, stepper(), function()
				return false
			end))
			run(stepper(), function()
				return client.connection and client.connection.connack and #closes == 1
			end)
			assert.equal("error", closes[1][2].close_reason)
		end)
	end)
end

describe("under Copas a handler that throws", function()
	local copas, missing, errors

	before_each(function()
		copas, missing, errors = copas_support.load_watched(4)
	end)

	after_each(function()
		harness.cleanup()
		copas_support.unload()
	end)

	for name in pairs(MOMENTS) do
		if not MOMENTS[name].ends and name ~= "the callback of a publish with QoS 0" then
			it("in " .. name .. " is reported to Copas, and the client goes on", function()
				if not copas then
					return pending(missing)
				end
				local server = servers.start(mqtt.v50, answer)
				local client = harness.client({ uri = server.uri, version = mqtt.v50, properties = AUTHENTICATION })
				local calls = 0
				local function drive(done)
					local deadline = harness.deadline()
					while not done() do
						assert(harness.now() < deadline, "nothing came of it in time")
						copas.step(0.01)
						server:poll()
					end
				end
				local function throw()
					calls = calls + 1
					if calls == 1 then
						error("thrown by a handler", 0)
					end
				end
				if not MOMENTS[name].registers then
					client:on(name, throw)
				end
				assert(require("mqtt.loop").add(client))
				drive(function()
					return client.connection and client.connection.connack
				end)
				if MOMENTS[name].registers then
					MOMENTS[name].registers(client, throw)
				elseif MOMENTS[name].trigger then
					MOMENTS[name].trigger(client, server)
				end
				drive(function()
					return errors[1]
				end)
				assert.matches("thrown by a handler", errors[1])
				local acknowledged
				assert(client:publish({ topic = "t", qos = 1, callback = function()
					acknowledged = true
				end }))
				drive(function()
					return acknowledged
				end)
				assert.equal(1, #errors)
				server:stop()
			end)
		end
	end
end)

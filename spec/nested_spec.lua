-- Loops, steps and waits inside of handlers, callbacks and functions of a loop.

local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local servers = require("spec.support.server")

local packet_type = require("mqtt.protocol").packet_type

local client, connect = harness.client, harness.connect

-- Each way to have a client served from inside.
local WAYS = {
	["loop:iteration()"] = function(loop)
		loop:iteration()
	end,
	["the iteration of another loop"] = function()
		local other = ioloop.create({ sleep_max = 0.002 })
		other:add(function() end)
		other:iteration()
	end,
	["client:step()"] = function(_, subject)
		subject:step()
	end,
	["client:_sync_iteration()"] = function(_, subject)
		-- A timer, so that it does not wait for a second.
		subject._link:wake_after(0.002)
		subject:_sync_iteration()
	end,
	["client:await()"] = function(_, subject)
		if subject.connection and subject.connection.connack then
			assert(subject:await("publish", { topic = harness.topic(), qos = 1, timeout = 5 }))
		end
	end,
}

-- A loop with the items.
local function loop_of(...)
	local loop = ioloop.create({ sleep_max = 0.002 })
	for _, item in ipairs({ ... }) do
		loop:add(item)
	end
	return loop
end

-- Goes round a loop until something has happened.
local function go_round(loop, done)
	local deadline = harness.deadline()
	while not done() do
		if harness.now() > deadline then
			error("nothing came of it in time", 2)
		end
		loop:iteration()
	end
end

local function list(from, to)
	local numbers = {}
	for i = from, to do
		numbers[#numbers + 1] = tostring(i)
	end
	return numbers
end

describe("inside of a handler,", function()
	after_each(harness.cleanup)

	for way, nest in pairs(WAYS) do
		it(way .. " stalls nobody, and loses and repeats nothing", function()
			local one, two, topic = client(), client(), harness.topic()
			connect(one, two)
			harness.subscribe(one, { topic = topic .. "/one" })
			harness.subscribe(two, { topic = topic .. "/two" })
			local loop = loop_of(one, two)
			local received = { {}, {} }
			for i, subject in ipairs({ one, two }) do
				subject:on("message", function(message)
					table.insert(received[i], message.payload)
					nest(loop, subject)
				end)
			end
			for round = 0, 2 do
				local acknowledged = 0
				for i = 1, 30 do
					for _, name in ipairs({ "one", "two" }) do
						assert(one:publish({ topic = topic .. "/" .. name, payload = tostring(round * 30 + i), qos = 1,
							callback = function()
								acknowledged = acknowledged + 1
								nest(loop, two)
							end }))
					end
				end
				go_round(loop, function()
					return #received[1] == (round + 1) * 30 and #received[2] == (round + 1) * 30 and acknowledged == 60
				end)
			end
			assert.same(list(1, 90), received[1])
			assert.same(list(1, 90), received[2])
		end)
	end

	it("the same loop can be run until all have ended", function()
		local one, two, topic = client(), client(), harness.topic()
		local loop, events = loop_of(one, two), {}
		two:on("connect", function()
			assert(two:subscribe({ topic = topic, callback = function()
				assert(two:publish({ topic = topic }))
			end }))
		end)
		two:on("message", function()
			events[#events + 1] = "message"
			two:shutdown()
		end)
		one:on("connect", function()
			one:shutdown()
			loop:run_until_clients()
			events[#events + 1] = "end"
		end)
		loop:run_until_clients()
		assert.same({ "message", "end" }, events)
	end)

	it("an error out of a round within loses nothing", function()
		local subject, other, topic = client(), client(), harness.topic()
		connect(subject, other)
		harness.subscribe(subject, topic)
		harness.subscribe(other, topic)
		local loop, received, others = loop_of(subject, other), {}, {}
		subject:on("message", function(message)
			table.insert(received, message.payload)
			if #received % 3 == 0 then
				error("thrown")
			end
			loop:iteration()
		end)
		other:on("message", function(message)
			table.insert(others, message.payload)
		end)
		for i = 1, 60 do
			assert(other:publish({ topic = topic, payload = tostring(i) }))
		end
		local deadline, errors = harness.deadline(), 0
		while (#received < 60 or #others < 60) and harness.now() < deadline do
			if not pcall(loop.iteration, loop) then
				errors = errors + 1
			end
		end
		assert.equal(20, errors)
		assert.same(list(1, 60), received)
		assert.same(list(1, 60), others)
	end)

	it("rounds within rounds do not wait each on its way out", function()
		local subject, topic = client(), harness.topic()
		connect(subject)
		harness.subscribe(subject, { topic = topic })
		local loop, received = ioloop.create({ sleep_max = 0.2 }), 0
		loop:add(subject)
		subject:on("message", function()
			received = received + 1
			loop:iteration()
		end)
		for _ = 1, 100 do
			assert(subject:publish({ topic = topic }))
		end
		local before = harness.now()
		go_round(loop, function()
			return received == 100
		end)
		-- A hundred times the wait would be 20 seconds.
		assert.is_true(harness.now() - before < 5)
	end)

	it("clients may leave and join", function()
		local subject, other, topic = client(), client(), harness.topic()
		connect(subject, other)
		harness.subscribe(subject, topic)
		harness.subscribe(other, topic)
		local loop, received, others = loop_of(subject, other), {}, {}
		subject:on("message", function(message)
			table.insert(received, message.payload)
			loop:remove(subject)
			loop:remove(other)
			loop:iteration()
			loop:add(other)
			loop:iteration()
			loop:add(subject)
			loop:iteration()
		end)
		other:on("message", function(message)
			table.insert(others, message.payload)
			loop:iteration()
		end)
		for i = 1, 20 do
			assert(other:publish({ topic = topic, payload = tostring(i) }))
		end
		go_round(loop, function()
			return #received == 20 and #others == 20
		end)
		assert.same(list(1, 20), received)
		assert.same(list(1, 20), others)
	end)

	it("a client may connect anew, and acknowledge what it receives then", function()
		local subject, topic = client(), harness.topic()
		connect(subject)
		harness.subscribe(subject, topic)
		local loop, results, connects = loop_of(subject), {}, 0
		subject:on("connect", function()
			connects = connects + 1
			assert(subject:subscribe({ topic = topic, qos = 1, callback = function()
				for _ = 1, 3 do
					assert(subject:publish({ topic = topic, payload = "new", qos = 1 }))
				end
			end }))
		end)
		subject:on("message", function(message)
			if message.payload == "old" then
				subject:disconnect()
				assert(subject:start_connecting())
				-- Until the messages of the new connection are at hand.
				go_round(loop, function()
					return connects == 1 and subject:stats().messages_received >= 3 or #results > 0
				end)
			else
				results[#results + 1] = { subject:acknowledge(message) }
			end
		end)
		assert(subject:publish({ topic = topic, payload = "old" }))
		go_round(loop, function()
			return #results == 3
		end)
		for _, result in ipairs(results) do
			assert.same({ true }, result)
		end
	end)

	it("a client may be closed and end", function()
		local subject, other = client(), client()
		connect(subject, other)
		local topic = harness.topic()
		harness.subscribe(subject, topic)
		local loop, closed = loop_of(subject, other), 0
		subject:on("message", function()
			subject:close_connection("enough")
			loop:iteration()
		end)
		subject:on("close", function()
			closed = closed + 1
			loop:iteration()
		end)
		assert(other:publish({ topic = topic }))
		go_round(loop, function()
			return not loop.clients[subject]
		end)
		assert.equal(1, closed)
		harness.flush(other)
	end)
end)

describe("a client whose connection is lost connects again,", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	-- Returns a loop with a server and a client of it, and two functions: the first tells whether the client has connected
	-- so many times, the second has the server end the connection.
	local function lost(on_error)
		local server = servers.start(4)
		local subject = client({ uri = server.uri, reconnect = 0.01 })
		local loop, connects, failures = loop_of(server.serve, subject), 0, 0
		subject:on("connect", function()
			connects = connects + 1
		end)
		subject:on("error", function()
			failures = failures + 1
			if failures == 1 then
				on_error(loop)
			end
		end)
		local function has_connected(times)
			return function()
				return connects == times
			end
		end
		go_round(loop, has_connected(1))
		return loop, has_connected, server
	end

	for name, round in pairs({
		["goes round the loop"] = function(loop)
			loop:iteration()
		end,
		["goes round the loop in a coroutine"] = function(loop)
			assert(coroutine.resume(coroutine.create(loop.iteration), loop))
		end,
		["goes round the loop in a coroutine more than once"] = function(loop)
			assert(coroutine.resume(coroutine.create(function()
				for _ = 1, 3 do
					loop:iteration()
				end
			end)))
		end,
	}) do
		it("also if its handler of error " .. name .. " and throws then", function()
			local loop, has_connected, server = lost(function(loop)
				round(loop)
				error("thrown")
			end)
			server:drop()
			assert.matches("thrown", harness.failure(go_round, loop, has_connected(2)))
			go_round(loop, has_connected(2))
		end)
	end

	it("also if its handler of error waits in a coroutine that nobody resumes", function()
		local waits = false
		local loop, has_connected, server = lost(function()
			waits = true
			coroutine.yield()
		end)
		server:drop()
		local thread = coroutine.create(go_round)
		coroutine.resume(thread, loop, has_connected(2))
		assert.is_true(waits)
		for _ = 1, 3 do
			loop:iteration()
		end
		thread = nil -- luacheck: ignore 311
		collectgarbage()
		collectgarbage()
		go_round(loop, has_connected(2))
	end)
end)

describe("inside of start_connecting,", function()
	after_each(function()
		harness.cleanup()
		servers.stop_all()
	end)

	it("shutdown in the callback of an answer keeps it from connecting", function()
		local server = servers.start(4, function(server, packet)
			servers.accept(server, packet)
			if packet.type == packet_type.PUBLISH then
				server:send({ type = packet_type.PUBACK, packet_id = packet.packet_id })
			end
		end)
		local subject, is_called = client({ uri = server.uri }), false
		local loop = loop_of(server.serve, subject)
		assert(subject:start_connecting())
		go_round(loop, function()
			return subject.connection.connack
		end)
		assert(subject:publish({ topic = "t", qos = 1, callback = function()
			is_called = true
			subject:shutdown()
		end }))
		loop:remove(subject)
		go_round(loop, function()
			return subject._link:has_events()
		end)
		subject:close_connection("enough")
		assert.same({ false, "connection attempt was given up" }, { subject:start_connecting() })
		assert.is_true(is_called)
		assert.is_nil(subject.connection)
	end)
end)

describe("inside of a function of a loop,", function()
	after_each(harness.cleanup)

	it("a round calls the others, and not the function", function()
		local calls, others, depth = 0, 0, 0
		local loop = loop_of()
		local function func()
			calls, depth = calls + 1, depth + 1
			assert.equal(1, depth)
			loop:iteration()
			loop:iteration()
			depth = depth - 1
			return loop:iteration()
		end
		loop:add(func)
		loop:add(function()
			others = others + 1
			return loop:iteration()
		end)
		for _ = 1, 5 do
			loop:iteration()
		end
		assert.is_true(calls >= 5 and others >= 5)
	end)

	it("an error does not keep the function from being called again", function()
		local loop, calls = loop_of(), 0
		loop:add(function()
			calls = calls + 1
			loop:iteration()
			error("thrown")
		end)
		for i = 1, 3 do
			assert.is_false(pcall(loop.iteration, loop))
			assert.equal(i, calls)
		end
		-- Likewise in a coroutine, which has died of it.
		assert.is_false(coroutine.resume(coroutine.create(function()
			loop:iteration()
		end)))
		assert.equal(4, calls)
		assert.is_false(pcall(loop.iteration, loop))
		assert.equal(5, calls)
	end)

	it("a coroutine that goes round calls the others, and not the function", function()
		local loop, calls, others = loop_of(), 0, 0
		loop:add(function()
			calls = calls + 1
			assert(coroutine.resume(coroutine.create(function()
				loop:iteration()
			end)))
		end)
		loop:add(function()
			others = others + 1
		end)
		loop:iteration()
		assert.equal(1, calls)
		assert.equal(2, others)
	end)

	it("a function that wants to be called later is", function()
		local loop, times = loop_of(), {}
		loop:add(function()
			times[#times + 1] = harness.now()
			return 0.1
		end)
		local napper
		function napper()
			-- Half of the time that is left goes by in a round within.
			local other = ioloop.create({ sleep_max = 0.05 })
			other:add(function() end)
			other:iteration()
			if #times == 4 then
				loop:remove(napper)
			end
			return 5
		end
		loop:add(napper)
		go_round(loop, function()
			return #times == 4
		end)
		assert.is_true(times[4] - times[1] < 3)
	end)

	it("two loops may go round each other", function()
		local one, two, topic = client(), client(), harness.topic()
		connect(one, two)
		harness.subscribe(one, topic)
		harness.subscribe(two, topic)
		local first, second, received = loop_of(one), loop_of(two), { {}, {} }
		first:add(function()
			second:iteration()
		end)
		second:add(function()
			first:iteration()
		end)
		one:on("message", function(message)
			table.insert(received[1], message.payload)
			second:iteration()
		end)
		two:on("message", function(message)
			table.insert(received[2], message.payload)
			first:iteration()
		end)
		for i = 1, 30 do
			assert(one:publish({ topic = topic, payload = tostring(i) }))
		end
		go_round(first, function()
			return #received[1] == 30 and #received[2] == 30
		end)
		assert.same(list(1, 30), received[1])
		assert.same(list(1, 30), received[2])
	end)
end)

describe("a client in two loops", function()
	after_each(harness.cleanup)

	it("is served by both, also when one has let go of it", function()
		local subject, topic = client(), harness.topic()
		connect(subject)
		harness.subscribe(subject, topic)
		local first, second, received = loop_of(subject), loop_of(subject), 0
		subject:on("message", function()
			received = received + 1
		end)
		for i, loop in ipairs({ first, second, first }) do
			assert(subject:publish({ topic = topic }))
			go_round(loop, function()
				return received == i
			end)
		end
		second:remove(subject)
		assert.equal(first, subject.ioloop)
		assert(subject:publish({ topic = topic }))
		go_round(first, function()
			return received == 4
		end)
		second:add(subject)
		subject:shutdown()
		assert.is_true(first:run_until_clients())
		assert.is_true(second:run_until_clients())
	end)
end)

describe("the field running", function()
	after_each(harness.cleanup)

	it("is false after an error, in whichever thread, and true inside", function()
		local loop = loop_of()
		local seen = {}
		local function fail()
			seen[#seen + 1] = loop.running
			seen[#seen + 1] = coroutine.wrap(function()
				return loop.running
			end)()
			pcall(loop.run_until_clients, loop)
			seen[#seen + 1] = loop.running
			error("thrown")
		end
		local function other()
			error("inner")
		end
		loop:add(fail)
		loop:add(other)
		assert.is_false(pcall(loop.run_until_clients, loop))
		assert.same({ true, true, true }, seen)
		assert.is_false(loop.running)
		assert.is_false(coroutine.resume(coroutine.create(loop.run_until_clients), loop))
		assert.is_false(loop.running)
		loop:remove(fail)
		loop:remove(other)
		loop:run_until_clients()
		assert.is_false(loop.running)
	end)

	it("is true while a coroutine that runs the loop has yielded", function()
		local loop, done = loop_of(), false
		loop:add(function()
			coroutine.yield()
			done = true
			error("thrown")
		end)
		local thread = coroutine.create(loop.run_until_clients)
		assert.is_true(coroutine.resume(thread, loop))
		assert.is_true(loop.running)
		-- Another one goes round meanwhile: the function is at work.
		loop:iteration()
		assert.is_false(done)
		assert.is_false(coroutine.resume(thread))
		assert.is_false(loop.running)
	end)
end)

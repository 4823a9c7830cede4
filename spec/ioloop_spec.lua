-- The event loop that comes with the library.

local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

local PUBLISH = require("mqtt.protocol").packet_type.PUBLISH

local client, connect, record = harness.client, harness.connect, harness.record

describe("an ioloop", function()
	after_each(harness.cleanup)

	it("is made by create, and the default one by get", function()
		local loop = ioloop.create()
		assert.not_equal(loop, ioloop.create())
		assert.equal(mqtt.get_ioloop(), ioloop.get())
		assert.equal(ioloop.get(true), ioloop.get(false))
		assert.is_false(loop.running)
	end)

	it("is not made by get(false)", function()
		local loaded = package.loaded["mqtt.ioloop"]
		package.loaded["mqtt.ioloop"] = nil
		local fresh = require("mqtt.ioloop")
		package.loaded["mqtt.ioloop"] = loaded
		assert.is_nil(fresh.get(false))
		local loop = fresh.get(true, { sleep_max = 0.5 })
		assert.equal(0.5, loop.opts.sleep_max)
		assert.equal(loop, fresh.get(false))
	end)

	it("takes a client and a function, but not twice", function()
		local loop = ioloop.create()
		for _, item in ipairs({ client(), function() end }) do
			assert.is_true(loop:add(item))
			local ok, err = loop:add(item)
			assert.is_false(ok)
			assert.matches("already added", err)
			assert.is_true(loop:remove(item))
			ok, err = loop:remove(item)
			assert.is_false(ok)
			assert.matches("not found", err)
		end
	end)

	it("returns at once when it is empty", function()
		ioloop.create():run_until_clients()
		assert.is_false(ioloop.create().running)
	end)

	it("runs until its functions have removed themselves", function()
		local loop = ioloop.create()
		local calls = 0
		local function count()
			calls = calls + 1
			assert.is_true(loop.running)
			if calls == 3 then
				assert.is_true(loop:remove(count))
			end
			return 0
		end
		loop:add(count)
		loop:run_until_clients()
		assert.equal(3, calls)
		assert.is_false(loop.running)
	end)

	it("calls a function no later than it wants", function()
		local loop = ioloop.create()
		local times = {}
		local function sleeper()
			times[#times + 1] = harness.now()
			if #times == 3 then
				loop:remove(sleeper)
			end
			return 0.05
		end
		loop:add(sleeper)
		loop:run_until_clients()
		assert.is_true(times[3] - times[1] >= 0.09)
	end)

	it("does not call a function that another has removed", function()
		local loop = ioloop.create()
		local function second()
			error("it was removed")
		end
		local function first()
			loop:remove(second)
			loop:remove(first)
		end
		loop:add(first)
		loop:add(second)
		loop:run_until_clients()
	end)

	it("calls what a function adds", function()
		local loop = ioloop.create()
		local called
		local function second()
			called = true
			loop:remove(second)
		end
		local function first()
			loop:add(second)
			loop:remove(first)
		end
		loop:add(first)
		loop:run_until_clients()
		assert.is_true(called)
	end)

	it("does one round with iteration", function()
		local loop = ioloop.create()
		local calls = 0
		loop:add(function()
			calls = calls + 1
			return 0
		end)
		loop:iteration()
		loop:iteration()
		assert.equal(2, calls)
	end)

	it("waits with the program's function", function()
		local naps = {}
		local loop = ioloop.create({ sleep_max = 0.01, sleep_function = function(seconds)
			naps[#naps + 1] = seconds
		end })
		loop:add(function() end)
		loop:iteration()
		assert.same({ 0.01 }, naps)
		local subject = client()
		loop:add(subject)
		local deadline = harness.deadline()
		repeat
			loop:iteration()
		until subject.connection and subject.connection.connack or harness.now() > deadline
		assert.equal(0, subject.connection.connack.rc)
	end)

	it("serves a client and a function side by side", function()
		local subject, topic = client(), harness.topic()
		local signal
		subject:on({
			connect = function()
				assert(subject:subscribe({ topic = topic, callback = function()
					assert(subject:publish({ topic = topic, payload = "signal" }))
				end }))
			end,
			message = function(message)
				signal = message
			end,
		})
		local function wait_for_signal()
			if signal then
				subject:disconnect()
				mqtt.get_ioloop():remove(subject)
				mqtt.get_ioloop():remove(wait_for_signal)
			end
		end
		mqtt.run_ioloop(subject, wait_for_signal)
		assert.equal("signal", signal.payload)
	end)

	it("lets go of a client that has ended, and can have it again", function()
		local loop = ioloop.create()
		local subject = client()
		local connects = 0
		subject:on("connect", function()
			connects = connects + 1
			subject:disconnect()
		end)
		loop:add(subject)
		loop:run_until_clients()
		assert.is_true(subject:start_connecting())
		assert.is_true(loop:add(subject))
		loop:run_until_clients()
		assert.equal(2, connects)
	end)

	it("keeps a client that reconnects", function()
		local loop = ioloop.create()
		local subject = client({ reconnect = 0.01 })
		local connects = 0
		subject:on("connect", function()
			connects = connects + 1
			if connects < 3 then
				subject:disconnect()
			else
				subject:shutdown()
			end
		end)
		loop:add(subject)
		loop:run_until_clients()
		assert.equal(3, connects)
	end)

	it("lets a client be removed inside its handler, connected", function()
		local loop = ioloop.create()
		local subject = client()
		subject:on("connect", function()
			loop:remove(subject)
		end)
		loop:add(subject)
		loop:run_until_clients()
		assert.is_not_nil(subject.connection)
		harness.flush(subject)
	end)

	it("lets clients remove each other", function()
		local loop = ioloop.create()
		local one, two = client(), client()
		one:on("connect", function()
			loop:remove(two)
			loop:remove(one)
		end)
		two:on("connect", function()
			loop:remove(one)
			loop:remove(two)
		end)
		loop:add(one)
		loop:add(two)
		loop:run_until_clients()
		assert.is_true((one.connection and one.connection.connack or two.connection and two.connection.connack) ~= nil)
	end)

	it("serves clients that are added while it runs", function()
		local loop = ioloop.create()
		local one, two = client(), client()
		local events = record(two, { "connect" })
		one:on("connect", function()
			loop:add(two)
			one:disconnect()
		end)
		two:on("connect", function()
			two:disconnect()
		end)
		loop:add(one)
		loop:run_until_clients()
		assert.equal(1, #events)
	end)

	it("can be run inside a handler of another", function()
		local subject, topic = client(), harness.topic()
		local received
		subject:on("connect", function()
			local inner = connect(client())
			harness.subscribe(inner, topic)
			inner:on("message", function(message)
				received = message.payload
				inner:disconnect()
			end)
			assert(inner:publish({ topic = topic, payload = "inner" }))
			harness.serve_to_end(inner)
			subject:disconnect()
		end)
		harness.serve_to_end(subject)
		assert.equal("inner", received)
	end)

	it("lets errors of handlers and functions out, and can be run again", function()
		local loop = ioloop.create()
		local subject, topic = client(), harness.topic()
		local received = {}
		subject:on("connect", function()
			subject:subscribe({ topic = topic, callback = function()
				for i = 1, 3 do
					subject:publish({ topic = topic, payload = tostring(i) })
				end
			end })
		end)
		subject:on("message", function(message)
			received[#received + 1] = message.payload
			if #received == 3 then
				subject:disconnect()
			end
			error({ payload = message.payload })
		end)
		loop:add(subject)
		for i = 1, 3 do
			assert.same({ payload = tostring(i) }, harness.failure(loop.run_until_clients, loop))
		end
		loop:run_until_clients()
		assert.same({ "1", "2", "3" }, received)

		loop:add(function()
			error("thrown", 0)
		end)
		assert.equal("thrown", harness.failure(loop.run_until_clients, loop))
	end)

	it("is fair: a flood for one client does not starve another", function()
		local crowd, quiet = servers.start(mqtt.v311), servers.start(mqtt.v311)
		local flooded, other = client({ uri = crowd.uri }), client({ uri = quiet.uri })
		local flood, at = 0, nil
		flooded:on("message", function()
			flood = flood + 1
		end)
		other:on("message", function()
			at = flood
		end)
		harness.serve({ flooded, other, crowd.serve, quiet.serve }, function()
			return flooded.connection and flooded.connection.connack and other.connection and other.connection.connack
		end)
		for _ = 1, 2000 do
			crowd:send({ type = PUBLISH, topic = "t", payload = "" })
		end
		quiet:send({ type = PUBLISH, topic = "t", payload = "" })
		harness.serve({ flooded, other }, function()
			return flood == 2000 and at
		end)
		assert.is_true(at < 2000)
		crowd:stop()
		quiet:stop()
	end)

	it("is fair to what is added while a client alone has much to do", function()
		local loop, subject, topic = ioloop.create(), client(), harness.topic()
		local handled, at = 0, nil
		local function function_of_the_program()
			at = at or handled
			loop:remove(function_of_the_program)
		end
		subject:on("connect", function()
			assert(subject:subscribe({ topic = topic, callback = function()
				for _ = 1, 2000 do
					assert(subject:publish({ topic = topic }))
				end
			end }))
		end)
		subject:on("message", function()
			handled = handled + 1
			if handled == 1 then
				-- Until all are at hand; they are received while Lua is busy.
				local deadline = harness.deadline()
				while subject:stats().messages_received < 2000 and harness.now() < deadline do -- luacheck: ignore 542
				end
				loop:add(function_of_the_program)
			elseif handled == 2000 then
				subject:disconnect()
			end
		end)
		loop:add(subject)
		loop:run_until_clients()
		assert.equal(2000, handled)
		assert.is_true(at < 200)
	end)

	-- os.clock of Windows is no CPU time.
	it("sleeps while nothing happens #unix", function()
		local loop = ioloop.create()
		local subject = connect(client())
		local calls = 0
		local function half_a_second()
			calls = calls + 1
			if calls == 1 then
				return 0.5
			end
			loop:remove(subject)
			loop:remove(half_a_second)
		end
		loop:add(subject)
		loop:add(half_a_second)
		local before = os.clock()
		loop:run_until_clients()
		-- CPU seconds; a loop that polls would take half a second.
		assert.is_true(os.clock() - before < 0.25)
	end)
end)

describe("mqtt.loop", function()
	after_each(harness.cleanup)

	it("is the default ioloop where there is no other event loop", function()
		local copas = package.loaded.copas
		package.loaded.copas = nil
		local loop = require("mqtt.loop")
		assert.equal("ioloop", require("mqtt.loop.detect")())
		for _, add in ipairs({ loop.add, loop, require("mqtt.loop.ioloop").add }) do
			local subject = client()
			subject:on("connect", function()
				subject:disconnect()
			end)
			assert.is_true(add(subject))
			local ok, err = add(subject)
			assert.is_false(ok)
			assert.equal("string", type(err))
			mqtt.get_ioloop():run_until_clients()
		end
		package.loaded.copas = copas
	end)
end)

-- The functions of a loop: when they are called, and how they end; `every` and `after`.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")

local blames_caller = harness.blames_caller

-- Seconds that no test lasts.
local LONG = 1000

-- Adds a client to a loop that sends a number of messages to itself, one at a time, and disconnects.
local function add_flood(loop, count)
	local subject, topic = harness.client(), harness.topic()
	local received = 0
	subject:on({
		connect = function()
			assert(subject:subscribe({ topic = topic, callback = function()
				assert(subject:publish({ topic = topic }))
			end }))
		end,
		message = function()
			received = received + 1
			if received == count then
				subject:disconnect()
			else
				assert(subject:publish({ topic = topic }))
			end
		end,
	})
	loop:add(subject)
	return subject
end

describe("a function in a loop", function()
	local loop, calls

	before_each(function()
		loop, calls = ioloop.create({ sleep_max = 0.002 }), 0
	end)
	after_each(harness.cleanup)

	-- A function that counts its calls, and returns the same values each time.
	local function counter(...)
		local results = { n = select("#", ...), ... }
		return function()
			calls = calls + 1
			return (table.unpack or unpack)(results, 1, results.n) -- luacheck: globals unpack
		end
	end

	it("is called after its seconds, however many messages arrive", function()
		local others = 0
		local heartbeat = counter(LONG)
		local function other()
			others = others + 1
		end
		local flood = add_flood(loop, 300)
		loop:add(heartbeat)
		loop:add(other)
		flood:on("close", function()
			loop:remove(heartbeat)
			loop:remove(other)
		end)
		assert.is_true(loop:run_until_clients())
		assert.equal(1, calls)
		-- In every round, as the originals do.
		assert.is_true(others > 100)
	end)

	it("is called again and again by its seconds while messages arrive", function()
		local heartbeat = counter(0.01)
		local flood = add_flood(loop, 2000)
		loop:add(heartbeat)
		flood:on("close", function()
			loop:remove(heartbeat)
		end)
		local begun = harness.now()
		loop:run_until_clients()
		local passed = harness.now() - begun
		assert.is_true(calls > 1)
		assert.is_true(calls <= passed / 0.01 + 1)
	end)

	it("is called after its seconds by a program that goes round itself", function()
		loop:add(counter(LONG))
		loop:add(function() end)
		for _ = 1, 5 do
			loop:iteration()
		end
		assert.equal(1, calls)
	end)

	for name, results in pairs({
		nothing = {},
		["nil"] = { n = 1 },
		zero = { n = 1, 0 },
		["less than zero"] = { n = 1, -3 },
		["not a number"] = { n = 1, 0 / 0 },
		["true"] = { n = 1, true },
		["a string"] = { n = 1, "5" },
		["false and an error message"] = { n = 2, false, "network connection is not opened" },
	}) do
		it("that returns " .. name .. " is called in each round", function()
			loop:add(counter((table.unpack or unpack)(results, 1, results.n or 0))) -- luacheck: globals unpack
			for _ = 1, 5 do
				loop:iteration()
			end
			assert.equal(5, calls)
			assert.equal(1, #loop.clients)
		end)
	end

	it("that returns false ends", function()
		loop:add(counter(false))
		assert.is_true(loop:run_until_clients())
		assert.equal(1, calls)
		assert.same({}, loop.clients)
	end)

	it("that returns false may have left the loop, or come back to it", function()
		local func
		function func()
			calls = calls + 1
			loop:remove(func)
			if calls == 1 then
				loop:add(func)
			end
			return false
		end
		loop:add(func)
		assert.is_true(loop:run_until_clients())
		assert.equal(2, calls)
	end)

	it("is called at once when it is added again", function()
		local heartbeat = counter(LONG)
		for i = 1, 3 do
			loop:add(heartbeat)
			loop:iteration()
			loop:iteration()
			assert.equal(i, calls)
			loop:remove(heartbeat)
		end
	end)

	it("is called again at once after an error", function()
		loop:add(function()
			calls = calls + 1
			if calls == 2 then
				error("thrown")
			end
			return calls == 1 and 0.001 or false
		end)
		assert.error_matches(function()
			loop:run_until_clients()
		end, "thrown")
		assert.is_true(loop:run_until_clients())
		assert.equal(3, calls)
	end)
end)

-- The tests of `every` and `after`: with these functions of a loop, without self, and a function that runs it until it
-- is empty. `reported` returns the errors that have come out.
local function test_timers(every, after, run, reported)
	it("after calls once", function()
		local calls, begun = 0, harness.now()
		after(0.02, function()
			calls = calls + 1
		end)
		run()
		assert.equal(1, calls)
		assert.is_true(harness.now() - begun >= 0.019)
	end)

	it("after nothing but 0 seconds too, and no earlier than in the loop", function()
		local calls = 0
		after(0, function()
			calls = calls + 1
		end)
		assert.equal(0, calls)
		run()
		assert.equal(1, calls)
	end)

	it("every calls until it is cancelled", function()
		local calls, begun, timer = 0, harness.now(), nil
		timer = every(0.01, function()
			calls = calls + 1
			if calls == 3 then
				timer:cancel()
			end
		end)
		run()
		assert.equal(3, calls)
		assert.is_true(harness.now() - begun >= 0.029)
	end)

	it("every calls until the function returns false", function()
		local calls = 0
		every(0.001, function()
			calls = calls + 1
			return calls < 3
		end)
		run()
		assert.equal(3, calls)
	end)

	it("cancel ends a timer that sleeps, and does no harm later", function()
		local names = {}
		local function note(name)
			return function()
				names[#names + 1] = name
			end
		end
		local first, second = every(LONG, note("every")), after(LONG, note("after"))
		local last
		last = after(0.001, function()
			names[#names + 1] = "last"
			for _ = 1, 2 do
				first:cancel()
				second:cancel()
				last:cancel()
			end
		end)
		run()
		last:cancel()
		assert.same({ "last" }, names)
	end)

	it("a timer cancelled before the loop runs is never called", function()
		local calls = 0
		for _, add in ipairs({ every, after }) do
			add(0, function()
				calls = calls + 1
			end, "cancelled"):cancel()
		end
		run()
		assert.equal(0, calls)
	end)

	it("every goes on after an error", function()
		local calls = 0
		every(0.001, function()
			calls = calls + 1
			if calls == 2 then
				error("thrown in a timer")
			end
			return calls < 4
		end)
		after(0.001, function()
			error("thrown at last")
		end)
		run()
		assert.equal(4, calls)
		local errors = table.concat(reported(), "\n")
		assert.matches("thrown in a timer", errors)
		assert.matches("thrown at last", errors)
	end)

	it("a timer may set others", function()
		local names = {}
		after(0, function()
			names[#names + 1] = "first"
			after(0, function()
				names[#names + 1] = "second"
			end)
		end)
		run()
		assert.same({ "first", "second" }, names)
	end)

	it("they blame the caller for wrong arguments", function()
		local function func() end
		for _, add in ipairs({ every, after }) do
			for text, wrong in pairs({ ["string"] = "5", ["nil"] = false, ["-1"] = -1, ["table"] = {} }) do
				blames_caller("expecting a number of seconds from 0, got: " .. text, add, wrong or nil, func)
			end
			blames_caller("expecting a number of seconds from 0, got: " .. tostring(0 / 0), add, 0 / 0, func)
			blames_caller("expecting a function, got: nil", add, 1, nil)
			blames_caller("expecting a function, got: table", add, 1, {})
		end
	end)
end

describe("timers of an ioloop", function()
	local loop, errors
	before_each(function()
		loop, errors = ioloop.create(), {}
	end)

	test_timers(function(...)
		-- Not a tail call, which would hide the caller.
		local timer = loop:every(...)
		return timer
	end, function(...)
		-- Not a tail call, which would hide the caller.
		local timer = loop:after(...)
		return timer
	end, function()
		repeat
			local ok, err = pcall(loop.run_until_clients, loop)
			errors[#errors + 1] = not ok and err or nil
		until ok
	end, function()
		return errors
	end)

	it("are called in rounds within other timers", function()
		local names = {}
		loop:after(0, function()
			local done = false
			loop:after(0, function()
				names[#names + 1] = "inner"
				done = true
			end)
			while not done do
				loop:iteration()
			end
			names[#names + 1] = "outer"
		end)
		loop:run_until_clients()
		assert.same({ "inner", "outer" }, names)
	end)

	it("do not make up for calls that they have missed", function()
		local times = {}
		loop:every(0.01, function()
			times[#times + 1] = harness.now()
			if #times == 1 then
				-- Ten calls go by.
				while harness.now() < times[1] + 0.1 do -- luacheck: ignore 542
				end
			end
			return #times < 5
		end)
		loop:run_until_clients()
		assert.is_true(times[5] - times[2] >= 0.029)
	end)
end)

describe("timers of mqtt.loop without another loop", function()
	local errors
	before_each(function()
		copas_support.unload()
		errors = {}
	end)

	test_timers(function(...)
		-- Not a tail call, which would hide the caller.
		local timer = require("mqtt.loop").every(...)
		return timer
	end, function(...)
		-- Not a tail call, which would hide the caller.
		local timer = require("mqtt.loop").after(...)
		return timer
	end, function()
		repeat
			local ok, err = pcall(mqtt.run_ioloop)
			errors[#errors + 1] = not ok and err or nil
		until ok
	end, function()
		return errors
	end)
end)

describe("timers of mqtt.loop in Copas", function()
	local copas, missing, errors
	before_each(function()
		copas, missing, errors = copas_support.load_watched(4)
	end)
	after_each(copas_support.unload)

	local function add(name)
		return function(...)
			-- Not a tail call, which would hide the caller.
			local timer = require("mqtt.loop")[name](...)
			return timer
		end
	end
	if copas_support.load(4) then
		copas_support.unload()
		test_timers(add("every"), add("after"), function()
			copas.loop()
		end, function()
			return errors
		end)

		it("wait for a function that waits", function()
			local calls, depth = 0, 0
			add("every")(0.001, function()
				calls, depth = calls + 1, depth + 1
				assert.equal(1, depth)
				copas.pause(0.01)
				depth = depth - 1
				return calls < 3
			end)
			copas.loop()
			assert.equal(3, calls)
			assert.same({}, errors)
		end)

		it("go on without a call that the program has had removed", function()
			local calls = 0
			add("every")(0.001, function()
				calls = calls + 1
				if calls == 1 then
					copas.removethread(coroutine.running())
					copas.pause(0)
				end
				return calls < 3
			end)
			copas.loop()
			assert.equal(3, calls)
		end)
	end

	it("take turns with a client", function()
		if not copas then
			return pending(missing)
		end
		local calls, subject = 0, harness.client()
		require("mqtt.loop").add(subject)
		add("every")(0.001, function()
			calls = calls + 1
			if calls == 3 then
				subject:shutdown()
				return false
			end
		end)
		copas.loop()
		assert.equal(3, calls)
		assert.same({}, errors)
		harness.cleanup()
	end)
end)

describe("timers of mqtt.loop in the ancient Copas", function()
	after_each(copas_support.unload)

	it("call once, again and again, and not once they are cancelled", function()
		local copas, missing = copas_support.load(1)
		if not copas then
			return pending(missing)
		end
		local names = {}
		local loop = require("mqtt.loop")
		local cancelled = loop.after(0, function()
			names.cancelled = true
		end)
		cancelled:cancel()
		loop.every(0.001, function()
			names[#names + 1] = "every"
			return #names < 4
		end)
		loop.after(0.002, function()
			names.after = true
		end)
		local deadline = harness.deadline()
		while not (names.after and names[4]) do
			assert(harness.now() < deadline)
			copas.step(0.05)
		end
		for _ = 1, 5 do
			copas.step(0.005)
		end
		assert.same({ after = true, "every", "every", "every", "every" }, names)
	end)
end)

-- Many clients under Copas at once: everything arrives, and the program's other threads go on meanwhile.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")

local now, own_time = harness.now, harness.own_time

local CLIENTS = 20
local MESSAGES = 500
-- How long the handlers of few messages take for one, in seconds, and how many that are for each client: much longer
-- than `LIMIT`, if they were all handled in a row.
local SLOWNESS = 0.004
local SLOW_MESSAGES = 10
-- How many such handlers in a row are few: each client may have a turn, and another before the thread that is watched.
local FEW = 2 * CLIENTS

-- How much longer than while idle a thread may be held up, in seconds.
local LIMIT = 0.25
-- How long the thread that is watched waits each time, and how long it is watched while nothing else runs, in seconds.
local TICK = 0.001
local IDLE_TIME = 0.2
-- The machine may slow down anything: one of so many rounds has to do. What the library does, it does in each.
local ROUNDS = 20

for _, version in ipairs({ 1, 4 }) do
	describe("under Copas " .. version, function()
		local copas, missing, errors

		before_each(function()
			copas, missing, errors = copas_support.load_watched(version)
		end)

		after_each(function()
			harness.cleanup()
			copas_support.unload()
		end)

		-- Runs Copas until `done`, and calls a function, the ticker, with a pause after each call: in a thread, or where
		-- threads cannot sleep, as in Copas 1.x, between its steps.
		local function run(ticker, pause, done)
			local over
			if version == 4 then
				copas.addthread(function()
					while not over do
						ticker()
						copas.pause(pause)
					end
				end)
			end
			local deadline = now() + 30
			repeat
				copas.step(pause)
				if version == 1 then
					ticker()
				end
				assert.same({}, errors)
				assert(now() < deadline, "nothing came of it in time")
			until done()
			over = true
		end

		-- Runs Copas until `done`. Returns the longest time beyond `TICK` until a ticker had its next turn.
		local function watch(done)
			local worst, last = 0, own_time()
			run(function()
				local time = own_time()
				worst, last = math.max(worst, time - last - TICK), time
			end, TICK, done)
			return worst
		end

		-- Checks that what `start` sets going, which calls its argument when done, holds up no other thread.
		local function holds_up_nobody(start, limit)
			local least = math.huge
			for _ = 1, ROUNDS do
				local idle_until = now() + IDLE_TIME
				local idle = watch(function()
					return now() > idle_until
				end)
				local active = CLIENTS
				for _ = 1, CLIENTS do
					start(function()
						active = active - 1
					end)
				end
				least = math.min(least, harness.without_collecting(function()
					return watch(function()
						return active == 0
					end)
				end) - idle)
				if least <= (limit or LIMIT) then
					return
				end
				-- The descriptors of these clients go with them: Copas can wait for the first thousand of a process only.
				harness.cleanup()
			end
			error(("another thread is held up for %.1f ms"):format(least * 1000))
		end

		-- A client that publishes messages to itself, all at once, and disconnects when each of them has been acknowledged
		-- and received. Calls `ended` then.
		local function talker(make, ended)
			local topic = harness.topic()
			local received, acknowledged = {}, 0
			local client = make()
			local function check()
				if #received == MESSAGES and acknowledged == MESSAGES then
					assert(client:disconnect())
				end
			end
			local function publish()
				for i = 1, MESSAGES do
					assert(client:publish({ topic = topic, payload = tostring(i), qos = 1, callback = function()
						acknowledged = acknowledged + 1
						check()
					end }))
				end
			end
			client:on({
				connect = function()
					assert(client:subscribe({ topic = topic, qos = 1, callback = publish }))
				end,
				message = function(message)
					assert(client:acknowledge(message))
					received[#received + 1] = message.payload
					check()
				end,
				close = function(conn)
					assert.equal("connection closed by client", conn.close_reason)
					for i = 1, MESSAGES do
						assert.equal(tostring(i), received[i])
					end
					ended()
				end,
			})
			return client
		end

		for name, make in pairs({ plain = harness.client, TLS = harness.tls_client }) do
			it(("%d clients with %d messages each hold up no other thread, %s"):format(CLIENTS, MESSAGES, name), function()
				if not copas then
					return pending(missing)
				end
				local add = require("mqtt.loop").add
				holds_up_nobody(function(ended)
					add(talker(make, ended))
				end)
			end)
		end

		it("handlers that take their time hold up no other thread for longer than a few of them", function()
			if not copas then
				return pending(missing)
			end
			local add = require("mqtt.loop").add
			holds_up_nobody(function(ended)
				local client, topic, received = harness.client(), harness.topic(), {}
				client:on({
					connect = function()
						assert(client:subscribe({ topic = topic, callback = function()
							for i = 1, SLOW_MESSAGES do
								assert(client:publish({ topic = topic, payload = tostring(i) }))
							end
						end }))
					end,
					message = function(message)
						local over = now() + SLOWNESS
						repeat until now() > over
						received[#received + 1] = message.payload
						if #received == SLOW_MESSAGES then
							assert.equal("1 2 3 4 5 6 7 8 9 10", table.concat(received, " "))
							client:disconnect()
							ended()
						end
					end,
				})
				add(client)
			end, LIMIT + FEW * SLOWNESS)
		end)

		-- `connector` names the connector's module, nil for the native connection.
		local function always_has_something(connector)
			if not copas then
				return pending(missing)
			end
			package.loaded["mqtt.connector.copas"] = nil
			local topic, amount = harness.topic(), 500
			local received, at_once, most = 0, 0, 0
			local client = harness.client({ connector = connector and require(connector), on = {
				message = function()
					received, at_once = received + 1, at_once + 1
					most = math.max(most, at_once)
				end,
			} })
			local function step_until(done)
				local over
				copas.addthread(function()
					while not done() do
						client:step()
					end
					over = true
				end)
				run(function()
					at_once = 0
				end, 0, function()
					return over
				end)
			end

			local subscribed
			client:on("connect", function()
				client:subscribe({ topic = topic, callback = function()
					subscribed = true
				end })
			end)
			step_until(function()
				return subscribed
			end)
			-- By the time that another client has received everything, most of it is waiting for this one.
			local witness, seen = harness.client(), 0
			witness:on("message", function()
				seen = seen + 1
			end)
			harness.connect(witness)
			harness.subscribe(witness, topic)
			for _ = 1, amount do
				assert(witness:publish({ topic = topic }))
			end
			harness.serve({ witness }, function()
				return seen == amount
			end)
			step_until(function()
				return received == amount
			end)
			assert.is_true(most <= 100, most .. " messages in a row")
		end

		it("a client that always has something to receive lets other threads run", function()
			always_has_something()
		end)

		if version == 4 then
			-- Copas 1.x knows no way to give way, other than to wait for a socket.
			it("a client with a connector that always has something to receive lets other threads run", function()
				always_has_something("mqtt.connector.copas")
			end)
		end
	end)
end

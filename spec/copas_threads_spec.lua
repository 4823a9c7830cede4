-- Which coroutines are threads of Copas: only those may yield to it.

local child = require("spec.support.child")
local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local host = require("mqtt.host")
local ioloop = require("mqtt.ioloop")
local listen = require("spec.support.listen")

-- Lua 5.1 and LuaJIT without its 5.2 mode: what coroutine.wrap runs does not show there.
local has_wraps = _VERSION ~= "Lua 5.1" or rawget(_G, "jit") ~= nil

-- Runs a function in a coroutine, and returns what it returns or yields.
local function in_coroutine(func)
	local ok, result = coroutine.resume(coroutine.create(func))
	assert(ok, result)
	return result
end

local function in_wrap(func)
	return coroutine.wrap(func)()
end

for _, version in ipairs({ 1, 4 }) do
	describe("with Copas " .. version .. " loaded,", function()
		local copas, missing, errors

		before_each(function()
			copas, missing, errors = copas_support.load_watched(version)
		end)

		after_each(function()
			harness.cleanup()
			copas_support.unload()
			assert.same({}, errors)
		end)

		local function with_copas(name, func)
			it(name, function()
				if copas then
					func()
				else
					pending(missing)
				end
			end)
		end

		-- Steps Copas until a thread with the function has come to its end. Returns what it returns.
		local function in_thread(func)
			local done, result = false, nil
			copas.addthread(function()
				result = func()
				done = true
			end)
			local deadline = harness.deadline()
			while not done and not errors[1] do
				assert(harness.now() < deadline, "the thread does not end")
				copas.step(0.02)
			end
			return result
		end

		with_copas("a client of it does not wait inside a function in C, and says so", function()
			local client = harness.client()
			require("mqtt.loop.copas").add(client)
			local results = in_thread(function()
				assert(client:await("connect"))
				local answer, err, paused
				table.sort({ 2, 1 }, function(a, b)
					answer, err = client:await("publish", { topic = harness.topic(), qos = 1 })
					return a < b
				end)
				if copas.pause then
					local before = harness.now()
					copas.pause(0.2)
					paused = harness.now() - before
				end
				-- Neither do publish, which has accepted the message, and shutdown.
				local publish = { topic = harness.topic(), payload = ("x"):rep(300000), qos = 1 }
				local accepted = 0
				;("x"):rep(20):gsub("x", function()
					accepted = accepted + (client:publish(publish) and 1 or 0)
				end)
				local ended
				;("x"):gsub("x", function()
					ended = client:shutdown()
				end)
				return { answer = answer, err = err, paused = paused, accepted = accepted, ended = ended }
			end)
			assert.is_nil(results.answer)
			assert.equal("a thread of Copas cannot wait inside a function in C that calls back", results.err)
			assert.is_true(not results.paused or results.paused >= 0.2)
			assert.is_true(results.accepted > 0)
			assert.is_true(results.ended)
			assert.is_nil(client.connection)
		end)

		with_copas("the main chunk is no thread of it", function()
			assert.is_false(host.in_copas())
		end)

		with_copas("a coroutine is none while it does not run", function()
			assert.is_false(in_coroutine(host.in_copas))
			assert.is_false(in_wrap(host.in_copas))
			assert.is_false(in_coroutine(function()
				return in_wrap(host.in_copas)
			end))
		end)

		with_copas("its threads are, and what they resume is not", function()
			assert.is_true(in_thread(host.in_copas))
			for _, run in ipairs({ in_coroutine, in_wrap }) do
				assert.is_false(in_thread(function()
					return run(host.in_copas)
				end))
				assert.is_false(in_thread(function()
					return run(function()
						return run(host.in_copas)
					end)
				end))
			end
			assert.is_true(in_thread(function()
				in_wrap(host.in_copas)
				return host.in_copas()
			end))
		end)

		with_copas("its threads are within a protected call", function()
			local protected = rawget(_G, "jit") == nil and _VERSION == "Lua 5.1" and require("coxpcall").pcall or pcall
			assert.is_true(in_thread(function()
				return select(2, protected(host.in_copas))
			end))
			assert.is_false(in_thread(function()
				return select(2, protected(function()
					return in_coroutine(host.in_copas)
				end))
			end))
		end)

		with_copas("its threads are when a coroutine runs it", function()
			assert.is_true(in_coroutine(function()
				return in_thread(host.in_copas)
			end))
			assert.is_false(in_coroutine(function()
				return in_thread(function()
					return in_coroutine(host.in_copas)
				end)
			end))
			if has_wraps then
				assert.is_true(in_wrap(function()
					return in_thread(host.in_copas)
				end))
			end
		end)

		with_copas("its threads are when one of them runs it", function()
			assert.is_true(in_thread(function()
				return in_thread(host.in_copas)
			end))
			assert.is_false(in_thread(function()
				return in_thread(function()
					return in_wrap(host.in_copas)
				end)
			end))
		end)

		with_copas("its threads are when the program has wrapped coroutine.resume", function()
			local resume = coroutine.resume
			coroutine.resume = function(...) -- luacheck: ignore 122
				return resume(...)
			end
			copas_support.unload()
			copas = copas_support.load(version)
			local thread = in_thread(host.in_copas)
			coroutine.resume = resume -- luacheck: ignore 122
			assert.is_true(thread)
		end)

		with_copas("the handlers of its servers are", function()
			local socket = require("socket")
			local server = listen()
			local _, port = server:getsockname()
			local inside, done = nil, false
			copas.addserver(server, function()
				inside, done = host.in_copas(), true
			end)
			local peer = assert(socket.connect("127.0.0.1", port))
			local deadline = harness.deadline()
			while not done and harness.now() < deadline do
				copas.step(0.02)
			end
			peer:close()
			server:close()
			assert.is_true(inside)
		end)

		with_copas("its threads are in a program that calls the library nowhere else", function()
			assert.equal("true false\n", (child.run([[
				local copas = dofile("spec/support/copas.lua").load(%d)
				local host, done = require("mqtt.host"), false
				copas.addthread(function()
					print(host.in_copas(), coroutine.wrap(function()
						return host.in_copas()
					end)())
					done = true
				end)
				while not done do
					copas.step(0.02)
				end
			]], version):gsub("\t", " ")))
		end)

		if version == 4 then
			with_copas("what is called repeatedly goes on after an error, and when its thread is removed", function()
				local calls, call_soon = 0, nil
				in_thread(function()
					call_soon = host.repeatedly(function()
						calls = calls + 1
						if calls == 1 then
							error("thrown", 0)
						elseif calls == 2 then
							copas.removethread(coroutine.running())
							copas.pause(0)
						end
						return calls < 4 and 100
					end)
				end)
				local deadline = harness.deadline()
				while calls < 4 do
					assert(harness.now() < deadline, "it is not called any more")
					call_soon()
					copas.step(0.001)
				end
				while not copas.finished() do
					assert(harness.now() < deadline, "it does not end")
					copas.step(0.001)
				end
				assert.equal("thrown", table.remove(errors))
			end)

			with_copas("what is called repeatedly is called at once though it is about to sleep", function()
				local calls, call_soon = 0, nil
				in_thread(function()
					call_soon = host.repeatedly(function()
						calls = calls + 1
						if calls == 1 then
							-- Has its turn between the end of this call and the sleep.
							copas.addthread(function()
								call_soon()
							end)
						end
						return calls < 2 and 100
					end)
				end)
				local deadline = harness.deadline()
				while not copas.finished() do
					assert(harness.now() < deadline, "it sleeps")
					copas.step(0.001)
				end
				assert.equal(2, calls)
			end)
		end

		with_copas("await returns in a coroutine of a program with an ioloop", function()
			local subject, silent = harness.client(), require("spec.support.server").start(4, function() end)
			local deaf = harness.client({ uri = silent.uri })
			local loop, results = ioloop.create({ sleep_max = 0.005 }), {}
			loop:add(subject)
			loop:add(deaf)
			loop:add(silent.serve)
			local function wait()
				results[#results + 1] = { subject:await("connect", { timeout = 5 }) }
				results[#results + 1] = { deaf:await("connect", { timeout = 0.1 }) }
			end
			assert(coroutine.resume(coroutine.create(wait)))
			local deadline = harness.deadline()
			while #results < 2 and harness.now() < deadline do
				loop:iteration()
			end
			loop:remove(silent.serve)
			silent:stop()
			assert.equal(0, results[1][1].rc)
			assert.same({ nil, "timeout" }, { results[2][1], results[2][2] })
		end)

		with_copas("step yields nothing to the scheduler of the program", function()
			local subject = harness.client()
			local thread = coroutine.create(function()
				local deadline = harness.deadline()
				repeat
					local wait = subject:step()
					subject._link:wait(0.05)
				until not wait or subject.connection and subject.connection.connack or harness.now() > deadline
				return "end"
			end)
			assert.same({ true, "end" }, { coroutine.resume(thread) })
			assert.equal(0, subject.connection.connack.rc)
			-- The same below a thread of Copas.
			local again = harness.client()
			assert.equal("end", in_thread(function()
				return in_wrap(function()
					local deadline = harness.deadline()
					repeat
						local wait = again:step()
						again._link:wait(0.05)
					until not wait or again.connection and again.connection.connack or harness.now() > deadline
					return "end"
				end)
			end))
			assert.equal(0, again.connection.connack.rc)
		end)

		with_copas("await below one of its threads yields to what has resumed it", function()
			local subject = harness.client()
			require("mqtt.loop.copas").add(subject)
			local result
			local yielded = in_thread(function()
				local values = { coroutine.resume(coroutine.create(function()
					result = subject:await("connect", { timeout = 5 })
				end)) }
				return #values
			end)
			assert.equal(1, yielded)
			local deadline = harness.deadline()
			while not result and harness.now() < deadline do
				copas.step(0.02)
			end
			assert.equal(0, result.rc)
		end)
	end)
end

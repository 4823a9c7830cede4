-- What loops say of wrong arguments, and how they end.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")

local blames_caller = harness.blames_caller

-- A broker that is not there.
local NOBODY = "mqtt://127.0.0.1:1"

describe("a loop", function()
	local loop

	before_each(function()
		loop = ioloop.create({ sleep_max = 0.002 })
	end)
	after_each(harness.cleanup)

	for name, wrong in pairs({ number = 5, string = "client", boolean = true }) do
		it("does not take a " .. name, function()
			local text = "expecting a client or a function, got: " .. name
			blames_caller(text, loop.add, loop, wrong)
			blames_caller(text, loop.remove, loop, wrong)
			blames_caller(text, mqtt.run_ioloop, function() end, wrong)
		end)
	end

	it("does not take nil or a table that is no client, and can end after that", function()
		local empty = {}
		for name, wrong in pairs({ [tostring(empty)] = { empty }, ["nil"] = {} }) do
			local text = "expecting a client or a function, got: " .. name
			blames_caller(text, loop.add, loop, wrong[1])
			blames_caller(text, loop.remove, loop, wrong[1])
			blames_caller(text, mqtt.run_ioloop, wrong[1])
		end
		assert.same({}, loop.clients)
		assert.is_true(loop:run_until_clients())
	end)

	it("takes none of the arguments if one is wrong", function()
		local called = 0
		local function func()
			called = called + 1
			mqtt.get_ioloop():remove(func)
		end
		local subject = harness.client()
		subject.first_connect = false
		blames_caller("expecting a client or a function, got: nil", mqtt.run_ioloop, subject, func, nil)
		assert.same({}, mqtt.get_ioloop().clients)
		assert.is_false(subject.first_connect)
		assert.is_true(mqtt.run_ioloop())
		assert.equal(0, called)
		assert.is_true(mqtt.run_ioloop(func))
		assert.equal(1, called)
	end)

	it("takes no options that are none", function()
		blames_caller("expecting opts to be a table, got: number", ioloop.create, 5)
		for name, expected in pairs({ sleep_min = "number", sleep_step = "number", sleep_max = "number",
			sleep_function = "function" }) do
			blames_caller("expecting " .. name .. " to be a " .. expected .. ", got: string", ioloop.create,
				{ [name] = "soon" })
		end
		blames_caller("expecting sleep_max to be a number of seconds from 0, got: -1", ioloop.create, { sleep_max = -1 })
		-- Those of luamqtt 3.x mean nothing here.
		ioloop.create({ timeout = 0.005, sleep = 0 })
	end)

	it("takes what has the methods of a client", function()
		local steps = 0
		local likeness = {
			step = function()
				steps = steps + 1
				if steps == 3 then
					return nil, "enough"
				end
				return 0
			end,
			check_keep_alive = function()
				return 60
			end,
			set_ioloop = function() end,
		}
		loop:add(likeness)
		assert.same({ nil, "enough", n = 2 }, { n = 2, loop:run_until_clients() })
		assert.equal(3, steps)
	end)

	for _, name in ipairs({ "mqtt.loop", "mqtt.loop.ioloop", "mqtt.loop.copas" }) do
		it("of " .. name .. " takes nothing but clients", function()
			if name == "mqtt.loop.copas" then
				local copas, missing = copas_support.load(4)
				if not copas then
					return pending(missing)
				end
			end
			local add_to = require(name)
			blames_caller("expecting a client, got: number", add_to.add, 5)
			blames_caller("expecting a client, got: nil", add_to.add, nil)
			blames_caller("expecting a client, got: function", add_to.add, function() end)
			blames_caller("expecting a client, got: string", add_to, "client")
			assert.same({}, mqtt.get_ioloop().clients)
			copas_support.unload()
		end)
	end
end)

describe("run_ioloop", function()
	after_each(harness.cleanup)

	it("returns the error that nobody was told of", function()
		local ok, err = mqtt.run_ioloop(harness.client({ uri = NOBODY }))
		assert.is_nil(ok)
		assert.matches("failed to open network connection: .*refused", err)
		-- Once.
		assert.is_true(mqtt.run_ioloop())
	end)

	it("returns true where a handler was told", function()
		local told
		local subject = harness.client({ uri = NOBODY, on = { error = function(err)
			told = err
		end } })
		assert.equal(1, select("#", mqtt.run_ioloop(subject)))
		assert.matches("failed to open network connection", told)
		assert.is_true(mqtt.run_ioloop())
	end)

	it("returns true after a client that has ended in order", function()
		local subject = harness.client()
		for _, leave in ipairs({ "disconnect", "shutdown", "close_connection" }) do
			subject.handlers.connect = {}
			subject:on("connect", function()
				subject[leave](subject)
			end)
			assert.equal(1, select("#", mqtt.run_ioloop(subject)))
			subject.first_connect = true
			assert.is_true(mqtt.run_ioloop(subject))
		end
	end)

	it("returns the error of a connection that was refused, or was lost", function()
		local servers = require("spec.support.server")
		local server = servers.start(4, function(server, packet)
			if packet.type == 1 then
				server:send({ type = 2, sp = false, rc = server.accepted == 1 and 5 or 0 })
				if server.accepted == 2 then
					server:drop()
				end
			end
		end)
		local loop = mqtt.get_ioloop()
		for _, expected in ipairs({ "not authorized", "connection closed by broker" }) do
			local subject = harness.client({ uri = server.uri })
			loop:add(server.serve)
			subject:on("close", function()
				loop:remove(server.serve)
			end)
			local ok, err = mqtt.run_ioloop(subject)
			assert.is_nil(ok)
			assert.matches(expected, err)
		end
		server:stop()
	end)

	it("returns it once from runs in runs", function()
		local loop = ioloop.create()
		local inner
		local subject = harness.client()
		subject:on("connect", function()
			loop:add(harness.client({ uri = NOBODY }))
			subject:shutdown()
			inner = { loop:run_until_clients() }
		end)
		loop:add(subject)
		assert.is_true(loop:run_until_clients())
		assert.matches("failed to open", inner[2])
	end)
end)

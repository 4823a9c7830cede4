-- What programs written for luamqtt under Copas rely on, in their shape: a device that describes itself, and whose
-- handlers wait for acknowledgements; a bridge between two trees of topics. After homie.lua, homie5.lua and homie45,
-- which run unedited with this library.

local copas_support = require("spec.support.copas")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")

describe("a program under Copas", function()
	local copas, missing, errors

	before_each(function()
		copas, missing, errors = copas_support.load_watched(4)
	end)

	after_each(function()
		harness.cleanup()
		copas_support.unload()
	end)

	-- A test in a Copas thread, which lasts until all threads have ended.
	local function in_copas(name, func)
		it(name, function()
			if not copas then
				return pending(missing)
			end
			copas.addthread(func)
			local deadline = harness.deadline()
			while not copas.finished() do
				copas.step(0.05)
				assert.same({}, errors)
				assert(harness.now() < deadline, "the program does not end")
			end
		end)
	end

	-- Waits, in a Copas thread, until something has happened.
	local function await(done)
		local deadline = harness.deadline()
		while not done() do
			assert(harness.now() < deadline, "nothing came of it in time")
			copas.pause(0.001)
		end
	end

	-- Makes many requests of one kind from a thread of its own, and waits until all are answered.
	local function all_answered(client, method, list)
		local answered = 0
		copas.addthread(function()
			for _, opts in ipairs(list) do
				opts.qos = opts.qos or 1
				opts.callback = function()
					answered = answered + 1
				end
				assert(method(client, opts))
			end
		end)
		await(function()
			return answered == #list
		end)
	end

	local PROPERTIES = 12

	-- A device: an object with a client, whose handlers are its methods.
	local Device = {}
	Device.__index = Device

	function Device.new(base, qos)
		local device = setmetatable({ base = base, qos = qos, values = {} }, Device)
		device.client = harness.client({
			id = "device-" .. base:gsub("%W", ""),
			clean = false,
			reconnect = 0.05,
			will = { topic = base .. "/state", payload = "lost", qos = 1, retain = true },
		})
		device.client:on({
			connect = function(connack)
				device:connected(connack)
			end,
			message = function(message)
				device:received(message)
			end,
		})
		return device
	end

	function Device:topic(i)
		return self.base .. "/property" .. i
	end

	-- Tells a state and waits until the broker has acknowledged it.
	function Device:set_state(state)
		local acknowledged
		self.client:publish({ topic = self.base .. "/state", payload = state, qos = self.qos, retain = true,
			callback = function()
				acknowledged = true
			end })
		await(function()
			return acknowledged
		end)
		self.state = state
	end

	function Device:connected(connack)
		assert.equal(0, connack.rc)
		if self.state then
			-- the broker has told of its loss
			return self:set_state(self.state)
		end
		self:set_state("init")
		local own, commands, description = {}, {}, {}
		for i = 1, PROPERTIES do
			own[i] = { topic = self:topic(i) }
			commands[i] = { topic = self:topic(i) .. "/set" }
		end
		-- What the broker has retained of an earlier life.
		all_answered(self.client, self.client.subscribe, own)
		await(function()
			return self.values[PROPERTIES]
		end)
		all_answered(self.client, self.client.unsubscribe, own)
		for i = 1, PROPERTIES do
			description[2 * i - 1] = { topic = self:topic(i) .. "/name", payload = "property " .. i, retain = true }
			description[2 * i] = { topic = self:topic(i), payload = self.values[i], retain = true }
		end
		all_answered(self.client, self.client.publish, description)
		all_answered(self.client, self.client.subscribe, commands)
		self:set_state("ready")
		self.client.opts.clean = false
	end

	function Device:received(message)
		self.client:acknowledge(message)
		local i = tonumber(message.topic:match("/property(%d+)"))
		self.values[i] = message.payload
		if message.topic:find("/set$") then
			assert(self.client:publish({ topic = self:topic(i), payload = message.payload, qos = self.qos, retain = true }))
		end
	end

	-- A client that remembers the last message of each topic.
	local function observer(filter)
		local seen, connected = {}, false
		local client = harness.client({ version = mqtt.v50 })
		client:on({
			connect = function()
				client:subscribe({ topic = filter, qos = 1, callback = function()
					connected = true
				end })
			end,
			message = function(message)
				client:acknowledge(message)
				seen[message.topic] = message.payload or ""
			end,
		})
		require("mqtt.loop").add(client)
		await(function()
			return connected
		end)
		return client, seen
	end

	-- An observer for a device whose properties the broker has retained.
	local function with_earlier_life(device)
		local client, seen = observer(device.base .. "/#")
		local values = {}
		for i = 1, PROPERTIES do
			values[i] = { topic = device:topic(i), payload = "value " .. i, retain = true }
		end
		all_answered(client, client.publish, values)
		return client, seen
	end

	for qos = 1, 2 do
		in_copas("finds its retained state, describes itself, obeys commands and leaves, QoS " .. qos, function()
			local device = Device.new(harness.topic(), qos)
			local controller, seen = with_earlier_life(device)
			require("mqtt.loop").add(device.client)
			await(function()
				return seen[device.base .. "/state"] == "ready"
			end)
			for i = 1, PROPERTIES do
				assert.equal("value " .. i, device.values[i])
				assert.equal("property " .. i, seen[device:topic(i) .. "/name"])
				assert(controller:publish({ topic = device:topic(i) .. "/set", payload = "new " .. i, qos = qos }))
			end
			await(function()
				return seen[device:topic(PROPERTIES)] == "new " .. PROPERTIES
			end)
			assert.equal("new 1", seen[device:topic(1)])
			device:set_state("disconnected")
			assert.is_true(device.client:shutdown())
			await(function()
				return seen[device.base .. "/state"] == "disconnected"
			end)
			assert.is_true(controller:shutdown())
		end)
	end

	in_copas("tells its state again after it was lost, and goes on in the session it had", function()
		local device = Device.new(harness.topic(), 1)
		local controller, seen = with_earlier_life(device)
		local state = device.base .. "/state"
		require("mqtt.loop").add(device.client)
		await(function()
			-- The broker tells others before it acknowledges.
			return seen[state] == "ready" and device.state == "ready"
		end)
		-- The state that follows must be another message.
		seen[state] = nil
		device.client:close_connection("lost")
		assert(controller:publish({ topic = device:topic(1) .. "/set", payload = "meanwhile", qos = 1 }))
		await(function()
			return seen[state] == "ready" and seen[device:topic(1)] == "meanwhile"
		end)
		device.client:shutdown()
		controller:shutdown()
	end)

	in_copas("bridges devices that it finds, by one client for both sides", function()
		local base = harness.topic()
		local client = harness.client({ reconnect = true })
		local discovery = mqtt.compile_topic_pattern(base .. "/here/+/state")
		local values = mqtt.compile_topic_pattern(base .. "/here/+/value")
		local commands = mqtt.compile_topic_pattern(base .. "/there/+/value/set")
		local known = {}
		client:on({
			connect = function(connack)
				assert.equal(0, connack.rc)
				client:subscribe({ topic = base .. "/here/+/state", qos = 1 })
			end,
			message = function(message)
				client:acknowledge(message)
				local id = message.topic:match(discovery)
				if id and not known[id] then
					known[id] = true
					client:subscribe({ topic = base .. "/here/" .. id .. "/#", qos = 1 })
					client:subscribe({ topic = base .. "/there/" .. id .. "/+/set", qos = 1, callback = function()
						client:publish({ topic = base .. "/there/" .. id .. "/state", payload = "ready", qos = 1 })
					end })
				end
				local changed = message.topic:match(values)
				if changed then
					client:publish({ topic = base .. "/there/" .. changed .. "/value", payload = message.payload,
						qos = message.qos })
				end
				local commanded = message.topic:match(commands)
				if commanded and message.payload then
					client:publish({ topic = base .. "/here/" .. commanded .. "/value/set", payload = message.payload, qos = 1 })
					-- a command is taken back when it has been passed on
					client:publish({ topic = message.topic, payload = nil, qos = message.qos, retain = message.retain })
				end
			end,
		})
		-- Options may change between creation and the first connection.
		client.opts.clean = "first"
		require("mqtt.loop").add(client)

		local controller, seen = observer(base .. "/#")
		controller:publish({ topic = base .. "/here/lamp/state", payload = "ready", qos = 1, retain = true })
		await(function()
			return seen[base .. "/there/lamp/state"] == "ready"
		end)
		controller:publish({ topic = base .. "/here/lamp/value", payload = "on", qos = 1 })
		controller:publish({ topic = base .. "/there/lamp/value/set", payload = "off", qos = 1 })
		await(function()
			return seen[base .. "/there/lamp/value"] == "on" and seen[base .. "/here/lamp/value/set"] == "off"
				and seen[base .. "/there/lamp/value/set"] == ""
		end)
		assert.is_false(client.opts.clean)
		client:shutdown()
		controller:shutdown()
	end)
end)

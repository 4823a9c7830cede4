-- Misspelt and unknown fields of the tables that a program gives.

local harness = require("spec.support.harness")
local log = require("mqtt.log")
local mqtt = require("mqtt")

local blames_caller = harness.blames_caller

local made = 0

-- A field name that no other test uses, and that is close to no known name.
local function own_name()
	made = made + 1
	return "xyz" .. made
end

describe("a misspelt field", function()
	local said

	before_each(function()
		said = {}
		log.set({ warn = function(_, text)
			said[#said + 1] = text
		end })
	end)

	after_each(function()
		harness.cleanup()
		log.set(false)
	end)

	local MISSPELT = {
		publish = {
			{ "paylod", "22", "payload" },
			{ "Payload", "22", "payload" },
			{ "retained", true, "retain" },
			{ "QoS", 1, "qos" },
			{ "qso", 1, "qos" },
			{ "callbak", function() end, "callback" },
			{ "userProperties", {}, "user_properties" },
		},
		subscribe = {
			{ "callbak", function() end, "callback" },
			{ "nolocal", true, "no_local" },
			{ "retain_handlng", 1, "retain_handling" },
		},
		unsubscribe = {
			{ "calback", function() end, "callback" },
		},
	}

	for method, cases in pairs(MISSPELT) do
		for _, case in ipairs(cases) do
			local name, value, meant = case[1], case[2], case[3]
			local text = ("unexpected key in opts: %s, did you mean %s?"):format(name, meant)
			it("raises in " .. method .. ": " .. name, function()
				local client = harness.client({ version = mqtt.v50 })
				local opts = { topic = harness.topic(), [name] = value }
				blames_caller(text, client[method], client, opts)
				harness.connect(client)
				blames_caller(text, client[method], client, opts)
				blames_caller(text, client[method], client, setmetatable(opts, {}))
			end)
		end
	end

	it("raises after many correct messages, by each kind of connection", function()
		for _, connector in ipairs({ require("mqtt.connector.native"), (require("mqtt.connector.luasocket")) }) do
			local client = harness.connect(harness.client({ connector = connector }))
			local topic = harness.topic()
			for i = 1, 300 do
				assert(client:publish({ topic = topic, payload = tostring(i) }))
			end
			blames_caller("unexpected key in opts: retained, did you mean retain?", client.publish, client,
				{ topic = topic, payload = "1", retained = true })
			blames_caller("unexpected key in opts: paylod, did you mean payload?", client.publish, client,
				{ topic = topic, paylod = "1", properties = {} })
		end
	end)

	it("raises in a will", function()
		blames_caller("unexpected key in will: retained, did you mean retain?", mqtt.client,
			{ uri = "h", clean = true, will = { topic = "t", payload = "p", retained = true } })
		blames_caller("unexpected key in will: paylod, did you mean payload?", mqtt.client,
			{ uri = "h", clean = true, will = { topic = "t", paylod = "p" } })
		blames_caller("expecting will.payload to be a string, did you mean payload?", mqtt.client,
			{ uri = "h", clean = true, will = { topic = "t", message = "p" } })
	end)

	it("raises with the nearest name in the options of a client", function()
		local cases = {
			{ "recconect", 5, "reconnect" }, { "clean_session", true, "clean" }, { "keepalive", 5, "keep_alive" },
			{ "clientId", "x", "id" }, { "url", "h", "uri" }, { "cafile", "f", "secure" },
		}
		for _, case in ipairs(cases) do
			blames_caller(("unexpected key in client opts: %s = %s, did you mean %s?"):format(case[1], tostring(case[2]),
				case[3]), mqtt.client, { uri = "h", clean = true, [case[1]] = case[2] })
		end
		blames_caller("unexpected key in client opts: xyz = 1", mqtt.client, { uri = "h", clean = true, xyz = 1 })
		blames_caller("unexpected key in queue: max_mesages, did you mean max_messages?", mqtt.client,
			{ uri = "h", clean = true, queue = { max_mesages = 1 } })
		blames_caller("unexpected key in reconnect: maxx = 1, did you mean max?", mqtt.client,
			{ uri = "h", clean = true, reconnect = { maxx = 1 } })
	end)

	it("is no misspelling if the right field is there too", function()
		local client = harness.connect(harness.client())
		assert(client:publish({ topic = harness.topic(), payload = "1", payloads = own_name() }))
		assert.equal(1, #said)
	end)
end)

describe("an unknown field", function()
	local said

	before_each(function()
		said = {}
		log.set({ warn = function(_, text)
			said[#said + 1] = text
		end })
	end)

	after_each(function()
		harness.cleanup()
		log.set(false)
	end)

	for method, extra in pairs({ publish = { payload = "1" }, subscribe = {}, unsubscribe = {} }) do
		it("of " .. method .. " is said once for each name", function()
			local client = harness.connect(harness.client())
			local first, second = own_name(), own_name()
			local function call(name)
				local opts = { topic = harness.topic(), [name] = "mine" }
				for key, value in pairs(extra) do
					opts[key] = value
				end
				assert(client[method](client, opts))
			end
			for _ = 1, 3 do
				call(first)
			end
			call(second)
			local text = "[LuaMQTT] unknown key in the table for " .. method .. ": "
			assert.same({ text .. first, text .. second }, said)
		end)
	end

	it("of publish costs nothing that was said already", function()
		local client, name = harness.connect(harness.client()), own_name()
		local id = assert(client:publish({ topic = harness.topic(), qos = 1, [name] = 1 }))
		assert.equal(id + 1, client:publish({ topic = harness.topic(), qos = 1, [name] = 1 }))
		assert.equal(1, #said)
		-- Misspelt fields beside it are still found.
		blames_caller("unexpected key in opts: paylod, did you mean payload?", client.publish, client,
			{ topic = "t", [name] = 1, paylod = "x" })
	end)

	it("with a number as its key is said too", function()
		local client = harness.connect(harness.client())
		assert(client:publish({ topic = harness.topic(), "payload" }))
		assert.same({ "[LuaMQTT] unknown key in the table for publish: [1]" }, said)
	end)

	it("has its name in the log with what other libraries mean by it", function()
		local client = harness.connect(harness.client())
		assert(client:publish({ topic = harness.topic(), message = "1" }))
		assert.same({ "[LuaMQTT] unknown key in the table for publish: message, did you mean payload?" }, said)
	end)

	it("is none of a received message that is passed on, or of a subscription's table used twice", function()
		for _, version in ipairs({ mqtt.v311, mqtt.v50 }) do
			local client = harness.connect(harness.client({ version = version }))
			local message
			client:on({ message = function(msg)
				message = message or msg
			end })
			local subscription = { topic = harness.topic(), qos = 1, no_local = false }
			harness.subscribe(client, subscription)
			assert(client:publish({ topic = subscription.topic, payload = "1", qos = 1 }))
			harness.serve({ client }, function()
				return message
			end)
			message.topic = harness.topic()
			assert(client:publish(message))
			assert(client:unsubscribe(subscription))
			assert.same({}, said)
		end
	end)

	it("raises in what luamqtt does not have", function()
		local client = harness.client({ version = mqtt.v50 })
		blames_caller("unexpected key in opts: timout, did you mean timeout?", client.request, client,
			{ topic = "t", timout = 1 })
		blames_caller("unexpected key in opts: xyz", client.request, client, { topic = "t", xyz = 1 })
		blames_caller("unexpected key in opts: xyz", client.respond, client, { topic = "t" }, { xyz = 1 })
		blames_caller("unexpected key in opts: timout, did you mean timeout?", client.await, client, "publish",
			{ topic = "t", timout = 1 })
		blames_caller("unexpected key in opts: topic", client.await, client, "connect", { topic = "t" })
		blames_caller("unexpected key in opts: handlr, did you mean handler?", client.on_topic, client, "t",
			function() end, { handlr = 1 })
		blames_caller("unexpected key in queue: xyz", mqtt.client, { uri = "h", clean = true, queue = { xyz = 1 } })
		assert.same({}, said)
	end)

	it("is none of the options that these methods have for themselves", function()
		local client = harness.client({ version = mqtt.v50 })
		assert(client:await("connect", { timeout = 10 }))
		local topic = harness.topic()
		assert(client:on_topic(topic, function(msg)
			client:respond(msg, { payload = "answer" })
		end, { subscribe = true, keys = {} }))
		assert(client:await("subscribe", { topic = harness.topic(), timeout = 10 }))
		assert(client:await("publish", { topic = harness.topic(), qos = 1, timeout = 10 }))
		assert.equal("answer", assert(client:request({ topic = topic, timeout = 10 })).payload)
		assert.same({}, said)
	end)
end)

describe("a callback as the second argument", function()
	after_each(harness.cleanup)

	for _, method in ipairs({ "publish", "subscribe", "unsubscribe" }) do
		it("raises in " .. method .. "; other values are ignored, as by luamqtt", function()
			local client = harness.client()
			local text = "expecting the callback as the field callback of opts, not as a second argument"
			blames_caller(text, client[method], client, { topic = "t" }, function() end)
			harness.connect(client)
			blames_caller(text, client[method], client, { topic = "t" }, function() end)
			assert(client[method](client, { topic = harness.topic() }, "more"))
		end)
	end
end)

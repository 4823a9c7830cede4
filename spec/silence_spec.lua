-- What a program hears that has no handler of `error`, and where the log warns a program that goes wrong.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local log = require("mqtt.log")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

describe("an error without a handler", function()
	-- Runs a program that cannot connect. Returns its output.
	local function run(before, after)
		local server = servers.start(4)
		server:stop()
		local output, status = child.run([[
			local mqtt = require("mqtt")
			%s
			local client = mqtt.client { uri = "mqtt://127.0.0.1:%d", id = "silent", clean = true }
			%s
			mqtt.run_ioloop(client)
		]], before, server.port, after)
		assert.equal(0, status, output)
		return output
	end

	local TEXT = "^error: %[LuaMQTT%] client 'silent' failed to open network connection: [^\n]+\n$"

	it("goes to stderr", function()
		assert.matches(TEXT, run("", ""))
		assert.matches(TEXT, run("", 'client:on("connect", print)'))
	end)

	it("does not go there with a handler, with another logger, or after set(false)", function()
		assert.equal("", run("", 'client:on("error", function() end)'))
		assert.equal("", run("mqtt.log.set(false)", ""))
		assert.equal("", run("mqtt.log.set { warn = print }", ""))
		assert.matches("^mine: ", run('mqtt.log.set { error = function(_, text) print("mine: " .. text) end }',
			'client:on("error", function() end)'))
	end)
end)

describe("the log warns", function()
	local said

	before_each(function()
		said = {}
		log.set({ warn = function(_, text)
			said[#said + 1] = text
		end })
	end)

	after_each(function()
		harness.cleanup()
		servers.stop_all()
		log.set(false)
	end)

	for _, name in ipairs({ "native", "luasocket" }) do
		for version, words in pairs({ [mqtt.v311] = "3.1.1", [mqtt.v50] = "5.0" }) do
			local function new(opts)
				opts.version, opts.connector = version, require("mqtt.connector." .. name)
				return harness.client(opts)
			end

			-- Publishes messages of QoS 1 to a client, and serves it until it has got so many.
			local function receive(client, topic, count, least, qos)
				local received = 0
				client:on({ message = function()
					received = received + 1
				end })
				local publisher = harness.connect(harness.client())
				for _ = 1, count do
					assert(publisher:publish({ topic = topic, qos = qos }))
				end
				harness.serve({ client, publisher }, function()
					return received >= least
				end)
				return function()
					harness.serve({ client }, function()
						return said[1]
					end)
				end
			end

			it("of 20 unacknowledged messages, once, by the connector " .. name .. ", MQTT " .. words, function()
				local client, topic = harness.connect(new({ id = "stalled" })), harness.topic()
				harness.subscribe(client, topic)
				receive(client, topic, 25, 20, 1)()
				harness.flush(client)
				assert.same({ "[LuaMQTT] client 'stalled' has 20 messages that wait for Client:acknowledge: the broker may send "
					.. "no more before. Acknowledge each message, or set the option auto_ack" }, said)
			end)

			it("not of acknowledged messages, by the connector " .. name .. ", MQTT " .. words, function()
				for qos = 1, 2 do
					local client, topic = harness.connect(new({ auto_ack = true })), harness.topic()
					harness.subscribe(client, topic)
					receive(client, topic, 100, 100, qos)
					harness.flush(client)
				end
				assert.same({}, said)
			end)
		end
	end

	it("of unacknowledged messages when the client's own receive maximum is reached", function()
		local client = harness.client({ version = mqtt.v50, properties = { receive_maximum = 3 } })
		harness.connect(client)
		local topic = harness.topic()
		harness.subscribe(client, topic)
		local publisher = harness.connect(harness.client())
		for _ = 1, 4 do
			assert(publisher:publish({ topic = topic, qos = 1 }))
		end
		harness.serve({ client, publisher }, function()
			return said[1]
		end)
		assert.matches("has 3 messages that wait for Client:acknowledge", said[1], 1, true)
	end)

	for version, words in pairs({ [mqtt.v311] = "3.1.1", [mqtt.v50] = "5.0" }) do
		it("of a client identifier that is taken over again and again, MQTT " .. words, function()
			local id = "spec-" .. core.random_hex(8)
			local opts = { id = id, version = version, reconnect = { min = 0.01, max = 0.01 } }
			local one, other = harness.client(opts), harness.client(opts)
			harness.serve({ one, other }, function()
				return said[1]
			end)
			assert.matches("^%[LuaMQTT%] the broker has ended 3 connections of client '" .. id:gsub("%-", "%%-") .. "': ",
				said[1])
			assert.matches("another client uses the same client identifier (the option id)", said[1], 1, true)
		end)
	end

	it("of subscribing without a connection, which is refused", function()
		local client = harness.client({ id = "early" })
		assert.same({ false, "network connection is not opened" }, { client:subscribe({ topic = "a/b" }) })
		assert.same({ "[LuaMQTT] client 'early' does not subscribe to a/b, since it is not connected: subscribe in a handler "
			.. "of connect, or set the option resubscribe, queue or store" }, said)
	end)
end)

describe("subscribing without a connection", function()
	after_each(harness.cleanup)

	for _, name in ipairs({ "native", "luasocket" }) do
		for option, value in pairs({ resubscribe = true, queue = {} }) do
			for version, words in pairs({ [mqtt.v311] = "3.1.1", [mqtt.v50] = "5.0" }) do
				it(("waits for the connection with %s, by the connector %s, MQTT %s"):format(option, name, words), function()
					local client = harness.client({ [option] = value, version = version,
						connector = require("mqtt.connector." .. name) })
					local topic, suback, message = harness.topic(), nil, nil
					local id = client:subscribe({ topic = topic, qos = 1, callback = function(packet)
						suback = packet
					end })
					assert.equal(1, id)
					client:on({ message = function(msg)
						message = msg
					end })
					harness.connect(client)
					harness.serve({ client }, function()
						return suback
					end)
					assert.same({ 1 }, suback.rc)
					assert.equal(id, suback.packet_id)
					assert(client:publish({ topic = topic, payload = "here" }))
					harness.serve({ client }, function()
						return message
					end)
					assert.equal("here", message.payload)
				end)
			end
		end
	end

	it("is what await waits for too", function()
		local client = harness.client({ queue = {}, uri = broker.uri })
		local suback = assert(client:await("subscribe", { topic = harness.topic(), timeout = 10 }))
		assert.same({ 0 }, suback.rc)
	end)
end)

describe("a guide", function()
	it("shows no handler of connect that takes a refusal for a connection #unix", function()
		local pipe = assert(io.popen("ls README.md docs/*.md"))
		local count = 0
		for name in pipe:lines() do
			local file = assert(io.open(name))
			local text = file:read("*a")
			file:close()
			for handler in text:gmatch("connect\"?[ =,]+function%b().-end") do
				count = count + 1
				assert.matches("connack%.rc", handler)
			end
		end
		pipe:close()
		assert.is_true(count > 10)
	end)
end)

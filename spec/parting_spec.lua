-- What a client with a connector has accepted reaches the broker when it disconnects, with the DISCONNECT behind it,
-- though the broker's answers lie unread: as on the native connection.

local broker = require("spec.support.broker")
local copas_support = require("spec.support.copas")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local mqtt = require("mqtt")

local MESSAGES = 500
-- Each host leaves so many times: which of the broker's answers are unread then is a matter of chance.
local ROUNDS = 3

local connector_names = { "mqtt.connector.copas", "mqtt.loop.copas" }

local function unload()
	copas_support.unload()
	for _, name in ipairs(connector_names) do
		package.loaded[name] = nil
	end
end

-- Runs a client under the Copas that is loaded until it has left that.
local function under_copas(client)
	require("mqtt.loop.copas").add(client)
	local deadline = harness.deadline()
	while client._copas do
		assert(harness.now() < deadline, "the client does not end")
		package.loaded.copas.step(0.02)
	end
end

-- The same for a client that a thread of the program steps.
local function in_thread(client)
	local copas, ended = package.loaded.copas, false
	copas.addthread(function()
		repeat
			local wait = client:step()
		until not wait
		ended = true
	end)
	local deadline = harness.deadline()
	while not ended do
		assert(harness.now() < deadline, "the client does not end")
		copas.step(0.02)
	end
end

local function step(client)
	local deadline = harness.deadline()
	repeat
		local wait = client:step()
		if client.connection then
			client:check_keep_alive()
		end
		assert(harness.now() < deadline, "the client does not end")
	until not wait
end

-- How a client is run until it has ended: its connector's module, the function, the Copas it needs.
local hosts = {
	["LuaSocket in the ioloop"] = { "mqtt.connector.luasocket", function(client)
		mqtt.run_ioloop(client)
	end },
	["LuaSocket in run_sync"] = { "mqtt.connector.luasocket", mqtt.run_sync },
	["LuaSocket, stepped"] = { "mqtt.connector.luasocket", step },
	["#luasec in the ioloop"] = { "mqtt.connector.luasocket", function(client)
		mqtt.run_ioloop(client)
	end, tls = true },
	["#luasec, stepped"] = { "mqtt.connector.luasocket", step, tls = true },
	["functions of luamqtt 3.x"] = { "mqtt.luasocket", mqtt.run_sync, functions = true },
	["Copas 4"] = { "mqtt.connector.copas", under_copas, copas = 4 },
	["a thread of Copas 4"] = { "mqtt.connector.copas", in_thread, copas = 4 },
	["Copas 4 with #luasec"] = { "mqtt.connector.copas", under_copas, copas = 4, tls = true },
	["Copas 1"] = { "mqtt.connector.copas", under_copas, copas = 1 },
	["no connector"] = { "mqtt.connector.native", function(client)
		mqtt.run_ioloop(client)
	end },
}

-- The same functions as a table of the program's own.
local function copy_functions(of)
	local copy = { returns_partial = true }
	for _, name in ipairs({ "connect", "shutdown", "send", "receive", "settimeout" }) do
		copy[name] = of[name]
	end
	return copy
end

for name, what in pairs(hosts) do
	describe("what was accepted before the client leaves arrives: " .. name, function()
		local present, missing = true, nil
		if what.copas then
			present, missing = copas_support.load(what.copas)
			unload()
		end
		if not present then
			pending(missing)
			return
		end

		before_each(function()
			if what.copas then
				copas_support.load(what.copas)
			end
		end)

		after_each(function()
			harness.cleanup()
			unload()
		end)

		-- Runs a client that publishes to itself and then leaves by a method; checks what the broker has got.
		local function leave(version, method)
			local topic, id = harness.topic(), "parting-" .. core.random_hex(12)
			local log = broker.follow_log()
			local witness, arrived, wills = harness.connect(harness.client()), {}, 0
			harness.subscribe(witness, { topic = topic .. "/#", qos = 0 })
			witness:on("message", function(message)
				if message.topic == topic .. "/will" then
					wills = wills + 1
				elseif message.topic == topic then
					arrived[#arrived + 1] = message.payload
				end
			end)
			local connector = require(what[1])
			local opts = {
				id = id,
				version = version,
				connector = what.functions and copy_functions(connector) or connector,
				will = { topic = topic .. "/will", payload = "will" },
			}
			local client = (what.tls and harness.tls_client or harness.client)(opts)
			local closed
			client:on({
				connect = function()
					-- What it publishes comes back, and is not read either.
					assert(client:subscribe({ topic = topic, callback = function()
						for i = 1, MESSAGES do
							assert(client:publish({ topic = topic, payload = tostring(i), qos = 1 }))
						end
						client[method](client)
					end }))
				end,
				error = error,
				close = function(conn)
					closed = conn.close_reason
				end,
			})
			what[2](client)
			assert.equal("connection closed by client", closed)
			local ok = pcall(harness.serve, { witness }, function()
				return #arrived == MESSAGES
			end)
			assert(ok, ("%d of %d arrived"):format(#arrived, MESSAGES))
			for i = 1, MESSAGES do
				assert.equal(tostring(i), arrived[i])
			end
			harness.serve({ witness }, function()
				return log():find("Received DISCONNECT from " .. id, 1, true)
			end)
			harness.flush(witness)
			assert.equal(0, wills)
		end

		for version_name, version in pairs({ ["3.1.1"] = mqtt.v311, ["5.0"] = mqtt.v50 }) do
			for _, method in ipairs({ "shutdown", "disconnect" }) do
				it(("%s, %s"):format(method, version_name), function()
					for _ = 1, ROUNDS do
						leave(version, method)
					end
				end)
			end
		end
	end)
end

describe("a client that connects again at once", function()
	after_each(harness.cleanup)

	for name, connector in pairs({
		LuaSocket = "mqtt.connector.luasocket",
		["no connector"] = "mqtt.connector.native",
	}) do
		for _, method in ipairs({ "disconnect", "close_connection" }) do
			it(("does not keep the broker from what was accepted before: %s, %s"):format(method, name), function()
				local topic, rounds = harness.topic(), 4
				local witness, arrived = harness.connect(harness.client()), {}
				harness.subscribe(witness, { topic = topic, qos = 0 })
				witness:on("message", function(message)
					arrived[#arrived + 1] = message.payload
				end)
				local client = harness.client({
					id = "parting-" .. core.random_hex(12),
					connector = require(connector),
				})
				for round = 1, rounds do
					assert(client:start_connecting())
					while not client.connection.connack do
						assert(client:_sync_iteration())
					end
					for i = 1, MESSAGES do
						assert(client:publish({ topic = topic, payload = round .. " " .. i, qos = 1 }))
					end
					client[method](client)
				end
				local ok = pcall(harness.serve, { witness }, function()
					return #arrived == rounds * MESSAGES
				end)
				assert(ok, ("%d of %d arrived"):format(#arrived, rounds * MESSAGES))
				for round = 1, rounds do
					for i = 1, MESSAGES do
						assert.equal(round .. " " .. i, arrived[(round - 1) * MESSAGES + i])
					end
				end
			end)
		end
	end
end)

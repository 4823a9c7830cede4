-- Clients with a store: what was accepted outlives the process, whatever ends it.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local lfs = require("lfs")
local mqtt = require("mqtt")
local packet = require("mqtt.protocol")

if not core.link(4).keep_in then
	describe("the option store", function()
		it("is in this build", function()
			pending("it is built without stores")
		end)
	end)
	return
end

local LASTING = { session_expiry_interval = 600 }

-- Directories of stores, which are removed after each test.
local paths = {}

local function new_path()
	local path = os.tmpname()
	os.remove(path)
	paths[#paths + 1] = path
	return path
end

local function remove_paths()
	for _, path in ipairs(paths) do
		if lfs.attributes(path) then
			for name in lfs.dir(path) do
				os.remove(path .. "/" .. name)
			end
			lfs.rmdir(path)
		end
	end
	paths = {}
end

-- Makes a client with a store.
local function keeper(path, opts)
	local own = { id = "keeper-" .. core.random_hex(12), clean = false, store = path, reconnect = 0.1 }
	for key, value in pairs(opts or {}) do
		own[key] = value
	end
	own.properties = own.version == mqtt.v50 and LASTING or nil
	return harness.client(own)
end

-- A client that receives everything under a topic.
local function witness(topic)
	local client, payloads = harness.connect(harness.client()), {}
	-- Of QoS 0: mosquitto changes the order of others when many wait for one client.
	harness.subscribe(client, { topic = topic .. "/#", qos = 0 })
	client:on("message", function(message)
		client:acknowledge(message)
		payloads[#payloads + 1] = message.payload
	end)
	return client, payloads
end

local function list(client)
	local all = {}
	for message in client:stored() do
		all[#all + 1] = message
	end
	return all
end

-- Begins scripts of children: `client` has a store.
local PRELUDE = [[
local mqtt = require("mqtt")
mqtt.log.set(false)
local URI, PATH, ID, VERSION, TOPIC, SYNC = %q, %q, %q, %d, %q, %q
local function kill()
	io.stdout:flush()
	os.execute("kill -KILL $PPID")
end
local client = mqtt.client({
	uri = URI, id = ID, clean = false, version = VERSION, store = { path = PATH, sync = SYNC },
	properties = VERSION == 5 and { session_expiry_interval = 600 } or nil,
})
]]

describe("a client with a store", function()
	after_each(function()
		harness.cleanup()
		collectgarbage()
		collectgarbage()
		remove_paths()
	end)

	for name, case in pairs({
		["3.1.1"] = { mqtt.v311, "process" },
		["5.0"] = { mqtt.v50, "process" },
		["3.1.1, synced"] = { mqtt.v311, "power" },
		["5.0, synced"] = { mqtt.v50, "power" },
	}) do
		local version, sync = case[1], case[2]

		it("sends what a killed process has accepted without a connection #unix, " .. name, function()
			local path, topic, id = new_path(), harness.topic(), "keeper-" .. core.random_hex(12)
			local output = child.run(PRELUDE .. [[
				for i = 1, 300 do
					print(client:publish({ topic = TOPIC, payload = tostring(i), qos = 1 + i %% 2, tag = "order " .. i }))
				end
				kill()
			]], broker.uri, path, id, version, topic .. "/t", sync)
			assert.equal(("true\n"):rep(300), (output:gsub("Killed\n", "")))
			local observer, payloads = witness(topic)
			local client = keeper({ path = path, sync = sync }, { id = id, version = version })
			local stored = list(client)
			assert.equal(300, #stored)
			assert.equal("order 1", stored[1].tag)
			assert.equal("order 300", stored[300].tag)
			assert.equal(topic .. "/t", stored[300].topic)
			assert.equal(2, stored[299].qos)
			assert.is_true(math.abs(os.time() - stored[1].since) < 60)
			assert.is_nil(stored[1].packet_id)
			assert.equal(300, client:stats().queued)
			local tags = {}
			client:on("acknowledge", function(ack)
				tags[#tags + 1] = ack.tag
			end)
			harness.serve({ client, observer }, function()
				return #payloads == 300 and #tags == 300
			end)
			-- In the order of each QoS: odd numbers have QoS 2.
			local last = { [0] = 0, 0 }
			for _, payload in ipairs(payloads) do
				local number = tonumber(payload)
				assert.is_true(number > last[number % 2])
				last[number % 2] = number
			end
			table.sort(tags)
			assert.equal("order 1", tags[1])
			harness.serve({ client, observer }, function()
				return client:stats().in_flight == 0
			end)
			assert.same({}, list(client))
		end)

		it("goes on with what was under way when its process was killed #unix, " .. name, function()
			local path, topic, id = new_path(), harness.topic(), "keeper-" .. core.random_hex(12)
			local observer, payloads = witness(topic)
			local total = 0
			for _ = 1, 4 do
				local output = child.run(PRELUDE .. [[
					local sent = 0
					client:on({
						connect = function()
							for i = 1, 500 do
								io.write(tostring(client:publish({ topic = TOPIC, payload = "p", qos = 2 })), "\n")
							end
						end,
						acknowledge = function()
							sent = sent + 1
							if sent == 50 then
								kill()
							end
						end,
					})
					mqtt.run_ioloop(client)
				]], broker.uri, path, id, version, topic .. "/t", sync)
				total = total + select(2, output:gsub("%f[%w]%w+\n", "")) - select(2, output:gsub("Killed\n", ""))
			end
			assert.equal(2000, total)
			local client = keeper({ path = path, sync = sync }, { id = id, version = version })
			harness.serve({ client, observer }, function()
				return client.connection and client.connection.connack and client:stats().queued == 0
					and client:stats().in_flight == 0
			end)
			harness.serve({ observer }, function()
				return #payloads >= total
			end)
			harness.flush(observer)
			assert.equal(total, #payloads)
		end)
	end

	it("gives the tags of messages that are answered while the client leaves", function()
		local client = keeper(new_path())
		for i = 1, 200 do
			assert(client:publish({ topic = harness.topic(), payload = "p", qos = 2, tag = tostring(i) }))
		end
		local answered = 0
		client:on("acknowledge", function(ack)
			answered = answered + 1
			assert.equal(tostring(answered), ack.tag)
			if answered == 3 then
				client:shutdown()
			end
		end)
		harness.serve_to_end(client)
		assert.is_true(answered > 3)
	end)

	for _, sync in ipairs({ "process", "power" }) do
		it("works through a connector, sync = " .. sync, function()
			local topic = harness.topic()
			local observer, payloads = witness(topic)
			local client = keeper({ path = new_path(), sync = sync }, { connector = require("mqtt.connector.luasocket") })
			local acknowledged = 0
			for i = 1, 100 do
				assert(client:publish({ topic = topic .. "/t", payload = tostring(i), qos = 2, callback = function()
					acknowledged = acknowledged + 1
					if acknowledged <= 100 then
						assert(client:publish({ topic = topic .. "/t", payload = tostring(100 + acknowledged), qos = 2 }))
					end
				end }))
			end
			harness.serve({ client, observer }, function()
				return #payloads == 200 and client:stats().in_flight == 0
			end)
			for i = 1, 200 do
				assert.equal(tostring(i), payloads[i])
			end
			client:disconnect()
		end)
	end

	it("calls callbacks of messages that waited, and gives their tags, in the same process", function()
		local path = new_path()
		local client, answered = keeper(path), {}
		for i = 1, 50 do
			assert.is_true(client:publish({ topic = harness.topic(), payload = "p", qos = 1 + i % 2, tag = tostring(i),
				callback = function(ack)
					answered[#answered + 1] = i .. " " .. ack.tag
				end }))
		end
		harness.serve({ client }, function()
			return #answered == 50
		end)
		assert.equal("1 1", answered[1])
		local id = client:publish({ topic = harness.topic(), qos = 1, tag = "now", callback = function(ack)
			answered[#answered + 1] = ack.tag
		end })
		assert.equal("number", type(id))
		harness.serve({ client }, function()
			return answered[51]
		end)
		assert.equal("now", answered[51])
	end)

	it("keeps more than there are packet identifiers, in little memory", function()
		local path, topic = new_path(), harness.topic()
		local client = keeper(path)
		local message = { topic = topic, payload = ("x"):rep(100), qos = 1 }
		for _ = 1, 66000 do
			assert(client:publish(message))
		end
		assert.equal(66000, client:stats().queued)
		assert.is_true(client._link:outgoing_bytes() < 1000)
		-- They are sent some at a time, and memory holds only these.
		harness.serve({ client }, function()
			return client:stats().messages_sent > 2000
		end)
		local stats = client:stats()
		assert.equal(66000, stats.queued + stats.messages_sent)
		assert.is_true(client._link:outgoing_bytes() < 2 ^ 23)
		client:disconnect()
	end)

	it("refuses what does not fit, and goes on when there is room", function()
		local path = new_path()
		local client = keeper({ path = path, max_messages = 3 })
		local message = { topic = harness.topic(), qos = 1 }
		for _ = 1, 3 do
			assert.is_true(client:publish(message))
		end
		assert.same({ false, "failed to send PUBLISH: the store is full" }, { client:publish(message) })
		harness.serve({ client }, function()
			return client:stats().in_flight == 0 and client:stats().queued == 0
		end)
		assert.equal("number", type(client:publish(message)))
	end)

	it("lets the oldest message make room, if it is to", function()
		local topic = harness.topic()
		local observer, payloads = witness(topic)
		local client = keeper({ path = new_path(), max_messages = 3, when_full = "drop_oldest" })
		local answered = {}
		for i = 1, 5 do
			assert.is_true(client:publish({ topic = topic .. "/t", payload = tostring(i), qos = 1, callback = function()
				answered[#answered + 1] = i
			end }))
		end
		assert.equal(3, client:stats().queued)
		assert.equal(2, client:stats().dropped)
		harness.serve({ client, observer }, function()
			return #payloads == 3 and #answered == 3
		end)
		assert.same({ "3", "4", "5" }, payloads)
		assert.same({ 3, 4, 5 }, answered)
	end)

	it("does not send what has waited for longer than it may", function()
		local topic = harness.topic()
		local observer, payloads = witness(topic)
		local client = keeper(new_path(), { version = mqtt.v50 })
		local events = harness.record(client, { "dropped" })
		assert(client:publish({ topic = topic .. "/t", payload = "short", qos = 1, expire = 0.001 }))
		assert(client:publish({ topic = topic .. "/t", payload = "long", qos = 1, expire = 100 }))
		assert(client:publish({ topic = topic .. "/t", payload = "property", qos = 1,
			properties = { message_expiry_interval = 1 } }))
		local ready = harness.now() + 1.1
		harness.serve({ observer }, function()
			return harness.now() > ready
		end)
		assert(client:publish({ topic = topic .. "/t", payload = "last", qos = 1 }))
		harness.serve({ client, observer }, function()
			return payloads[2] and events[2]
		end)
		assert.same({ "long", "last" }, payloads)
		assert.equal(2, client:stats().dropped)
		assert.equal(2, #events)
		assert.equal("expired", events[1][2].reason)
	end)

	it("goes to the server that its own has moved to, in another process too", function()
		local servers = require("spec.support.server")
		local path, id = new_path(), "keeper-" .. core.random_hex(12)
		local asked = 0
		local old = servers.start(mqtt.v50, function(self)
			asked = asked + 1
			self:send({ type = packet.packet_type.CONNACK, sp = false, rc = 0x9D,
				properties = { server_reference = ("127.0.0.1:%d"):format(broker.port) } })
		end)
		local function new(uri)
			return keeper(path, { id = id, version = mqtt.v50, uri = uri or old.uri, follow_server_reference = true })
		end
		for _ = 1, 2 do
			local client = new()
			harness.serve({ client, old.serve }, function()
				return client.connection and client.connection.connack
			end)
			assert(client:disconnect())
			harness.cleanup()
			client = nil -- luacheck: ignore
			collectgarbage()
			collectgarbage()
		end
		assert.equal(1, asked)
		-- Another broker of the program's has not moved.
		local client = harness.connect(new(broker.uri))
		assert.equal(broker.port, client.connection.port)
		servers.stop_all()
	end)

	it("blames the caller for what is wrong with a message", function()
		local client = keeper(new_path(), { version = mqtt.v50 })
		local opts = { topic = "t", qos = 1 }
		assert.equal(true, client:publish(opts))
		opts.properties = { message_expiry_interval = "soon" }
		harness.blames_caller("expecting .properties.message_expiry_interval to be an integer from 0 to 4294967295, "
			.. "got: string", client.publish, client, opts)
		harness.blames_caller("expecting qos to be a valid QoS value", client.publish, client, { topic = "t", qos = 3 })
	end)

	it("takes a SUBSCRIBE without a connection", function()
		local client, granted = keeper(new_path()), nil
		assert(client:subscribe({ topic = harness.topic(), qos = 1, callback = function(suback)
			granted = suback.rc[1]
		end }))
		harness.serve({ client }, function()
			return granted == 1
		end)
	end)

	it("renews subscriptions of an earlier process that the broker has lost", function()
		local path, topic, id = new_path(), harness.topic(), "keeper-" .. core.random_hex(12)
		local function new(clean)
			return keeper(path, { id = id, clean = clean, resubscribe = true })
		end
		local client = harness.connect(new(false))
		harness.subscribe(client, topic .. "/a")
		harness.subscribe(client, topic .. "/b")
		local gone
		assert(client:unsubscribe({ topic = topic .. "/b", callback = function()
			gone = true
		end }))
		harness.serve({ client }, function()
			return gone
		end)
		client:disconnect()
		client = nil -- luacheck: ignore 311
		harness.cleanup()
		collectgarbage()
		collectgarbage()
		-- The broker forgets the session.
		harness.connect(harness.client({ id = id, clean = true })):disconnect()
		client = new(false)
		local received = {}
		client:on("message", function(message)
			received[#received + 1] = message.payload
		end)
		harness.connect(client)
		local sender = harness.connect(harness.client())
		local publish = { topic = topic .. "/a", payload = "p" }
		assert(sender:publish({ topic = topic .. "/b", payload = "not this" }))
		harness.serve({ client, sender }, function()
			assert(sender:publish(publish))
			return received[1]
		end)
		assert.equal("p", received[1])
	end)

	it("keeps messages of QoS 0 only if asked to", function()
		local topic = harness.topic()
		local without = keeper(new_path())
		assert.same({ false, "network connection is not opened" }, { without:publish({ topic = topic }) })
		local observer, payloads = witness(topic)
		local with = keeper({ path = new_path(), qos0 = true })
		assert.is_true(with:publish({ topic = topic .. "/t", payload = "0" }))
		assert.equal(1, with:stats().queued)
		harness.serve({ with, observer }, function()
			return payloads[1] == "0"
		end)
	end)

	it("is the only one on its store", function()
		local path = new_path()
		local client = keeper(path)
		assert.is_true(client:publish({ topic = "t", qos = 1 }))
		local ok, err = pcall(keeper, path)
		assert.is_false(ok)
		assert.matches("the store " .. path .. " cannot be opened: store: another client of this process uses it", err, 1,
			true)
		local output = child.run(PRELUDE, broker.uri, path, "other", 4, "t", "process")
		assert.matches("the store " .. path .. " cannot be opened: store: another process uses it", output, 1, true)
		client = nil -- luacheck: ignore 311
		harness.cleanup()
		collectgarbage()
		collectgarbage()
		keeper(path)
	end)

	it("says what is damaged, and goes on without it if asked to", function()
		local path = new_path()
		local client = keeper(path)
		for i = 1, 10 do
			assert(client:publish({ topic = "t", payload = "payload " .. i, qos = 1 }))
		end
		client = nil -- luacheck: ignore 311
		harness.cleanup()
		collectgarbage()
		collectgarbage()
		local file
		for name in lfs.dir(path) do
			file = name:find("%.mqtt$") and path .. "/" .. name or file
		end
		local handle = assert(io.open(file, "r+b"))
		local content = handle:read("*a")
		handle:seek("set", content:find("payload 5", 1, true) - 1)
		handle:write("P")
		handle:close()
		local ok, err = pcall(keeper, path)
		assert.is_false(ok)
		assert.matches("the store .+ cannot be opened: store: .+%.mqtt is damaged at offset %d+$", err)
		local recovered = keeper({ path = path, recover = "skip" })
		assert.equal(9, #list(recovered))
	end)

	for what, case in pairs({
		["without an identifier"] = { { id = false }, "expecting the option id with store" },
		["with a clean session"] = { { clean = true }, "expecting clean=false or clean='first' with store" },
		["of 5.0 without an expiry"] = { { version = mqtt.v50 }, "expecting properties.session_expiry_interval above 0" },
		["with an empty path"] = { { store = "" }, "expecting store.path to be the path of a directory" },
		["without a path"] = { { store = {} }, "expecting store.path to be the path of a directory" },
		["with a misspelt field"] = { { store = { path = "p", max_byte = 1 } }, "unexpected key in store: max_byte" },
		["with a wrong number"] = { { store = { path = "p", max_bytes = 0 } }, "expecting store.max_bytes to be" },
		["with a wrong word"] = { { store = { path = "p", sync = "disk" } },
			"expecting store.sync to be 'process' or 'power'" },
		["that is a number"] = { { store = 1 }, "expecting store to be a string or table" },
	}) do
		it("is refused " .. what, function()
			local opts = { uri = broker.uri, id = "keeper", clean = false, store = new_path() }
			for key, value in pairs(case[1]) do
				opts[key] = value or nil
			end
			local ok, err = pcall(mqtt.client, opts)
			assert.is_false(ok)
			assert.matches(case[2], err, 1, true)
		end)
	end
end)

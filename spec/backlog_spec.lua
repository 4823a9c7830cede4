-- Messages that wait for a connection, in memory or in a store: the fields expire, keep and rate of the options queue
-- and store, and the event dropped.

local core = require("mqtt.core")
local harness = require("spec.support.harness")
local lfs = require("lfs")
local mqtt = require("mqtt")
local servers = require("spec.support.server")

local packet_type = require("mqtt.protocol").packet_type

local LASTING = { session_expiry_interval = 600 }

local ways = { queue = true, store = core.link(4).keep_in and true or nil }

for way in pairs(ways) do
	for name, version in pairs({ ["3.1.1"] = mqtt.v311, ["5.0"] = mqtt.v50 }) do
		describe("messages that wait in a " .. way .. ", " .. name .. ",", function()
			local path, published, server

			before_each(function()
				path = os.tmpname()
				os.remove(path)
				published = {}
				server = servers.start(version, function(self, packet)
					if packet.type == packet_type.PUBLISH then
						published[#published + 1] = packet
						if packet.qos == 1 then
							self:send({ type = packet_type.PUBACK, packet_id = packet.packet_id, rc = 0 })
						end
					else
						servers.accept(self, packet)
					end
				end)
			end)

			after_each(function()
				harness.cleanup()
				servers.stop_all()
				collectgarbage()
				collectgarbage()
				if lfs.attributes(path) then
					for file in lfs.dir(path) do
						os.remove(path .. "/" .. file)
					end
					lfs.rmdir(path)
				end
			end)

			-- Makes a client with such a queue or store, and a list of what it tells in the event dropped: reason and
			-- topic, or tag.
			local function new(fields)
				fields.path = way == "store" and path or nil
				local client = harness.client({
					uri = server.uri, id = "waits", clean = false, version = version, [way] = fields,
					properties = version == mqtt.v50 and LASTING or nil,
				})
				local dropped = {}
				client:on("dropped", function(message, of)
					assert.equal(client, of)
					dropped[#dropped + 1] = message.reason .. " " .. (message.tag or message.topic)
				end)
				return client, dropped
			end

			local function publish(client, topic, payload, more)
				local opts = { topic = topic, payload = payload, qos = 1, tag = way == "store" and payload or nil }
				for key, value in pairs(more or {}) do
					opts[key] = value
				end
				return assert(client:publish(opts))
			end

			local function payloads()
				local list = {}
				for i, packet in ipairs(published) do
					list[i] = packet.payload
				end
				return table.concat(list, " ")
			end

			local function of(topic, tag)
				return way == "store" and tag or topic
			end

			it("give way to newer ones of their topics", function()
				local client, dropped = new({ keep = "latest" })
				local acknowledged = {}
				for i = 1, 9 do
					publish(client, "t/" .. i % 3, tostring(i), { callback = function()
						acknowledged[#acknowledged + 1] = i
					end })
				end
				publish(client, "other", "10")
				assert.equal(4, client:stats().queued)
				assert.equal(6, client:stats().dropped)
				assert.equal("replaced " .. of("t/1", "1"), dropped[1])
				assert.equal(6, #dropped)
				harness.serve({ client, server.serve }, function()
					return #published == 4 and #acknowledged == 3
				end)
				table.sort(acknowledged)
				assert.same({ 7, 8, 9 }, acknowledged)
				local seen = {}
				for _, packet in ipairs(published) do
					seen[packet.topic] = packet.payload
				end
				assert.same({ ["t/0"] = "9", ["t/1"] = "7", ["t/2"] = "8", other = "10" }, seen)
				assert.equal(0, client:stats().queued)
			end)

			it("take no more room than the newest ones, however many were replaced", function()
				local client = new({ keep = "latest", max_messages = 3 })
				for i = 1, 2000 do
					publish(client, "t/" .. i % 3, tostring(i))
				end
				local ok, err = client:publish({ topic = "another", qos = 1 })
				assert.is_false(ok)
				assert.matches("full", err)
				assert.equal(3, client:stats().queued)
				assert.equal(1997, client:stats().dropped)
				harness.serve({ client, server.serve }, function()
					return #published == 3
				end)
				local list = {}
				for _, packet in ipairs(published) do
					list[#list + 1] = packet.payload
				end
				table.sort(list)
				assert.equal("1998 1999 2000", table.concat(list, " "))
			end)

			it("are the newest ones in the next process, too", function()
				if way ~= "store" then
					return
				end
				local client = new({ keep = "latest" })
				for i = 1, 10 do
					publish(client, "t/" .. i % 2, tostring(i))
				end
				client = nil -- luacheck: ignore 311
				harness.cleanup()
				collectgarbage()
				collectgarbage()
				client = new({ keep = "latest" })
				local tags = {}
				for message in client:stored() do
					tags[#tags + 1] = message.tag
				end
				assert.same({ "9", "10" }, tags)
				assert.equal(2, client:stats().queued)
				publish(client, "t/1", "11")
				harness.serve({ client, server.serve }, function()
					return #published == 2
				end)
				assert.equal("10 11", payloads())
			end)

			it("do not give way as requests", function()
				if version ~= mqtt.v50 then
					return
				end
				local client, dropped = new({ keep = "latest" })
				for i = 1, 3 do
					publish(client, "service", tostring(i), { properties = { response_topic = "answer" } })
					-- Others make the store tidy up.
					for _ = 1, 20 do
						publish(client, "state", "s")
					end
				end
				harness.serve({ client, server.serve }, function()
					return #published == 4
				end)
				assert.equal("1 2 3", (payloads():gsub(" ?s ?", " "):gsub("^ +", ""):gsub(" +$", ""):gsub(" +", " ")))
				assert.equal(59, #dropped)
			end)

			it("are given up when they have waited for too long", function()
				local client, dropped = new({ expire = 0.05 })
				local called = false
				publish(client, "short", "1", { callback = function()
					called = true
				end })
				publish(client, "long", "2", { expire = 600 })
				local over = core.now() + 0.06
				harness.serve({ function() end }, function()
					return core.now() > over
				end)
				publish(client, "late", "3", { qos = 2, expire = 600 })
				harness.serve({ client, server.serve }, function()
					return #published >= 2 and #dropped == 1
				end)
				assert.equal("2 3", payloads())
				assert.same({ "expired " .. of("short", "1") }, dropped)
				assert.equal(1, client:stats().dropped)
				assert.is_false(called)
			end)

			it("make room in order, and are told", function()
				local client, dropped = new({ max_messages = 2, when_full = "drop_oldest" })
				for i = 1, 4 do
					publish(client, "t/" .. i, tostring(i))
				end
				assert.same({ "full " .. of("t/1", "1"), "full " .. of("t/2", "2") }, dropped)
				harness.serve({ client, server.serve }, function()
					return #published == 2
				end)
				assert.equal("3 4", payloads())
			end)

			it("are sent at the rate, and later ones behind them", function()
				local client = new({ rate = 200 })
				for i = 1, 40 do
					publish(client, "t", tostring(i))
				end
				local begun
				client:on("connect", function()
					begun = core.now()
					publish(client, "t", "41")
				end)
				harness.serve({ client, server.serve }, function()
					return #published == 41
				end)
				-- 41 messages at 200 a second; the first of them go at once.
				assert.is_true(core.now() - begun >= 0.19)
				for i = 1, 41 do
					assert.equal(tostring(i), published[i].payload)
				end
				-- The backlog is over: everything goes at once again.
				begun = core.now()
				for i = 1, 2000 do
					publish(client, "t", tostring(i))
				end
				harness.serve({ client, server.serve }, function()
					return #published == 2041
				end)
				assert.is_true(core.now() - begun < 8)
			end)

			it("count down their message expiry interval", function()
				if version ~= mqtt.v50 then
					return
				end
				local client, dropped = new({})
				publish(client, "one", "1", { properties = { message_expiry_interval = 1 } })
				publish(client, "many", "2", { properties = { message_expiry_interval = 100, content_type = "x" } })
				local over = core.now() + 1.1
				harness.serve({ function() end }, function()
					return core.now() > over
				end)
				harness.serve({ client, server.serve }, function()
					return #published == 1 and #dropped == 1
				end)
				assert.equal("2", payloads())
				assert.is_true(published[1].properties.message_expiry_interval < 100)
				assert.equal("x", published[1].properties.content_type)
				assert.same({ "expired " .. of("one", "1") }, dropped)
			end)

			it("may be published by the handler of dropped", function()
				local client = new({ max_messages = 2, when_full = "drop_oldest" })
				local again = 0
				client:on("dropped", function()
					again = again + 1
					if again < 5 then
						publish(client, "again", "again " .. again)
					end
				end)
				for i = 1, 3 do
					publish(client, "t", tostring(i))
				end
				assert.equal(5, again)
				assert.equal(2, client:stats().queued)
			end)

			it("stay where a handler of dropped raises", function()
				local client = new({ max_messages = 1, when_full = "drop_oldest" })
				client:on("dropped", function()
					error("no", 0)
				end)
				publish(client, "t", "1")
				local ok, err = pcall(publish, client, "t", "2")
				assert.is_false(ok)
				assert.equal("no", err)
				client:off("dropped", client.handlers.dropped[2])
				harness.serve({ client, server.serve }, function()
					return #published == 1
				end)
				assert.equal("2", payloads())
			end)
		end)
	end
end

describe("the fields of the options queue and store", function()
	after_each(harness.cleanup)

	for _, case in ipairs({
		{ "queue", "expire", 0, "expecting queue.expire to be a number of seconds above 0" },
		{ "queue", "expire", "1", "expecting queue.expire to be a number of seconds above 0" },
		{ "queue", "expire", math.huge, "expecting queue.expire to be a number of seconds above 0" },
		{ "queue", "keep", "newest", "expecting queue.keep to be 'latest'" },
		{ "queue", "rate", 0, "expecting queue.rate to be a whole number from 1 to 4294967295" },
		{ "queue", "rate", 1.5, "expecting queue.rate to be a whole number from 1 to 4294967295" },
		{ "queue", "kep", "latest", "unexpected key in queue: kep, did you mean keep?" },
		{ "store", "keep", true, "expecting store.keep to be 'latest'" },
		{ "store", "sync", "disk", "expecting store.sync to be 'process' or 'power'" },
		{ "store", "qos0", 1, "expecting store.qos0 to be a boolean" },
		{ "store", "rate", -1, "expecting store.rate to be a whole number from 1 to 4294967295" },
	}) do
		it(("%s.%s is not %s"):format(case[1], case[2], tostring(case[3])), function()
			local option = { [case[2]] = case[3] }
			harness.blames_caller(case[4], mqtt.client, {
				uri = "mqtt://localhost", clean = false, id = "checked", [case[1]] = option,
			})
		end)
	end

	it("a message's own expire is a number of seconds", function()
		local client = harness.client({ queue = {} })
		for _, value in ipairs({ 0, -1, "1", math.huge, false }) do
			harness.blames_caller("expecting opts.expire to be a number of seconds above 0", client.publish, client,
				{ topic = "t", expire = value })
		end
	end)
end)

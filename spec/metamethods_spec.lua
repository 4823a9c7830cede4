-- Tables of programs with metamethods that call the client they are given to: nothing of theirs runs while something is
-- locked, so nothing hangs. In processes of their own: a hang ends those.

local broker = require("spec.support.broker")
local child = require("spec.support.child")

local PRELUDE = ([==[
local mqtt = require("mqtt")
mqtt.log.set(false)

local function connected(opts)
	opts.uri, opts.clean, opts.version = opts.uri or %q, true, mqtt.v50
	local client = mqtt.client(opts)
	assert(client:start_connecting())
	while client.connection and not client.connection.connack do
		assert(client:_sync_iteration())
	end
	return client
end

-- What a metamethod does.
local actions = {
	publish = function(client)
		client:publish({ topic = "spec/metamethods", payload = "inside", qos = 1 })
	end,
	subscribe = function(client)
		client:subscribe({ topic = "spec/metamethods" })
	end,
	acknowledge = function(client)
		client:acknowledge({ type = 3, qos = 1, packet_id = 1 })
	end,
	step = function(client)
		client:step()
	end,
	stats = function(client)
		client:stats()
	end,
	close = function(client)
		client:close_connection()
	end,
	disconnect = function(client)
		client:disconnect()
	end,
	throw = function()
		error("thrown")
	end,
	yield = function()
		coroutine.yield()
	end,
}

local current
-- A table that has all of that done whenever it is asked for anything.
local function strange(fields)
	local depth = 0
	local function act(_, key)
		local action = current
		if action and depth == 0 then
			depth = 1
			local ok, err = pcall(action.run, action.client)
			depth = 0
			if not ok then
				error(err, 0)
			end
		end
		return key and fields[key]
	end
	return setmetatable({}, {
		__index = act,
		__len = function()
			act()
			return #fields
		end,
		__pairs = function()
			act()
			return next, fields
		end,
		__ipairs = function()
			act()
			return ipairs(fields)
		end,
	})
end

-- Where tables go in.
local places = {
	["publish"] = function(client)
		client:publish(strange({ topic = "a", payload = "b", qos = 1 }))
	end,
	["publish.properties"] = function(client)
		client:publish({ topic = "a", properties = strange({ message_expiry_interval = 5 }) })
	end,
	["publish.user_properties"] = function(client)
		client:publish({ topic = "a", user_properties = strange({ a = "b" }) })
	end,
	["publish.user_properties[1]"] = function(client)
		client:publish({ topic = "a", qos = 1, user_properties = { strange({ "a", "b" }) } })
	end,
	["subscribe"] = function(client)
		client:subscribe(strange({ topic = "a", qos = 1 }))
	end,
	["subscribe.user_properties[1]"] = function(client)
		client:subscribe({ topic = "a", user_properties = { strange({ "a", "b" }) } })
	end,
	["unsubscribe.user_properties[1]"] = function(client)
		client:unsubscribe({ topic = "a", user_properties = { strange({ "a", "b" }) } })
	end,
	["acknowledge"] = function(client)
		client:acknowledge({ type = 3, qos = 1, packet_id = 7 }, 0, strange({ reason_string = "x" }),
			{ strange({ "a", "b" }) })
	end,
	["auth"] = function(client)
		client:auth(0x19, strange({ reason_string = "x" }), { strange({ "a", "b" }) })
	end,
	["disconnect"] = function(client)
		client:disconnect(0, strange({ reason_string = "x" }), { strange({ "a", "b" }) })
	end,
	["connect"] = function(client)
		client:close_connection()
		client.opts.will = strange({ topic = "will", payload = "p", qos = 1, user_properties = { strange({ "a", "b" }) } })
		client.opts.user_properties = { strange({ "a", "b" }) }
		client.opts.properties = strange({ receive_maximum = 5 })
		client:start_connecting()
	end,
	["connect over WebSocket"] = function(client)
		client:close_connection()
		client.opts.uri = "ws://127.0.0.1:1"
		client.opts.ws_headers = strange({ a = "b" })
		client:start_connecting()
	end,
	["connect over TLS"] = function(client)
		client:close_connection()
		client.opts.uri = "mqtts://127.0.0.1:1"
		client.opts.secure = strange({ verify = "none" })
		client:start_connecting()
	end,
	["queue"] = function(client)
		client:close_connection()
		client.opts.queue = strange({ max_messages = 5 })
		client:start_connecting()
	end,
	["make_packet"] = function()
		require("mqtt.protocol5").make_packet({ type = 8, packet_id = 1, properties = strange({}),
			subscriptions = strange({ strange({ topic = "a" }) }), user_properties = { strange({ "a", "b" }) } })
	end,
}
]==]):format(broker.uri)

describe("a table with metamethods that call the client", function()
	for _, name in ipairs({ "publish", "subscribe", "acknowledge", "step", "stats", "close", "disconnect", "throw",
		"yield" }) do
		it("does not make it hang: " .. name, function()
			local output, status = child.run("%s", PRELUDE .. ([[
				for place, put in pairs(places) do
					local client = connected({})
					local thread = coroutine.create(function()
						current = { run = actions[%q], client = client }
						pcall(put, client)
						current = nil
					end)
					repeat
						assert(coroutine.resume(thread))
					until coroutine.status(thread) == "dead"
					current = nil
					-- It goes on as if nothing had been.
					client:close_connection()
					local again, answered = connected({}), false
					assert(again:publish({ topic = "a", qos = 1, callback = function()
						answered = true
					end }))
					while not answered do
						assert(again:_sync_iteration())
					end
					again:disconnect()
				end
				print("done")
			]]):format(name))
			assert.equal("done\n", output)
			assert.equal(0, status)
		end)
	end
end)

describe("a packet whose metatable has its fields", function()
	local protocol5 = require("mqtt.protocol5")

	local function inherits(fields)
		return setmetatable({}, { __index = fields })
	end

	it("is made of them", function()
		local subscription = { topic = "a", qos = 1, no_local = true }
		local plain = protocol5.make_packet({ type = 8, packet_id = 1, subscriptions = { subscription } })
		local packet = protocol5.make_packet(inherits({ type = 8, packet_id = 1,
			subscriptions = { inherits(subscription) } }))
		assert.equal(tostring(plain), tostring(packet))
	end)

	it("may have such a will", function()
		local will = { topic = "w", payload = "p", qos = 1, retain = true, properties = { will_delay_interval = 5 } }
		local plain = protocol5.make_packet({ type = 1, version = 5, id = "i", clean = true, keep_alive = 5, will = will })
		local packet = protocol5.make_packet({ type = 1, version = 5, id = "i", clean = true, keep_alive = 5,
			will = inherits(will) })
		assert.equal(tostring(plain), tostring(packet))
	end)
end)

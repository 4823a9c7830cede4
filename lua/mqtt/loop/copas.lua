--- Adds clients to Copas.
-- @module mqtt.loop.copas

local copas = require("copas")

local host = require("mqtt.host")
local log = require("mqtt.log")

local loop = {}

-- How many packets of a client wait for their threads at most, before the next one is looked at.
local BACKLOG = 4

-- For each client in Copas the thread that serves it, the method of its own that was replaced, how its packets are
-- handled, and how many of them wait.
local registry = setmetatable({}, { __mode = "k" })

-- The packets of all clients that wait, and whose they are: a queue from first to last.
local packets, owners, first, last = {}, {}, 1, 0

-- Copas 1.x knows no pause, and starts a thread within the one that adds it.
local can_pause = copas.pause ~= nil

-- What each thread does that handles a packet. It takes the oldest: threads may not get their turns in the order in
-- which they were added.
local function handle_next()
	while can_pause and host.is_turn_over() do
		host.give_way()
	end
	local packet, record = packets[first], owners[first]
	packets[first], owners[first] = nil, nil
	first = first + 1
	record.backlog = record.backlog - 1
	record.handle(record.client, packet)
end

local function leave(client)
	client.handle_received_packet = registry[client].replaced
	registry[client] = nil
end

--- Adds a client to Copas; it leaves by itself when it has ended.
-- Each received packet is handled in a thread of its own, started in order of arrival. So a handler may yield, even
-- until a message of its own is acknowledged, while the client goes on receiving. All clients together let other
-- threads run every few milliseconds. Other handlers are called in the thread that serves the client: an error that one
-- of them raises ends it, and the client may be added again.
-- @tparam Client client the client
-- @return `true`, or `false` and an error message
function loop.add(client)
	local record = registry[client]
	if record and record.thread and coroutine.status(record.thread) == "dead" then
		leave(client)
	elseif record then
		log:warn("[LuaMQTT] client '%s' was already added to Copas", client.opts.id)
		return false, "MQTT client was already added to Copas"
	end
	record = {
		client = client,
		replaced = rawget(client, "handle_received_packet"),
		handle = client.handle_received_packet,
		backlog = 0,
	}
	registry[client] = record

	function client:handle_received_packet(packet) -- luacheck: ignore 212
		last = last + 1
		packets[last], owners[last] = packet, record
		record.backlog = record.backlog + 1
		copas.addthread(handle_next)
		return true
	end

	record.thread = copas.addthread(function()
		local wait
		repeat
			wait = client:step()
			local gives_way = host.is_turn_over()
			while gives_way or record.backlog >= BACKLOG do
				host.give_way(client._link)
				gives_way = false
			end
			if wait == -1 then
				client:_pause()
			elseif wait and wait > 0 then
				client:_wait(wait)
			end
		until not wait
		leave(client)
	end)
	return true
end

return setmetatable(loop, {
	__call = function(_, client)
		return loop.add(client)
	end,
})

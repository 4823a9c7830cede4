--- Adds clients to Copas.
-- @module mqtt.loop.copas

local copas = require("copas")

local log = require("mqtt.log")

local loop = {}

-- For each client in Copas the thread that serves it, and the method of its own that was replaced.
local registry = setmetatable({}, { __mode = "k" })

local function leave(client)
	client.handle_received_packet = registry[client].replaced
	registry[client] = nil
end

--- Adds a client to Copas; it leaves by itself when it has ended.
-- Each received packet is handled in a thread of its own, started in order of arrival. So a handler may yield, even
-- until a message of its own is acknowledged, while the client goes on receiving. Other handlers are called in the
-- thread that serves the client: an error that one of them raises ends it, and the client may be added again.
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
	record = { replaced = rawget(client, "handle_received_packet") }
	registry[client] = record

	local handle_received_packet = client.handle_received_packet
	function client:handle_received_packet(packet)
		-- Copas 1.x would put an argument of its own before those given to it.
		copas.addthread(function()
			handle_received_packet(self, packet)
		end)
		return true
	end

	record.thread = copas.addthread(function()
		local wait
		repeat
			wait = client:step()
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

--- What the client does with accepted messages that it gives up, as the options `queue` and `store` say: their
-- callbacks are not called, and the program is told by the event dropped.
-- Internal to `mqtt.client`. Loaded when a message is given up.

local log = require("mqtt.log")
local protect = require("mqtt.protect")
local requests = require("mqtt.client.requests")

local ipairs = ipairs
local raise, try = protect.raise, protect.try

-- Why a message is given up, in words.
local REASONS = {
	full = "it had to make room in the queue",
	expired = "it has waited for longer than it may",
	replaced = "a newer message of its topic has taken its place",
}

--- Messages that were never sent are given up.
-- @tparam Client client the client
-- @tparam table dropped a list of tables with `packet_id` or `sequence`, `topic`, `qos`, `tag` and `reason`
return function(client, dropped)
	local failure
	for _, message in ipairs(dropped) do
		local reason = REASONS[message.reason]
		if message.packet_id then
			failure = try(failure, requests.forget, client, message.packet_id, reason)
		elseif message.sequence then
			client._kept[message.sequence], message.sequence = nil, nil
		end
		log:debug("[LuaMQTT] client '%s' drops a message for %s: %s", client.opts.id, message.topic, reason)
		failure = try(failure, client.handle, client, "dropped", message, client)
	end
	raise(failure)
end

--- Takes the events of a client's link, and gives names to their values. This file alone knows in which order
-- `mqtt.core` gives the values of an event; `mqtt.client.incoming` has a copy for messages and their acknowledgements,
-- which are most of the events.
-- Internal.

local core = require("mqtt.core")
local packet = require("mqtt.packet")

local core_pop, core_step, BUILDS_MESSAGES = core.pop, core.step, core.builds_messages
local shape, PUBLISH = packet.shape, packet.types.PUBLISH
local setmetatable, type = setmetatable, type

local events = {}

-- Returns the kind of an event, and its values:
-- - the packet type, and the packet;
-- - "opened", "closed" or "woken";
-- - "open_failed", "failed", "broken" or "unrenewed", and a message that says why;
-- - "dropped", the packet identifier, and a message;
-- - "discarded", and the message, see `mqtt.client.dropped`;
-- - "identified", the packet identifier, and a table with `sequence` and `tag`: a kept message is being sent;
-- - "unacknowledged", and how many messages are;
-- - "withdrawn", the packet identifier, and the correlation data.
local function name(client, kind, first, second, third, fourth, fifth, sixth, seventh, eighth, ninth)
	if kind == PUBLISH and BUILDS_MESSAGES then
		return kind, first
	elseif kind == nil or type(kind) == "string" then
		return kind, first, second
	end
	local pck = shape(client._version, kind, first, second, third, fourth, fifth, sixth, seventh, eighth, ninth)
	if kind == PUBLISH then
		setmetatable(pck, client._session_mt)
	end
	return kind, pck
end

events.name = name

--- Takes the next event at hand.
-- @tparam Client client the client
-- @return its kind and its values, see above; or nil
function events.pop(client)
	return name(client, core_pop(client._handle, client._session_mt))
end

--- Likewise. If there is no event, reads arrived bytes and writes bytes to be sent, without blocking.
-- @tparam Client client the client
-- @return as above
function events.step(client)
	return name(client, core_step(client._handle, client._session_mt))
end

return events

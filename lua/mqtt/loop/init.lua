--- Adds clients to the event loop that the program uses.
-- The event loop is chosen when the first client is added, so Copas may be loaded before or after this module.
-- @module mqtt.loop
-- @usage
-- local add_client = require("mqtt.loop").add
-- add_client(client)

local detect = require("mqtt.loop.detect")
local expect = require("mqtt.loop.expect")

local require, setmetatable = require, setmetatable

local loop = {}

--- Adds a client to the event loop in use: `mqtt.loop.copas`, `mqtt.loop.nginx` or `mqtt.loop.ioloop`.
-- The module table can also be called for the same.
-- @tparam Client client the client
-- @return `true`, or `false` and an error message
function loop.add(client)
	expect.client(client)
	return require("mqtt.loop." .. detect()).add(client)
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

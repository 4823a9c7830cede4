--- Adds clients to the default `mqtt.ioloop`.
-- @module mqtt.loop.ioloop

local expect = require("mqtt.loop.expect")
local ioloop = require("mqtt.ioloop")

local setmetatable = setmetatable

local loop = {}

--- Adds a client to the default ioloop; it leaves by itself when it has ended.
-- @tparam Client client the client
-- @return `true`, or `false` and an error message
function loop.add(client)
	expect.client(client)
	return ioloop.get():add(client)
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

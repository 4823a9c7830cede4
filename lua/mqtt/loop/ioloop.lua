--- Adds clients and timers to the default `mqtt.ioloop`.
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

--- Adds a timer to the default ioloop. See `Ioloop:every`.
-- @tparam number seconds the time from one call to the next
-- @tparam function func the function
-- @treturn Timer the timer
function loop.every(seconds, func)
	expect.timer(seconds, func)
	return ioloop.get():every(seconds, func)
end

--- Adds a timer to the default ioloop. See `Ioloop:after`.
-- @tparam number seconds the time until the call
-- @tparam function func the function
-- @treturn Timer the timer
function loop.after(seconds, func)
	expect.timer(seconds, func)
	return ioloop.get():after(seconds, func)
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

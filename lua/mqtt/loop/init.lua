--- Adds clients and timers to the event loop that the program uses.
-- The event loop is chosen by each call, so Copas may be loaded before or after this module.
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

--- Has a function called again and again, the first time after the given seconds, until it returns `false` or the timer
-- is cancelled. The next call is made only after the last one has returned. In Copas and nginx the function may wait.
-- An error that it raises goes where the errors of handlers go, and the timer goes on.
-- @tparam number seconds the time from one call to the next
-- @tparam function func the function
-- @return the timer, see `Timer:cancel`; or `false` and an error message: nginx has no timer left
function loop.every(seconds, func)
	expect.timer(seconds, func)
	return require("mqtt.loop." .. detect()).every(seconds, func)
end

--- Has a function called once, after the given seconds.
-- @tparam number seconds the time until the call
-- @tparam function func the function
-- @return the timer, see `Timer:cancel`; or `false` and an error message: nginx has no timer left
function loop.after(seconds, func)
	expect.timer(seconds, func)
	return require("mqtt.loop." .. detect()).after(seconds, func)
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

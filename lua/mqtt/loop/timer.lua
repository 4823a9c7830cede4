--- What `every` and `after` of loops return: a function that a loop calls after some time.
-- @classmod Timer

local core = require("mqtt.core")
local expect = require("mqtt.loop.expect")

local setmetatable = setmetatable
local math_max = math.max
local now = core.now

local Timer = {}
Timer.__index = Timer

local timers = {}

-- The methods beginning with `_` are for the loops, which wait, and call `_advance` and `_run` when it is time.

--- Makes a timer. Internal.
-- @tparam number seconds the time until the first call
-- @tparam function func the function to call
-- @tparam ?number period the time from one call to the next; nil for a single call
function timers.new(seconds, func, period)
	return setmetatable({
		_func = func,
		_period = period,
		-- When to call next; a false value when there is no other call.
		_due = now() + seconds,
		_is_over = false,
		-- Set by the loop: tells it that the timer has been cancelled.
		_stop = nil,
	}, Timer)
end

-- Returns the seconds until the next call, or false if there is none.
function Timer:_left()
	return not self._is_over and self._due and math_max(self._due - now(), 0) or false
end

-- Sets the time of the next call. Missed calls are not made up for.
function Timer:_advance()
	local period, time = self._period, now()
	local due = period and self._due + period
	self._due = due and (due > time and due or time + period)
end

-- Calls the function.
function Timer:_run()
	if not self._is_over and expect.is_end(self._func()) then
		self:cancel()
	end
end

--- Ends the timer: its function is not called again. A timer may be cancelled at any time, also by its own function,
-- and more than once.
-- @usage
-- local heartbeat = loop:every(5, function()
-- 	client:publish { topic = "heartbeat" }
-- end)
-- client:on("shutdown", function() heartbeat:cancel() end)
function Timer:cancel()
	local stop = self._stop
	self._is_over, self._stop = true, nil
	if stop then
		stop()
	end
end

return timers

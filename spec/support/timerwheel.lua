--- Stands in for the rock `timerwheel`, which Debian does not package: the part that Copas 4 calls, as a plain list.
-- Nothing but the tests may use it.
local Wheel = {}
Wheel.__index = Wheel

--- Adds a timer.
-- @tparam number delay seconds from now
-- @tparam function callback called once, with `argument`, by the first `step` after that
-- @param argument anything
-- @return what `cancel` takes
function Wheel:set(delay, callback, argument)
	local timer = { due = self.now() + delay, callback = callback, argument = argument }
	self.timers[timer] = true
	self.amount = self.amount + 1
	return timer
end

--- Removes a timer.
-- @param timer what `set` returned
-- @treturn boolean whether it was still there
function Wheel:cancel(timer)
	local found = self.timers[timer] ~= nil
	if found then
		self.timers[timer] = nil
		self.amount = self.amount - 1
	end
	return found
end

--- Counts the timers.
-- @treturn number those neither called nor cancelled
function Wheel:count()
	return self.amount
end

--- Calls the timers that are due, the earliest first. A timer set by a callback waits for the next step.
function Wheel:step()
	local now, due = self.now(), {}
	for timer in pairs(self.timers) do
		if timer.due <= now then
			due[#due + 1] = timer
		end
	end
	table.sort(due, function(a, b)
		return a.due < b.due
	end)
	for _, timer in ipairs(due) do
		-- an earlier callback may have cancelled it
		if self:cancel(timer) then
			xpcall(function()
				timer.callback(timer.argument)
			end, self.err_handler)
		end
	end
end

return {
	--- Makes a wheel.
	-- @tparam table options `now`, a clock in seconds, and `err_handler`, called with the error of a callback
	-- @return the wheel
	new = function(options)
		return setmetatable({ now = options.now, err_handler = options.err_handler, timers = {}, amount = 0 }, Wheel)
	end,
}

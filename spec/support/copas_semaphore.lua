--- Stands in for `copas.semaphore`, which Debian's Copas 4 needs but comes without: the part that Copas itself calls
-- for its exit signal, a semaphore that starts empty and that nobody gives to. Nothing but the tests may use it.
local copas = require("copas")

local Semaphore = {}
Semaphore.__index = Semaphore

--- Waits until the semaphore is destroyed.
-- @return nil
-- @treturn string `"destroyed"`
function Semaphore:take()
	if not self.destroyed then
		self.waiting[#self.waiting + 1] = coroutine.running()
		copas.pauseforever()
	end
	return nil, "destroyed"
end

--- Wakes all who wait.
-- @treturn boolean true
function Semaphore:destroy()
	self.destroyed = true
	for _, thread in ipairs(self.waiting) do
		copas.wakeup(thread)
	end
	self.waiting = {}
	return true
end

return {
	--- Makes an empty semaphore.
	-- @return the semaphore
	new = function()
		return setmetatable({ waiting = {} }, Semaphore)
	end,
}

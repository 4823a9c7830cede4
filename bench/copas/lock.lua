-- Stands in for `copas.lock`, which the original's connector needs and Debian's Copas 4 comes without.

local copas = require("copas")

local Lock = {}
Lock.__index = Lock

function Lock:get()
	while self.is_held do
		copas.pause(0)
	end
	self.is_held = true
	return 0
end

function Lock:release()
	self.is_held = false
	return true
end

function Lock.destroy()
	return true
end

return {
	new = function()
		return setmetatable({ is_held = false }, Lock)
	end,
}

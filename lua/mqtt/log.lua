-- The logger that the other modules write to.

--- LuaLogging's default logger when the program has loaded LuaLogging before, else one that discards everything.
-- @module mqtt.log
local tostring, type = tostring, type

local logging = package.loaded.logging
if type(logging) == "table" and type(logging.defaultLogger) == "function"
	and tostring(logging._VERSION):find("LuaLogging", 1, true) then
	return logging.defaultLogger()
end

local function discard() end

return setmetatable({}, {
	-- Whatever method is asked for exists, and is found without this function from then on.
	__index = function(logger, method)
		logger[method] = discard
		return discard
	end,
})

--- Finds out which event loop the program uses.
-- @module mqtt.loop.detect

local host = require("mqtt.host")

local loaded = package.loaded

--- Called for each use, so the answer may change as the program loads its event loop.
-- @treturn string `"nginx"` inside OpenResty, `"copas"` once Copas has been loaded, else `"ioloop"`
return function()
	if host.openresty() then
		return "nginx"
	elseif loaded.copas then
		return "copas"
	end
	return "ioloop"
end

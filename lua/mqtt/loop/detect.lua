--- Finds out which event loop the program uses.
-- @module mqtt.loop.detect

--- Called for each use, so the answer may change as the program loads its event loop.
-- @treturn string `"nginx"` inside OpenResty, `"copas"` once Copas has been loaded, else `"ioloop"`
return function()
	if type(rawget(_G, "ngx")) == "table" then
		return "nginx"
	elseif package.loaded.copas then
		return "copas"
	end
	return "ioloop"
end

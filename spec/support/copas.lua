--- Loads one Copas or the other: Debian's ancient 1.x, which Lua 5.1, 5.2 and LuaJIT have, and the 4.x that
-- `scripts/copas` puts into `build/copas`. Nothing but the tests may use it.
local M = {}

local path = package.path

--- Takes Copas, what it brings along and what holds on to it, out of `package.loaded`.
function M.unload()
	package.path = path
	for _, name in ipairs({ "copas", "copas.semaphore", "binaryheap", "timerwheel", "mqtt.loop.copas" }) do
		package.loaded[name] = nil
	end
end

--- Loads a Copas afresh.
-- @tparam number version 1 or 4
-- @return the module, or nil
-- @treturn ?string why this Lua has none
function M.load(version)
	M.unload()
	if version == 4 then
		package.path = "build/copas/?.lua;" .. path
	end
	local found, copas = pcall(require, "copas")
	local name = found and copas._VERSION or copas
	if not found or not name:find("Copas " .. version, 1, true) then
		M.unload()
		return nil, ("no Copas %d for this Lua: %s"):format(version, name:match("[^\n]*"))
	end
	return copas
end

--- Loads a Copas afresh, and collects the errors that end its threads; Copas 1.x only prints them.
-- @tparam number version 1 or 4
-- @return the module, or nil
-- @treturn ?string why this Lua has none
-- @treturn table errors, as they come
function M.load_watched(version)
	local copas, missing = M.load(version)
	local errors = {}
	if copas and version == 4 then
		copas.seterrorhandler(function(err)
			errors[#errors + 1] = err
		end, true)
	end
	return copas, missing, errors
end

return M

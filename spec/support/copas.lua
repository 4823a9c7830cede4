--- Loads one Copas or the other: Debian's ancient 1.x, which Lua 5.1, 5.2 and LuaJIT have, and the 4.x that
-- `scripts/copas` puts into `build/copas`. Nothing but the tests may use it.
local M = {}

local path = package.path

--- Takes Copas, and what it brings along, out of `package.loaded`.
function M.unload()
	package.path = path
	for _, name in ipairs({ "copas", "copas.semaphore", "binaryheap", "timerwheel" }) do
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

return M

--- Loads one Copas or the other: Debian's ancient 1.x, which Lua 5.1, 5.2 and LuaJIT have, and the 4.x that
-- `scripts/copas` fetches. Nothing but the tests may use it.
local M = {}

-- The modules of Copas 4 by file, and what else a Copas loads.
local files = {
	["copas"] = "build/copas/copas.lua",
	["binaryheap"] = "build/copas/binaryheap.lua",
	["timerwheel"] = "spec/support/timerwheel.lua",
	["copas.semaphore"] = "spec/support/copas_semaphore.lua",
}

--- Takes Copas, and what it brings along, out of `package.loaded`.
function M.unload()
	for name in pairs(files) do
		package.loaded[name], package.preload[name] = nil, nil
	end
end

--- Loads a Copas afresh.
-- @tparam number version 1 or 4
-- @return the module, or nil
-- @treturn ?string why this Lua has none
function M.load(version)
	M.unload()
	if version == 4 then
		for name, file in pairs(files) do
			package.preload[name] = loadfile(file)
		end
		if not package.preload.copas then
			return nil, "Copas 4 is not there; `scripts/copas build/copas` fetches it"
		end
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

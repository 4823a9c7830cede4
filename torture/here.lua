--- The capabilities of this Lua: whether it has Copas, and so the usable hosts of `torture.hosts`.

-- A newer Copas is there, for the Luas whose Debian package is too old or missing.
package.path = "build/copas/?.lua;" .. package.path

local found, copas = pcall(require, "copas")
copas = found and type(copas) == "table" and copas or nil
-- The library looks for Copas there. The programs that want Copas load it.
package.loaded.copas = nil

local names = { "ioloop", "ioloop", "luasocket", "stepped" }
if copas and copas.pauseforever then
	names[#names + 1] = "copas"
	names[#names + 1] = "copas_connector"
end

return {
	--- Copas, or nil.
	copas = copas,
	--- The names of the hosts, some of them more than once.
	hosts = names,
}

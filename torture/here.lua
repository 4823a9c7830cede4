--- What this Lua has: Copas, and so which hosts of `torture.hosts` there are.

-- A newer Copas has been put there, for the Luas whose Debian package is too old or missing.
package.path = "build/copas/?.lua;" .. package.path

local found, copas = pcall(require, "copas")
copas = found and type(copas) == "table" and copas or nil
-- The library looks there: it is loaded for the programs that want it.
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

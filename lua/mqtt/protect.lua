--- Calls functions of the program, any of which may raise an error.
-- Internal. An error keeps no other function from being called: when all have been called, the first error is raised.

local coroutine_running = coroutine.running
local error, pcall, type = error, pcall, type
local loaded = package.loaded

local protect = {}

-- Calls a function as `pcall` does, and lets it yield.
local protected = pcall

-- In Lua 5.1 nothing yields through `pcall`. Copas brings a `pcall` there that lets its threads yield. In a coroutine
-- of anybody else nothing is protected: an error is raised at once.
if _VERSION == "Lua 5.1" and not loaded.jit then
	function protected(func, ...)
		if not coroutine_running() then
			return pcall(func, ...)
		end
		local coxpcall = loaded.coxpcall
		if type(coxpcall) == "table" then
			return coxpcall.pcall(func, ...)
		end
		return true, func(...)
	end
end

--- Calls a function as `pcall` does, where that lets it yield; in Lua 5.1, in a coroutine of anybody but Copas, it just
-- calls it.
-- @function protect.call
protect.call = protected

--- Calls a function.
-- @tparam ?table failure the first error of earlier calls, as this function returned it
-- @tparam function func the function
-- @param ... its arguments
-- @treturn ?table the first error, for `raise`; nil if there is none
-- @return what the function returned first, unless it has raised an error
function protect.try(failure, func, ...)
	local ok, result = protected(func, ...)
	if ok then
		return failure, result
	end
	return failure or { result }
end
local try = protect.try

--- Raises the first error, if there is one.
-- @tparam ?table failure what `try` returned
function protect.raise(failure)
	if failure then
		error(failure[1], 0)
	end
end
local raise = protect.raise

--- Calls each function of a list, those too that are added to it meanwhile, and then perhaps a last one, all with the
-- same arguments. Then raises the first error. The function that is called last, mostly the only one, is not protected:
-- its error keeps its traceback.
-- @tparam table list the functions
-- @tparam number first where in the list to begin
-- @tparam ?function last one more
-- @param ... the arguments
function protect.call_all(list, first, last, ...)
	local failure
	local i, func = first, list[first]
	while func do
		if failure or last or list[i + 1] then
			failure = try(failure, func, ...)
		else
			func(...)
		end
		i = i + 1
		func = list[i]
	end
	if last then
		if failure then
			failure = try(failure, last, ...)
		else
			last(...)
		end
	end
	raise(failure)
end

return protect

--- Calls functions of the program, which may raise errors.
-- Internal. After an error the other functions are still called; then the first error is raised.

local coroutine_running = coroutine.running
local error, pcall, type = error, pcall, type
local loaded = package.loaded

local protect = {}

-- Calls a function as `pcall` does, and lets the function yield.
local protected = pcall

-- In Lua 5.1 no function can yield through `pcall`. Copas brings a `pcall` that lets its threads yield. In other
-- coroutines functions are not protected, so that they can yield: an error is raised at once.
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

--- Calls a function as `pcall` does, and lets the function yield. In Lua 5.1, in a coroutine that is not Copas', the
-- function is not protected.
-- @function protect.call
protect.call = protected

--- Calls a function.
-- @tparam ?table failure the first error of earlier calls, a result of this function
-- @tparam function func the function
-- @param ... its arguments
-- @treturn ?table the first error, for `raise`; nil if there is none
-- @return the function's first result, unless the function has raised an error
function protect.try(failure, func, ...)
	local ok, result = protected(func, ...)
	if ok then
		return failure, result
	end
	return failure or { result }
end
local try = protect.try

--- Raises the first error, if there is one.
-- @tparam ?table failure the result of `try`
function protect.raise(failure)
	if failure then
		error(failure[1], 0)
	end
end
local raise = protect.raise

--- Calls each function of a list, also functions that are added to the list meanwhile, and then perhaps a last
-- function, all with the same arguments. Then raises the first error. If no function has failed before it, the function
-- that is called last is not protected, so that its error keeps its traceback; mostly it is the only function.
-- @tparam table list the functions
-- @tparam number first the index in the list to begin with
-- @tparam ?function last a function to call after the list
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

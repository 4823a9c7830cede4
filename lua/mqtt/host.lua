--- Waits for a link without blocking the program that the client lives in.
-- Internal: programs use `Client:step` and `Client:getfd`.

local core = require("mqtt.core")
local protected = require("mqtt.protect").call

local globals, loaded = _G, package.loaded
local assert, each, error, ipairs, next, pcall, rawget = assert, pairs, error, ipairs, next, pcall, rawget
local require, select, setmetatable, type, xpcall = require, select, setmetatable, type, xpcall
local math_huge = math.huge
local coroutine_resume, coroutine_running = coroutine.resume, coroutine.running
local coroutine_status, coroutine_yield = coroutine.status, coroutine.yield
local isyieldable = coroutine.isyieldable
local table_remove = table.remove
local now, running_thread = core.now, core.running
-- Not the global variable: the program may have replaced it.
local debug = loaded.debug or {}
local getinfo, getlocal, getupvalue, traceback = debug.getinfo, debug.getlocal, debug.getupvalue, debug.traceback

local host = {}

-- How long all clients together may keep Copas from its other threads: the length of their turn, in seconds.
local TURN = 0.001
-- How many times a client that has something to do lets Copas go on without it because the turn is over.
local PATIENCE = 50

-- How soon a function is called again that has raised an error, or has not returned, in seconds.
local RETRY_PAUSE = 1
-- How long the clients of an exiting worker stay for its last requests, and how long at most while requests wait for
-- answers, in seconds.
local LINGER, LONGEST_LINGER, LINGER_PAUSE = 0.25, 5, 0.05
-- How long after the loss of its connection a client of nginx connects again at the earliest, in seconds. A worker that
-- a reload has started may have taken the client identifier over. The old worker is told to exit 0.1 s later.
local RELOAD_PAUSE = 0.5
-- How long a timer of nginx is pending whose only job is to notice that the worker exits, in seconds.
local WATCH_TIME = 24 * 60 * 60

-- When the clients' turn began: set by the first client that Copas resumed after all clients had yielded.
local turn = 0

-- Notes that a thread has been resumed. It had yielded in the given turn.
local function resumed(before)
	if turn == before then
		turn = now()
	end
end

--- Whether the threads of clients have kept Copas from its other threads for so long that they should give way.
-- @treturn boolean
function host.is_turn_over()
	return now() - turn > TURN
end

-- A socket, as Copas sees it. Its descriptor is the link's. There is something to read when the descriptor is readable
-- and it is the link's turn. Copas asks before it waits, and whenever the descriptor is readable. When a thread ends,
-- Copas closes its connection, hence `close`.
local Readable = {}
Readable.__index = Readable

function Readable:getfd()
	return self.fd
end

function Readable.dirty()
	return false
end

function Readable.settimeout() end
function Readable.close() end

function Readable:receive()
	resumed(self.turn)
	self.turn = turn
	local is_new = self.is_new
	self.is_new = false
	if is_new and (self.gives_way or not self.link:has_events()) then
		return nil, "timeout"
	elseif self.patience > 0 and host.is_turn_over() then
		self.patience = self.patience - 1
		return nil, "timeout"
	end
	return true
end

-- Waits for news of a link under Copas. With `gives_way` other threads have their turn first in any case.
local function receive(copas, link, gives_way)
	local readable = {
		link = link,
		fd = assert(link:getfd()),
		is_new = true,
		gives_way = gives_way,
		patience = PATIENCE,
	}
	copas.receive(setmetatable(readable, Readable), 1)
end

-- Waits for some time in a thread of Copas 4.
local function pause(copas, seconds)
	local before = turn
	copas.pause(seconds)
	resumed(before)
end

--- Waits in a thread of Copas 4 until the thread is woken.
function host.pause_forever()
	local before = turn
	loaded.copas.pauseforever()
	resumed(before)
end

-- Returns the coroutine that the caller runs in, or nil.
local function this_coroutine()
	local thread, is_main = coroutine_running()
	return not is_main and thread or nil
end

-- The main thread, or nil if it is not known: Lua 5.1 tells it only to C that the main thread calls.
local main_thread = not this_coroutine() and running_thread() or nil
if not main_thread and _VERSION ~= "Lua 5.1" and debug.getregistry then
	local registry = debug.getregistry()
	-- LUA_RIDX_MAINTHREAD: 1 in Lua 5.2 to 5.4, 3 in 5.5.
	main_thread = type(registry[1]) == "thread" and registry[1] or registry[3]
end

--- Returns the thread that the caller runs in, or nil in the main thread. A function that coxpcall calls runs in a
-- thread of its own, which yields for its caller's thread: this function returns the caller's thread.
function host.this_thread()
	local thread = this_coroutine()
	if not thread then
		main_thread = main_thread or running_thread()
		return nil
	end
	local coxpcall = loaded.coxpcall
	if type(coxpcall) == "table" and type(coxpcall.running) == "function" then
		return coxpcall.running(thread)
	end
	return thread
end

local this_thread = host.this_thread

-- The source of a Copas module's functions, as the debug library names it.
local sources = setmetatable({}, { __mode = "k" })

local function source_of(copas)
	local source = sources[copas]
	if not source then
		local counts = {}
		for _, value in each(copas) do
			if type(value) == "function" then
				local from = getinfo(value, "S").source
				counts[from] = (counts[from] or 0) + 1
				-- The program may have replaced some functions.
				if not source or counts[from] > counts[source] then
					source = from
				end
			end
		end
		sources[copas] = source
	end
	return source
end

-- Returns the thread that a thread has resumed: on top of the latter's stack is `coroutine.resume`, or a function of
-- `coroutine.wrap`. Or nil, and whether there is something on the stack.
local function child_of(thread)
	local top = getinfo(thread, 0, "f")
	if not top then
		return nil, false
	end
	local _, child = getlocal(thread, 0, 1)
	if type(child) ~= "thread" then
		_, child = getupvalue(top.func, 1)
	end
	return type(child) == "thread" and child or nil, true
end

-- How far below `coroutine.resume`, which the program may have wrapped, to look for the function of Copas that resumes
-- threads.
local NEAR = 4

-- Whether Copas has resumed a thread: in the parent thread, a function of Copas did it, and the child is its first
-- argument.
local function has_resumed(source, parent, child)
	for level = 1, NEAR do
		local info = getinfo(parent, level, "S")
		if not info then
			return false
		elseif info.source == source and select(2, getlocal(parent, level, 1)) == child then
			return true
		end
	end
	return false
end

-- Whether Copas runs a thread, the running one. Copas does not tell. This follows the threads from the main thread on,
-- and looks who has resumed each. It cannot see a thread that a program in C has resumed, nor into `coroutine.wrap` of
-- Lua 5.1, and it needs the debug library.
local function is_run_by(copas, thread)
	local parent, is_below_copas = main_thread, false
	while getinfo and parent do
		local child, is_hidden = child_of(parent)
		if not child and is_hidden then
			-- Below a thread of Copas, a hidden thread does not count as run by Copas; nor elsewhere, if Copas may be
			-- idle.
			return not is_below_copas and copas.running == true
		elseif not child then
			break
		end
		local is_by_copas = has_resumed(source_of(copas), parent, child)
		if child == thread then
			return is_by_copas
		end
		is_below_copas = is_below_copas or is_by_copas
		parent = child
	end
	-- Copas 1.x does not tell whether it is running.
	return copas.running ~= false
end

-- Threads that only Copas runs.
local known = setmetatable({}, { __mode = "k" })

--- Notes that Copas runs a thread, so that `host` need not find out each time.
-- @tparam thread thread made by Copas, for a function that only Copas calls
function host.know(thread)
	known[thread] = true
end

-- Returns Copas and the running thread, if this is a thread of Copas and so may yield to Copas.
local function copas_around()
	local copas = loaded.copas
	if type(copas) == "table" then
		local thread = this_thread()
		if thread and (known[thread] or is_run_by(copas, thread)) then
			return copas, thread
		end
	end
end

-- Two tables of each Copas: the threads to drop when their turn comes, and all threads that Copas has been given and
-- not dropped. No function of Copas tells them.
local removed_threads = setmetatable({}, { __mode = "k" })
local registered_threads = setmetatable({}, { __mode = "k" })

-- Looks for a table that a function of Copas uses. Returns an empty table if it is not found.
local function table_of(copas, wanted)
	for i = 1, getupvalue and copas.removethread and math_huge or 0 do
		local name, value = getupvalue(copas.removethread, i)
		if not name then
			break
		elseif name == wanted then
			return value
		end
	end
	return {}
end

--- Returns the table whose keys are the threads that the program has had Copas remove.
-- @tparam table copas the module
-- @treturn table the table, an empty one if it is not known
function host.removed_threads(copas)
	if not removed_threads[copas] then
		removed_threads[copas] = table_of(copas, "_canceled")
		registered_threads[copas] = table_of(copas, "_threads")
	end
	return removed_threads[copas]
end

-- The threads of Copas in which coroutines run, by coroutine. The table keeps none of them alive.
local threads_of = setmetatable({}, { __mode = "kv" })

--- Notes which thread of Copas a coroutine runs in, for `host.is_removed`.
-- @tparam ?thread coroutine the coroutine that is running
-- @treturn ?thread the same
function host.note_thread(coroutine)
	local copas = loaded.copas
	if coroutine and type(copas) == "table" then
		host.removed_threads(copas)
		local thread, coxpcall = coroutine, loaded.coxpcall
		if type(coxpcall) == "table" and type(coxpcall.running) == "function" then
			thread = coxpcall.running(coroutine)
		end
		threads_of[coroutine] = thread and registered_threads[copas][thread] and thread or nil
	end
	return coroutine
end

--- Whether the program has had Copas remove the thread that a coroutine runs in: nobody will resume the thread any
-- more. Copas forgets a removed thread when it drops it.
-- @tparam thread coroutine the coroutine, noted by `host.note_thread` before
-- @treturn boolean false too if it is not known
function host.is_removed(coroutine)
	local copas, thread = loaded.copas, threads_of[coroutine]
	return thread ~= nil and type(copas) == "table"
		and (host.removed_threads(copas)[thread] ~= nil or not registered_threads[copas][thread])
end

--- Whether a function is on the stack of a thread, with a certain first argument. A call that an error has ended leaves
-- no other trace.
-- @tparam thread thread as `core.running` returns it
-- @tparam function func the function
-- @param argument its first argument, which it has not changed
-- @treturn boolean true too if there is no debug library
function host.is_at_work(thread, func, argument)
	if coroutine_status(thread) == "dead" then
		return false
	elseif not getinfo then
		return true
	end
	local level = 0
	local info = getinfo(thread, level, "f")
	while info do
		if info.func == func and select(2, getlocal(thread, level, 1)) == argument then
			return true
		end
		level = level + 1
		info = getinfo(thread, level, "f")
	end
	return false
end

--- Whether the caller runs in a thread of Copas.
-- @treturn boolean
function host.in_copas()
	return copas_around() ~= nil
end

--- Whether there are other clients in the loop of a client.
-- @tparam Client client the client
-- @treturn boolean
function host.has_company(client)
	for _, item in ipairs(client.ioloop and client.ioloop.clients or {}) do
		if item ~= client and type(item) == "table" then
			return true
		end
	end
	return false
end

-- The phases in which nginx lets a program yield.
local YIELDING_PHASES = {
	timer = true,
	content = true,
	access = true,
	rewrite = true,
	server_rewrite = true,
	preread = true,
	ssl_cert = true,
	ssl_client_hello = true,
	ssl_session_fetch = true,
}

--- Returns OpenResty's API inside nginx, elsewhere nil. A global variable `ngx` of the program's own does not count.
function host.openresty()
	local ngx = rawget(globals, "ngx")
	local config = type(ngx) == "table" and rawget(ngx, "config")
	return type(config) == "table" and type(ngx.get_phase) == "function" and config.ngx_lua_version and ngx or nil
end

-- The functions in C that a coroutine may yield through. `coroutine.resume` is that of coxpcall.
local transparent = { [coroutine_resume] = true }
if _VERSION == "Lua 5.2" then
	transparent[pcall], transparent[xpcall] = true, true
end

-- Whether a coroutine can yield, as far as its stack tells: no function in C has called back, such as `table.sort` or,
-- in Lua 5.1, `pcall`. Metamethods in Lua 5.1 and 5.2 leave no trace.
local function lets_yield(thread, level)
	local info = getinfo(thread, level, "Sf")
	while info do
		if info.what == "C" and not transparent[info.func] then
			return false
		end
		level = level + 1
		info = getinfo(thread, level, "Sf")
	end
	return true
end

-- Whether the caller can yield, outside of nginx: there `isyieldable` is false also in threads that can.
local function can_yield()
	if isyieldable then
		return isyieldable()
	end
	local inner, thread = coroutine_running(), this_thread()
	if not (thread and getinfo) then
		return thread ~= nil
	end
	-- Behind this function and `getinfo`. A function that coxpcall calls runs in a coroutine of its own.
	return lets_yield(inner, 1) and (inner == thread or lets_yield(thread, 0))
end

-- Returns OpenResty's API if the caller runs where it may yield.
local function nginx_around()
	local ngx = host.openresty()
	return ngx and YIELDING_PHASES[ngx.get_phase()] and ngx or nil
end

-- Clients by the thread that serves them, while a *keeper*, which the program does not know, resumes the thread.
local driven = setmetatable({}, { __mode = "k" })

-- Such a thread yields this value to have the keeper call a function.
local OUTSIDE = {}

--- Notes that a thread serves a client, and is resumed by `host.resume` alone. Without a client, ends this.
-- @tparam thread thread the thread
-- @tparam ?Client client the client
function host.drive(thread, client)
	driven[thread] = client
end

local function returned(ok, ...)
	if not ok then
		error((...), 0)
	end
	return ...
end

--- Calls a function that waits for the network. If the thread that serves the client calls this, its keeper makes the
-- call. So the program does not know the waiting thread, and cannot keep it from coming back.
-- @tparam Client client the client
-- @tparam function func the function
-- @param ... its arguments
-- @return its results
function host.outside(client, func, ...)
	local thread = coroutine_running()
	if thread and driven[thread] == client then
		return returned(coroutine_yield(OUTSIDE, func, ...))
	end
	return func(...)
end

local function resume_until(thread, ok, what, func, ...)
	if ok and what == OUTSIDE then
		return resume_until(thread, coroutine_resume(thread, protected(func, ...)))
	end
	return ok, what, func
end

--- Resumes a thread, and makes the calls that the thread passes to `host.outside`.
-- @tparam thread thread the thread
-- @treturn boolean what `coroutine.resume` returns, up to two values
function host.resume(thread)
	return resume_until(thread, coroutine_resume(thread))
end

--- Waits for news of a client's link by yielding, which works under Copas.
-- @tparam Client client the client
-- @treturn boolean whether it has waited
function host.wait(client)
	local copas = copas_around()
	if copas then
		host.outside(client, receive, copas, client._link)
	end
	return copas ~= nil
end

--- Lets other threads run, if there are any: a client that always has news would keep the program from its other work.
-- @tparam Client client the client
function host.give_way(client)
	local copas = copas_around()
	if not copas then -- luacheck: ignore 542
		-- there are no other threads
	elseif copas.pause then
		pause(copas, 0)
	elseif client._link:has_events() then
		-- Copas 1.x has no pause.
		receive(copas, client._link, true)
	end
end

-- Links for sleeping threads of Copas 1.x, each with the function that takes its events.
local bells = {}

-- Takes a link without a connection.
local function take_bell()
	local bell = table_remove(bells)
	if not bell then
		local link, handle = core.link(4)
		bell = { link = link, handle = handle }
	end
	return bell
end

-- Waits for the link, and gives it back.
local function wait_for_bell(copas, bell)
	receive(copas, bell.link)
	while core.pop(bell.handle) do -- luacheck: ignore 542
		-- until there is none
	end
	bells[#bells + 1] = bell
end

-- The sleeper of a Copas without a pause.
local function sleeper_at_bell(copas)
	local bell
	local function sleep()
		bell = take_bell()
		wait_for_bell(copas, bell)
		bell = nil
	end
	return sleep, function()
		if bell then
			bell.link:wake()
		end
	end
end

--- Waits for some time by yielding, where the caller can yield.
-- @tparam number seconds how long
-- @treturn boolean whether it has waited
function host.pause(seconds)
	local ngx = nginx_around()
	if ngx then
		ngx.sleep(seconds)
		return true
	end
	local copas = copas_around()
	if not (copas and can_yield()) then
		return false
	elseif copas.pause then
		pause(copas, seconds)
	else
		local bell = take_bell()
		bell.link:wake_after(seconds)
		wait_for_bell(copas, bell)
	end
	return true
end

--- Returns functions to sleep and to wake the caller.
-- @treturn[1] function `sleep([seconds])`: yields until the caller is woken; may return earlier, not at all without
-- being woken after that time
-- @treturn[1] function wakes the caller, if it sleeps
-- @return[2] nil: the caller runs in no coroutine, or in one that cannot yield now
-- @return[3] false
-- @treturn[3] string an error message: nginx or Copas does not let the caller yield now
function host.sleeper()
	if host.openresty() then
		if not nginx_around() then
			return false, "nginx lets nobody wait in this phase"
		end
		local news = require("ngx.semaphore").new()
		return function(seconds)
			news:wait(seconds or WATCH_TIME)
		end, function()
			news:post(1)
		end
	end
	local thread = this_thread()
	local copas = copas_around()
	if not can_yield() then
		return not copas and nil, copas and "a thread of Copas cannot wait inside a function in C that calls back"
	elseif not thread then
		return nil
	elseif not copas then
		return function()
			-- The function that resumes this thread gets no values.
			coroutine_yield()
		end, function()
			if coroutine_status(thread) == "suspended" then
				local ok, err = coroutine_resume(thread)
				if not ok then
					error(err, 0)
				end
			end
		end
	elseif not copas.pause then
		return sleeper_at_bell(copas)
	end
	return function(seconds)
		local before = turn
		if seconds then
			copas.pause(seconds)
		else
			copas.pauseforever()
		end
		resumed(before)
	end, function()
		copas.wakeup(thread)
	end
end

--- Calls a function inside nginx, and logs its error, which nobody would catch.
-- @tparam function func the function
-- @param ... its arguments
-- @treturn boolean whether there was no error
-- @return the function's first result, or the error
function host.protected(func, ...)
	local ok, result = xpcall(func, traceback, ...)
	if not ok then
		local ngx = host.openresty()
		ngx.log(ngx.ERR, "MQTT: ", result)
	end
	return ok, result
end

-- Clients to shut down when this worker of nginx exits.
local clients_at_exit = setmetatable({}, { __mode = "k" })
local is_watching = false

-- Functions to call after the clients have been shut down.
local calls_at_exit = {}

local function is_waited_for()
	for client in each(clients_at_exit) do
		if client._waits and next(client._waits.pending) then
			return true
		end
	end
	return false
end

local function shut_all_down()
	local ngx, begin = host.openresty(), now()
	-- Requests that the worker has begun to answer may still publish.
	ngx.sleep(LINGER)
	while is_waited_for() and now() - begin < LONGEST_LINGER do
		ngx.sleep(LINGER_PAUSE)
	end
	local clients = {}
	for client in each(clients_at_exit) do
		clients[#clients + 1] = client
	end
	for _, client in ipairs(clients) do
		-- A message queued now would never be sent.
		client.opts.queue = nil
		if client.connection or client._opening or client.opts.reconnect then
			host.protected(client.shutdown, client)
		end
		if client._keeping then
			client._keeping.close(client)
		end
	end
	for _, func in ipairs(calls_at_exit) do
		host.protected(func)
	end
end

-- Notices when the worker begins to exit: nginx then calls pending timers. It calls them outside of its event loop,
-- which would not notice semaphores posted there, hence one more timer.
local function watch(premature)
	local ngx = host.openresty()
	local ok, err
	if premature then
		ok, err = ngx.timer.at(0, shut_all_down)
	else
		ok, err = ngx.timer.at(WATCH_TIME, watch)
	end
	is_watching = ok
	if not ok and err ~= "process exiting" then
		ngx.log(ngx.ERR, "MQTT clients will not disconnect when this worker exits, there is no timer for it: ", err)
	end
end

--- Has a client shut down when its worker of nginx begins to exit. Outside nginx this does nothing.
-- @tparam Client client the client
function host.shut_down_at_exit(client)
	if host.openresty() then
		clients_at_exit[client] = true
		if not is_watching then
			watch()
		end
	end
end

--- Returns how long after the loss of its connection a client connects again at the earliest: a client of an exiting
-- worker of nginx does not, since the next worker's client may have the same client identifier.
-- @treturn number seconds
function host.reconnect_pause()
	local ngx = host.openresty()
	if not ngx then
		return 0
	end
	return ngx.worker.exiting() and LONGEST_LINGER or RELOAD_PAUSE
end

--- Has a function called when this worker of nginx exits, after the clients have been shut down.
-- @tparam function func the function
function host.call_at_exit(func)
	calls_at_exit[#calls_at_exit + 1] = func
	if not is_watching then
		watch()
	end
end

local function get_ctx()
	return host.openresty().ctx
end

--- Identifies the timer or request of nginx that the caller runs in.
-- @treturn table the same table each time; nil outside of timers and requests
function host.nginx_context()
	local ok, ctx = pcall(get_ctx)
	return ok and ctx or nil
end

-- The level of the function that a finalizer has interrupted, as `host.is_nowhere` sees it, where a client is
-- collected.
local INTERRUPTED = 4

--- Whether a client is collected while nginx runs no function of the program, such as when nginx closes the Lua state.
-- Then there is neither a timer nor a request, and handlers that use nginx's API would end the process.
function host.is_nowhere()
	return host.openresty() ~= nil and getinfo ~= nil and getinfo(INTERRUPTED, "f") == nil
end

-- The timers of nginx that serve a client for as long as it has a connection.
local serving = setmetatable({}, { __mode = "k" })

--- Notes that the caller's timer of nginx serves a client for as long as the client has a connection.
function host.serve_here()
	serving[host.nginx_context()] = true
end

--- Whether the caller runs in such a timer. A thread that serves a connection must not keep any other timer, or a
-- request, from its end.
function host.serves_here()
	local context = host.nginx_context()
	return context ~= nil and serving[context] ~= nil
end

-- By client, the function that has functions called where the client is served inside nginx: set by `mqtt.loop.nginx`.
local handers_over = setmetatable({}, { __mode = "k" })

--- Sets the function that has functions called where a client is served inside nginx.
-- @tparam Client client the client
-- @tparam ?function hand_over gets a function and its arguments, returns whether it will be called
function host.set_hand_over(client, hand_over)
	handers_over[client] = hand_over
end

--- Has a function called where a client is served inside nginx, if the caller runs elsewhere.
-- @tparam function func gets the client and the further arguments
-- @tparam Client client the client
-- @param ... further arguments
-- @treturn boolean whether it will be called
function host.hand_over(func, client, ...)
	local hand_over = handers_over[client]
	-- A client may be collected where there is neither timer nor request.
	return hand_over ~= nil and not client._is_collected and hand_over(func, client, ...)
end

-- `host.repeatedly` inside nginx.
local function repeatedly_in_nginx(ngx, func)
	local soon = require("ngx.semaphore").new()
	local function run()
		local seconds = 0
		while seconds do
			soon:wait(seconds)
			local ok, result = host.protected(func)
			seconds = ok and result or not ok and RETRY_PAUSE
		end
	end
	if host.serves_here() then
		ngx.thread.spawn(run)
	else
		local ok, err = ngx.timer.at(0, run)
		if not ok then
			ngx.log(ngx.ERR, "MQTT: there is no keep alive, there is no timer for it: ", err)
		end
	end
	return function()
		soon:post(1)
	end
end

--- Calls a function again and again in a thread of its own, where there can be one.
-- @tparam function func returns after how many seconds it wants to be called again, or a false value for never
-- @treturn function has the function called again at once
function host.repeatedly(func)
	local ngx = nginx_around()
	if ngx then
		return repeatedly_in_nginx(ngx, func)
	end
	local copas = copas_around()
	if not (copas and copas.pause) then
		return function() end
	end
	-- A further thread makes each call: an error ends only this thread, and so does its removal by the program.
	local thread, seconds, is_wanted
	local function call()
		seconds = func() or false
		copas.wakeup(thread)
	end
	thread = copas.addthread(function()
		repeat
			seconds, is_wanted = nil, false
			copas.addthread(call)
			copas.pause(RETRY_PAUSE)
			if seconds and not is_wanted then
				copas.pause(seconds)
			end
		until seconds == false
	end)
	return function()
		-- If the thread has been woken and has not had its turn, Copas forgets the second waking.
		is_wanted = true
		copas.wakeup(thread)
	end
end

return host

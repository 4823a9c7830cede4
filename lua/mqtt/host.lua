--- How to wait for a link without blocking the program that the client lives in.
-- Internal: programs use `Client:step` and `Client:getfd`.

local core = require("mqtt.core")

local coroutine_running = coroutine.running
local now = core.now

local host = {}

-- How long all clients together may keep Copas from its other threads, in seconds.
local TURN = 0.001
-- How often a client that has something to do lets Copas go on without it because that time is over.
local PATIENCE = 50

-- How soon nginx calls a function again that has thrown, in seconds.
local RETRY_PAUSE = 1
-- How long a timer of nginx is pending that only waits for the worker to exit, in seconds.
local WATCH_TIME = 24 * 60 * 60

-- When the clients' turn began: the first of them that Copas resumed since they all had yielded has set it.
local turn = 0

-- Notes that a thread has been resumed that yielded in the turn given.
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

-- What Copas takes for a socket: its descriptor is the link's, and there is something to read when that is readable and
-- it is the link's turn. Copas asks before it waits, and whenever the descriptor is readable. It closes what it thinks
-- is a connection when a thread ends, hence `close`.
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

-- Waits for news of a link under Copas; with `gives_way` other threads have their turn first in any case.
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

--- Waits in a thread of Copas 4 until that is woken.
function host.pause_forever()
	local before = turn
	package.loaded.copas.pauseforever()
	resumed(before)
end

-- Returns Copas if the caller runs in one of its threads, so that it may yield to Copas.
local function copas_around()
	local copas = package.loaded.copas
	if copas then
		local thread, is_main = coroutine_running()
		return thread and not is_main and copas or nil
	end
end

--- Whether the caller runs in a thread of Copas.
-- @treturn boolean
function host.in_copas()
	return copas_around() ~= nil
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

-- Returns OpenResty's API if the caller runs inside nginx where it may yield.
local function nginx_around()
	local ngx = rawget(_G, "ngx")
	local get_phase = ngx and ngx.get_phase
	return get_phase and YIELDING_PHASES[get_phase()] and ngx or nil
end

--- Waits for news of a link by yielding, if that can be done: under Copas.
-- @param link the link
-- @treturn boolean whether it has waited
function host.wait(link)
	local copas = copas_around()
	if copas then
		receive(copas, link)
	end
	return copas ~= nil
end

--- Lets other threads run, if there are any: a link that always has news would keep the program from everything else.
-- @param link the link
function host.give_way(link)
	local copas = copas_around()
	if not copas then -- luacheck: ignore 542
		-- nobody to give way to
	elseif copas.pause then
		pause(copas, 0)
	elseif link:has_events() then
		-- Copas 1.x knows no pause.
		receive(copas, link, true)
	end
end

--- Waits for some time by yielding, if that can be done.
-- @tparam number seconds how long
-- @treturn boolean whether it has waited
function host.pause(seconds)
	local ngx = nginx_around()
	if ngx then
		ngx.sleep(seconds)
		return true
	end
	local copas = copas_around()
	if not (copas and copas.pause) then
		return false
	end
	pause(copas, seconds)
	return true
end

-- Links that threads of Copas 1.x sleep at, each with the function that takes its events.
local bells = {}

-- What `host.sleeper` does under a Copas that knows no pause: waits for a link that has no connection.
local function sleeper_at_bell(copas)
	local bell
	local function sleep()
		bell = table.remove(bells)
		if not bell then
			local link, handle = core.link(4)
			bell = { link = link, handle = handle }
		end
		receive(copas, bell.link)
		while core.pop(bell.handle) do -- luacheck: ignore 542
			-- until there is none
		end
		bells[#bells + 1] = bell
		bell = nil
	end
	return sleep, function()
		if bell then
			bell.link:wake()
		end
	end
end

--- Returns how the caller sleeps until it is woken.
-- @treturn[1] function `sleep([seconds])`: yields until it is woken; it may return earlier, not at all without
-- being woken after that time
-- @treturn[1] function wakes it, if it sleeps
-- @return[2] nil: it runs in no coroutine
-- @return[3] false
-- @treturn[3] string an error message: nginx does not let it yield now
function host.sleeper()
	if type(rawget(_G, "ngx")) == "table" then
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
	local thread, is_main = coroutine_running()
	if not thread or is_main then
		return nil
	end
	local copas = copas_around()
	if not copas then
		return coroutine.yield, function()
			if coroutine.status(thread) == "suspended" then
				local ok, err = coroutine.resume(thread)
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

--- Calls a function where an error has nobody to go to, inside nginx: it is logged.
-- @tparam function func the function
-- @param ... its arguments
-- @treturn boolean whether there was none
-- @return what the function returned first, or the error
function host.protected(func, ...)
	local ok, result = xpcall(func, debug.traceback, ...)
	if not ok then
		local ngx = rawget(_G, "ngx")
		ngx.log(ngx.ERR, "MQTT: ", result)
	end
	return ok, result
end

-- Clients to shut down when this worker of nginx exits.
local clients_at_exit = setmetatable({}, { __mode = "k" })
local is_watching = false

local function shut_all_down()
	local clients = {}
	for client in pairs(clients_at_exit) do
		clients[#clients + 1] = client
	end
	for _, client in ipairs(clients) do
		if client.connection or client._opening or client.opts.reconnect then
			host.protected(client.shutdown, client)
		end
	end
end

-- Notices when the worker begins to exit: nginx then calls the timers that are pending. It does so outside of its event
-- loop, which would not notice the semaphores posted there, hence one more timer.
local function watch(premature)
	local ngx = rawget(_G, "ngx")
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

--- Shuts a client down when the worker of nginx that it lives in begins to exit. Outside nginx this does nothing.
-- @tparam Client client the client
function host.shut_down_at_exit(client)
	local ngx = rawget(_G, "ngx")
	if type(ngx) == "table" and ngx.timer then
		clients_at_exit[client] = true
		if not is_watching then
			watch()
		end
	end
end

-- What `host.repeatedly` does inside nginx.
local function repeatedly_in_nginx(ngx, func)
	local soon = require("ngx.semaphore").new()
	ngx.thread.spawn(function()
		local seconds = 0
		while seconds do
			soon:wait(seconds)
			local ok, result = host.protected(func)
			seconds = ok and result or not ok and RETRY_PAUSE
		end
	end)
	return function()
		soon:post(1)
	end
end

--- Returns what a loop sleeps with where it must not block: `ngx.sleep` inside nginx, elsewhere nil.
function host.sleep_function()
	local ngx = rawget(_G, "ngx")
	return type(ngx) == "table" and ngx.sleep or nil
end

--- Calls a function again and again in a thread of its own, if that can be done.
-- @tparam function func returns after how many seconds it wants to be called again, or a false value for never
-- @treturn function to be called to have it called again at once
function host.repeatedly(func)
	local ngx = nginx_around()
	if ngx then
		return repeatedly_in_nginx(ngx, func)
	end
	local copas = copas_around()
	if not (copas and copas.pause) then
		return function() end
	end
	local thread = copas.addthread(function()
		local seconds = func()
		while seconds do
			copas.pause(seconds)
			seconds = func()
		end
	end)
	return function()
		copas.wakeup(thread)
	end
end

return host

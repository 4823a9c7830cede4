--- Wakes the worker of nginx when a client on the native connection has something for Lua.
-- Internal to `mqtt.loop.nginx` and `mqtt.ioloop`. The native connections are read and written in threads of their own,
-- which nginx does not know. So one cosocket of the worker is connected to the library itself. The library sends it a
-- byte when a client has news and nobody has been told yet. The cosocket belongs to a timer in which no function of the
-- program runs, so nothing but the end of the worker ends it.
-- @module mqtt.bell

local core = require("mqtt.core")
local host = require("mqtt.host")

local each, next, require = pairs, next, require
local next_ready = core.next_ready
local ngx = host.openresty()

-- The longest time of nginx, in seconds. nginx cannot wait for ever, so waiting begins anew after this time.
local LONG = 0x7FFFFFFF / 1000
-- How often to look after functions of the program that run or wait, in seconds: `ngx.exit` in one of them tells
-- nobody.
local WATCH_PAUSE = 0.2
-- How long connecting to the library may take, and how often clients are looked at without a cosocket, in seconds.
local CONNECT_TIMEOUT, POLL_PAUSE = 10, 0.01

local bell = {}

-- The functions to call when a link has news, by its token. They run in the bell's timer, and must not wait.
local owners = {}
-- Tokens of links without a function: a queue for `bell.next_ready`.
local unclaimed, is_unclaimed, first, last = {}, {}, 1, 0
-- The users of the bell, also while the worker exits, each with the function that ends it when its time is over.
local users = {}
-- Timers and requests that sleep until there are unclaimed tokens: their semaphore, and their number.
local sleepers, asleep = nil, 0
-- The bell's own link, which wakes it.
local link, handle
-- Whether the timer exists.
local is_there = false
-- Called each time that the bell has rung, before and after the functions of the links. The second one returns whether
-- functions of the program run or wait.
local before, after
-- The thread that looks after these: `wanted`, a semaphore that it waits for; `awake`, whether it has been told;
-- `ended`, whether its timer ends.
local watch

local function take_own_events()
	while core.pop(handle) do -- luacheck: ignore 542
		-- until there are none
	end
end

-- Calls the functions of links that have news. `fresh` is true when nginx has done something else before.
local function deliver(fresh)
	if fresh then
		before()
	end
	for token in next_ready do
		local owner = owners[token]
		if owner then
			owner()
		elseif not is_unclaimed[token] then
			last = last + 1
			unclaimed[last], is_unclaimed[token] = token, true
		end
	end
	if asleep > 0 and first <= last then
		sleepers:post(asleep)
		asleep = 0
	end
	if after() and not watch.awake then
		watch.awake = true
		watch.wanted:post(1)
	end
end

-- The thread.
local function keep_watch(self)
	repeat
		self.wanted:wait(LONG)
		if not self.ended then
			ngx.sleep(WATCH_PAUSE)
			self.awake = false
			deliver(true)
		end
	until self.ended
end

-- Returns the cosocket, or nil and an error message.
local function connect()
	local address, secret, port = core.hang_bell()
	if not address then
		return nil, secret
	end
	local sock = ngx.socket.tcp()
	sock:settimeouts(CONNECT_TIMEOUT * 1000, CONNECT_TIMEOUT * 1000, LONG * 1000)
	local ok, err = sock:connect(port and address or "unix:" .. address, port)
	if ok then
		ok, err = sock:send(secret)
	end
	if ok then
		ok, err = core.take_bell(), "the connection has not come"
	else
		core.take_bell()
	end
	if ok then
		return sock
	end
	sock:close()
	return nil, err
end

local function is_needed()
	return not ngx.worker.exiting() or next(users) ~= nil
end

-- The timer.
local function run(_, own_watch)
	local sock, err = connect()
	if not sock then
		ngx.log(ngx.WARN, "MQTT: nginx cannot be woken, clients are looked at every 10 ms: ", err)
	end
	ngx.thread.spawn(keep_watch, own_watch)
	deliver(true)
	while is_needed() do
		local fresh = true
		if not sock then
			ngx.sleep(POLL_PAUSE)
		elseif core.arm_bell() then
			local byte
			byte, err = sock:receive(1)
			if not byte and err ~= "timeout" then
				-- nginx has closed the cosocket: the worker exits, and the time of `worker_shutdown_timeout` is over.
				sock = nil
				local late = users
				users = {}
				for _, stop in each(late) do
					stop()
				end
			end
		else
			fresh = false
		end
		deliver(fresh)
	end
	is_there, own_watch.ended = false, true
	own_watch.wanted:post(1)
	if sock then
		sock:close()
	end
end

local function nothing() end

--- Makes sure that there is a bell.
-- @tparam ?function on_before called when the bell has rung, before anything else happens in the worker
-- @tparam ?function on_after called after the functions of links that have news; returns whether functions of the
-- program run or wait
-- @treturn[1] boolean true
-- @return[2] nil
-- @treturn[2] string an error message: there is no timer for it
function bell.start(on_before, on_after)
	before, after = on_before or before or nothing, on_after or after or nothing
	if not is_there then
		if not link then
			link, handle = core.link(4)
			owners[link:token()] = take_own_events
			sleepers = require("ngx.semaphore").new()
			host.call_at_exit(bell.poke)
		end
		watch = { wanted = require("ngx.semaphore").new(), awake = false, ended = false }
		local ok, err = ngx.timer.at(0, run, watch)
		if not ok then
			return nil, err
		end
		is_there = true
	end
	return true
end

--- Makes the bell ring.
function bell.poke()
	link:wake()
end

--- Sets the function to call when a link has news.
-- @tparam number token the link's token
-- @tparam ?function owner the function, which must not wait; nil removes the last one
function bell.watch(token, owner)
	owners[token] = owner
end

--- Keeps the bell while the worker exits.
-- @param user the user of the bell
-- @tparam function stop ends the user when its time is over
function bell.keep(user, stop)
	users[user] = stop
end

--- Lets go of the bell.
-- @param user the user that `bell.keep` was given
function bell.release(user)
	users[user] = nil
	if ngx.worker.exiting() then
		bell.poke()
	end
end

--- Returns the token of a link that has news and no function, or nil. Outside of nginx this is `core.next_ready`.
function bell.next_ready()
	if first <= last then
		local token = unclaimed[first]
		unclaimed[first], is_unclaimed[token], first = nil, nil, first + 1
		return token
	end
	for token in next_ready do
		local owner = owners[token]
		if not owner then
			return token
		end
		owner()
		bell.poke()
	end
end

-- Sleeps, in a timer or request, until there are unclaimed tokens, or for some seconds.
local function sleep(seconds)
	if not bell.start() then
		return ngx.sleep(seconds)
	end
	asleep = asleep + 1
	if not sleepers:wait(seconds) then
		asleep = asleep > 0 and asleep - 1 or 0
	end
end

--- Returns the function by which a loop sleeps inside nginx, where it must not block; elsewhere nil. The sleep ends
-- when `bell.next_ready` has a token.
function bell.sleep_function()
	return ngx and sleep
end

if not (ngx and core.hang_bell) then
	bell.next_ready = next_ready
end

return bell

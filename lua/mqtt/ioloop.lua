--- The event loop that comes with the library.
--
-- It serves any number of clients and functions in one thread. It sleeps until the network, a timer of a client, or a
-- function wants something: an idle loop costs nothing. The field `running` says whether `Ioloop:run_until_clients` is
-- at work.
-- @classmod Ioloop

local core = require("mqtt.core")
local expect = require("mqtt.loop.expect")
local host = require("mqtt.host")
local log = require("mqtt.log")
local timers = require("mqtt.loop.timer")

local each, error, ipairs, next = pairs, error, ipairs, next
local setmetatable, tostring, type = setmetatable, tostring, type
local assert = assert
local math_huge, math_max, math_min = math.huge, math.max, math.min
local table_insert, table_remove = table.insert, table.remove
local now, running_thread, wait_for_news = core.now, core.running, core.wait
local is_end = expect.is_end
local is_at_work = host.is_at_work
-- Inside nginx there are others who ask for ready links, and loops sleep otherwise.
local bell = host.openresty() and require("mqtt.bell")
local next_ready = bell and bell.next_ready or core.next_ready

-- How many packets of one client are handled before others have their turn, and how many if there are no others.
local PACKETS_PER_TURN = 64
local PACKETS_ALONE = 16384

-- The messages with which a client ends in order.
local ENDED_IN_ORDER = {
	["network connection is not opened"] = true,
	["connection closed by client"] = true,
}

-- All loops.
local loops = setmetatable({}, { __mode = "k" })

-- The loop of each link's token: the driver names ready links by token. True stands for several loops.
local owners = setmetatable({}, { __mode = "v" })

-- The functions that have been called and have not returned, each with the thread of the call. A function that has
-- raised an error stays here: `host.is_at_work` tells.
local called = setmetatable({}, { __mode = "kv" })

-- How many times any loop has waited.
local waits = 0

local Ioloop = {}

--- Initializes a loop. Not called directly, but through `ioloop.create`.
-- @tparam[opt] table opts options
-- @tparam[opt=0] number opts.sleep_min shortest sleep, in seconds, while clients must be polled: those with a connector
-- @tparam[opt=0.002] number opts.sleep_step how much longer each sleep gets while such clients are idle
-- @tparam[opt=0.030] number opts.sleep_max longest such sleep; also how long `Ioloop:iteration` waits at most, and how
-- soon a function that returned nothing is called again
-- @tparam[opt] function opts.sleep_function called with seconds instead of waiting for the network, and the loop polls;
-- `ngx.sleep` inside nginx
function Ioloop:__init(opts)
	opts = opts or {}
	opts.sleep_min = opts.sleep_min or 0
	opts.sleep_step = opts.sleep_step or 0.002
	opts.sleep_max = opts.sleep_max or 0.030
	opts.sleep_function = opts.sleep_function or bell and bell.sleep_function()
	self.opts = opts
	-- Everything added, as a list and as a set.
	self.clients = {}
	-- Clients on the native connection, by token.
	self._native = {}
	-- The clients in `_native` that may have something to do: a queue from _first to _last, and the place of each
	-- client. A client stays in the queue until its link is seen to be empty, also while it is served. So a round
	-- inside a handler goes on where the outer round is, and an error of a handler loses nothing. False in the queue is
	-- an empty place.
	self._queue, self._first, self._last, self._places = {}, 1, 0, {}
	-- The clients to ask again in the next round, since the program has replaced their `step`.
	self._again = {}
	-- Functions, and clients with a connector, which have to be asked. The list is copied on each change.
	self._polled = {}
	-- The seconds after which each function or client wants to be asked again, and may be asked earlier.
	self._wishes = {}
	-- When to call each function that has returned seconds, and is not to be called earlier.
	self._sleeping = {}
	-- How long to sleep after the next asking of a client with a connector.
	self._sleeps = setmetatable({}, { __mode = "k" })
	-- The threads in `run_until_clients`, unless an error has ended the call.
	self._runs = setmetatable({}, { __mode = "k" })
	-- The error of the last client that ended with one and had no handler for it.
	self._failure = nil
	loops[self] = true
end

local function enqueue(self, client)
	if not self._places[client] then
		local last = self._last + 1
		self._queue[last], self._places[client], self._last = client, last, last
	end
end

local function dequeue(self, client)
	local place = self._places[client]
	if not place then
		return
	end
	self._places[client] = nil
	self._queue[place] = false
	-- The last place is never empty.
	while self._queue[self._last] == false do
		self._queue[self._last], self._last = nil, self._last - 1
	end
end

-- Returns the next client, and puts it behind all others; or nil.
local function next_in_queue(self)
	local queue, first = self._queue, self._first
	while first < self._last do
		local client, last = queue[first], self._last
		queue[first], first = nil, first + 1
		self._first = first
		if client then
			queue[last + 1], self._places[client], self._last = client, last + 1, last + 1
			return client
		end
	end
	return queue[first] or nil
end

-- Copies a list without one item.
local function without(list, item)
	local copy = {}
	for _, other in ipairs(list) do
		if other ~= item then
			copy[#copy + 1] = other
		end
	end
	return copy
end

local function describe(item)
	if type(item) == "table" then
		return "client", item.opts and item.opts.id or tostring(item)
	end
	return "loop function", tostring(item)
end

-- Calls a function for each loop that has the client with this token.
local function for_owners(token, func)
	local owner = owners[token]
	if owner == true then
		for loop in each(loops) do
			if loop._native[token] then
				func(loop, loop._native[token])
			end
		end
	elseif owner then
		func(owner, owner._native[token])
	end
end

-- Returns a loop that has the client with this token, and again the loop, or true if there are several.
local function find_owner(token)
	local found
	for loop in each(loops) do
		if loop._native[token] then
			if found then
				return loop, true
			end
			found = loop
		end
	end
	return found, found
end

-- Returns the link's number in `core.next_ready` for a client that has one, or nil. A look-alike made by a program has
-- none.
local function token_of(item)
	return type(item) == "table" and item._token and item:_token(core) or nil
end

--- Adds a client or a function.
-- A function is called at once. It returns one of these:
--
-- * a number above 0: the seconds after which it is called again, however much happens meanwhile;
-- * `false`, and nothing else: it leaves the loop;
-- * 0 or less: it is called in each iteration, and the loop does not sleep;
-- * nothing, or anything else: it is called in each iteration, after `sleep_max` seconds if nothing happens earlier.
--
-- Within the function a nested iteration calls all others, but not the function itself.
-- @tparam Client|function client the client or function to add
-- @return `true`, or `false` and an error message if it is there already
-- @usage
-- loop:add(function()
-- 	poll_my_sensor()
-- 	return 5
-- end)
-- @see Ioloop:every
function Ioloop:add(client)
	expect.item(client)
	local clients = self.clients
	local what, name = describe(client)
	if clients[client] then
		log:warn("[LuaMQTT] %s '%s' was already added to ioloop '%s'", what, name, tostring(self))
		return false, "MQTT " .. what .. " was already added to this ioloop"
	end
	local alone = not clients[2] and clients[1]
	if type(alone) == "table" and alone._note_move then
		-- The client has company from now on, and takes turns with it.
		alone:_note_move()
	end
	clients[#clients + 1] = client
	clients[client] = true
	if type(client) == "table" then
		client:set_ioloop(self)
	end
	local token = token_of(client)
	if token then
		self._native[token] = client
		owners[token] = owners[token] == nil and self or true
		enqueue(self, client)
	else
		self._polled = without(self._polled, client)
		table_insert(self._polled, client)
		self._sleeps[client], self._wishes[client] = self.opts.sleep_min, 0
	end
	log:info("[LuaMQTT] added %s '%s' to ioloop '%s'", what, name, tostring(self))
	return true
end

--- Removes a client or a function; also from inside a handler or function.
-- @tparam Client|function client the client or function to remove
-- @return `true`, or `false` and an error message if it is not there
function Ioloop:remove(client)
	expect.item(client)
	local clients = self.clients
	local what, name = describe(client)
	if not clients[client] then
		log:warn("[LuaMQTT] %s '%s' not found in ioloop '%s'", what, name, tostring(self))
		return false, "MQTT " .. what .. " not found"
	end
	clients[client] = nil
	for i, item in ipairs(clients) do
		if item == client then
			table_remove(clients, i)
			break
		end
	end
	self._wishes[client], self._sleeping[client] = nil, nil
	local token, other = token_of(client), nil
	if token then
		dequeue(self, client)
		self._again[client] = nil
		self._native[token] = nil
		if owners[token] == self then
			owners[token] = nil
		else
			other, owners[token] = find_owner(token)
		end
	else
		self._polled = without(self._polled, client)
	end
	if type(client) == "table" then
		client:set_ioloop(other)
	end
	log:info("[LuaMQTT] removed %s '%s' from ioloop '%s'", what, name, tostring(self))
	return true
end

-- A client has ended, and leaves the loop.
local function let_go(self, client, err)
	local _, name = describe(client)
	log:info("[LuaMQTT] client '%s' has ended: %s", name, tostring(err))
	local handlers = client.handlers and client.handlers.error
	if err and not ENDED_IN_ORDER[err] and not (handlers and handlers[1]) then
		self._failure = err
	end
	self:remove(client)
	local token = token_of(client)
	if token then
		-- Other loops that have the client are to see its end too.
		for_owners(token, enqueue)
	end
end

-- Serves a client on the native connection, up to its share.
local function serve(self, client, most)
	local wait, err = client:_serve(most)
	if not self.clients[client] then
		return
	elseif wait == 0 then
		-- A round in one of its handlers may have seen the client's link empty.
		enqueue(self, client)
	elseif not wait then
		let_go(self, client, err)
	else
		dequeue(self, client)
		local wish = client:_wants(wait, self.opts.sleep_max)
		if wish then
			self._again[client], self._wishes[client] = true, wish
		end
	end
end

-- Serves the clients on the native connection that are ready.
local function serve_ready(self, most)
	for token in next_ready do
		for_owners(token, enqueue)
	end
	for client in each(self._again) do
		self._again[client], self._wishes[client] = nil, nil
		enqueue(self, client)
	end
	for _ = self._first, self._last do
		local client = next_in_queue(self)
		if not client then
			break
		end
		serve(self, client, most)
	end
end

-- Asks a client with a connector. Returns the seconds after which it wants to be asked again.
local function poll_client(self, client, most)
	local opts, sleeps = self.opts, self._sleeps
	local wait, err
	if client._serve then
		wait, err = client:_serve(most)
	else
		-- A look-alike made by a program.
		wait, err = client:step()
	end
	if not self.clients[client] then
		return nil
	elseif not wait then
		return let_go(self, client, err)
	elseif wait < 0 then
		sleeps[client] = math_min(sleeps[client] + opts.sleep_step, opts.sleep_max)
	else
		sleeps[client] = opts.sleep_min
	end
	return math_min(math_max(wait, sleeps[client]), (client:check_keep_alive()))
end

-- Notes what a function has returned.
local function note(self, func, ...)
	called[func] = nil
	local seconds = ...
	if not self.clients[func] or self._wishes[func] then -- luacheck: ignore 542
		-- It has left the loop, or left and come back.
	elseif is_end(...) then
		self:remove(func)
	elseif type(seconds) == "number" and seconds > 0 then
		self._sleeping[func] = now() + seconds
	else
		self._wishes[func] = type(seconds) == "number" and 0 or self.opts.sleep_max
	end
end

-- Calls a function. `is_at_work` looks for `call` on the stack, with its first argument.
local function call(func, self)
	called[func] = running_thread()
	note(self, func, func())
end

-- Asks everything in `_polled` that is still in the loop.
local function poll(self, most)
	local clients, wishes, sleeping = self.clients, self._wishes, self._sleeping
	for _, item in ipairs(self._polled) do
		if not clients[item] then -- luacheck: ignore 542
			-- An item before has removed it.
		elseif type(item) == "table" then
			local wish = poll_client(self, item, most)
			if clients[item] and wish then
				wishes[item] = wish
			end
		elseif not (sleeping[item] and sleeping[item] > now())
			and not (called[item] and is_at_work(called[item], call, item)) then
			wishes[item], sleeping[item] = nil, nil
			call(item, self)
		end
	end
end

-- One round of everything, in which each client handles `most` packets at most; then waits until there is something to
-- do, or for `longest` seconds. Handlers and functions may do the same meanwhile.
local function iterate(self, longest, most)
	local opts, wishes = self.opts, self._wishes
	local waits_before, started = waits, nil
	if next(wishes) or self._polled[1] then
		started = now()
	end
	serve_ready(self, most)
	-- Rounds within rounds wait once, not each on its way out.
	local has_waited = waits ~= waits_before
	poll(self, most)
	if not next(self.clients) then
		return
	elseif has_waited or self._first <= self._last then
		longest = 0
	elseif next(wishes) or next(self._sleeping) then
		local time = now()
		-- A round within this round may have waited since the items were asked.
		local passed = waits ~= waits_before and started and time - started or 0
		for _, wish in each(wishes) do
			longest = math_min(longest, wish - passed)
		end
		for _, due in each(self._sleeping) do
			longest = math_min(longest, due - time)
		end
		longest = math_max(longest, 0)
	end
	waits = waits + 1
	if not opts.sleep_function then
		assert(wait_for_news(longest))
	else
		assert(wait_for_news(0))
		longest = math_min(longest, opts.sleep_max)
		if longest > 0 then
			opts.sleep_function(longest)
		end
	end
end

-- A timer is a function in the loop.
local function start_timer(self, timer)
	local function turn()
		if timer:_left() == 0 then
			timer:_advance()
			timer:_run()
		end
		return timer:_left()
	end
	function timer._stop()
		if self.clients[turn] then
			self:remove(turn)
		end
	end
	self:add(turn)
	return timer
end

--- Has a function called again and again, the first time after the given seconds. The loop runs until the timer is
-- cancelled, or the function has returned `false`.
-- @tparam number seconds the time from one call to the next
-- @tparam function func the function
-- @treturn Timer the timer, see `Timer:cancel`
-- @usage
-- local heartbeat = loop:every(5, function()
-- 	client:publish { topic = "heartbeat" }
-- end)
-- client:on("shutdown", function() heartbeat:cancel() end)
function Ioloop:every(seconds, func)
	expect.timer(seconds, func)
	return start_timer(self, timers.new(seconds, func, seconds))
end

--- Has a function called once, after the given seconds. The loop runs until then, or until the timer is cancelled.
-- @tparam number seconds the time until the call
-- @tparam function func the function
-- @treturn Timer the timer, see `Timer:cancel`
function Ioloop:after(seconds, func)
	expect.timer(seconds, func)
	return start_timer(self, timers.new(seconds, func))
end

--- One round: every client that has something to do is served, every function is called that does not sleep.
-- Then waits until there is something to do, for `sleep_max` seconds at most. This may be called from handlers and
-- functions too, which then have others served before they return.
function Ioloop:iteration()
	iterate(self, self.opts.sleep_max, PACKETS_PER_TURN)
end

--- Runs the loop until all its clients and functions are gone. A client that has ended and does not reconnect leaves by
-- itself. Errors that handlers and functions raise come out of this call; the loop may be run again afterwards.
-- Handlers and functions may call this too.
-- @treturn[1] boolean true
-- @return[2] nil: a client that has no `error` handler has ended with an error
-- @treturn[2] string error message, the last one if there are several
function Ioloop:run_until_clients()
	local runs, thread = self._runs, running_thread()
	if not self.running then
		self._failure = nil
	end
	local outer = runs[thread]
	runs[thread] = true
	log:info("[LuaMQTT] ioloop started with %d clients/functions", #self.clients)
	while next(self.clients) do
		iterate(self, math_huge, self.clients[2] and PACKETS_PER_TURN or PACKETS_ALONE)
	end
	runs[thread] = outer
	log:info("[LuaMQTT] ioloop finished")
	local err = self._failure
	self._failure = nil
	if err then
		return nil, err
	end
	return true
end

local run_until_clients = Ioloop.run_until_clients

-- Whether the loop runs. After an error only the stack tells.
local function is_running(self)
	for thread in each(self._runs) do
		if is_at_work(thread, run_until_clients, self) then
			return true
		end
		self._runs[thread] = nil
	end
	return false
end

-- The methods, and `running`, which is computed.
function Ioloop:__index(key)
	if key == "running" then
		return is_running(self)
	end
	return Ioloop[key]
end

--- Exported functions
-- @section exported

local _M = {}

-- The type of each option, as `type` returns it and in words.
local OPTIONS = {
	sleep_min = "number",
	sleep_step = "number",
	sleep_max = "number",
	sleep_function = "function",
}

-- Checks the options. Returns an error message, or nil.
local function explain(opts)
	if opts == nil then
		return nil
	elseif type(opts) ~= "table" then
		return "expecting opts to be a table, got: " .. type(opts)
	end
	for name, expected in each(OPTIONS) do
		local value = opts[name]
		if value ~= nil and type(value) ~= expected then
			return "expecting " .. name .. " to be a " .. expected .. ", got: " .. type(value)
		elseif expected == "number" and value ~= nil and (value < 0 or value ~= value) then
			return "expecting " .. name .. " to be a number of seconds from 0, got: " .. tostring(value)
		end
	end
end

local function create(opts)
	local loop = setmetatable({}, Ioloop)
	loop:__init(opts)
	return loop
end

--- Creates a loop.
-- @function ioloop.create
-- @tparam[opt] table opts see `Ioloop:__init`
-- @treturn Ioloop the loop
function _M.create(opts)
	local problem = explain(opts)
	if problem then
		error(problem, 2)
	end
	return create(opts)
end

local default_loop

--- Returns the default loop.
-- @function ioloop.get
-- @tparam[opt=true] boolean autocreate create it if there is none
-- @tparam[opt] table opts see `Ioloop:__init`
-- @treturn Ioloop the loop, or nil
function _M.get(autocreate, opts)
	if not default_loop and autocreate ~= false then
		local problem = explain(opts)
		if problem then
			error(problem, 2)
		end
		default_loop = create(opts)
	end
	return default_loop
end

return _M

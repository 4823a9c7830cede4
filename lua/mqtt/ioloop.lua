--- The event loop that comes with the library.
--
-- It serves any number of clients and functions in one thread. It sleeps until the network, a timer of a client, or a
-- function wants something: an idle loop costs nothing.
-- @classmod Ioloop

local core = require("mqtt.core")
local host = require("mqtt.host")
local log = require("mqtt.log")

local math_huge, math_max, math_min = math.huge, math.max, math.min

-- How many packets of one client are handled before others have their turn, and if there are no others.
local PACKETS_PER_TURN = 64
local PACKETS_ALONE = 16384

-- Which loop a link's token belongs to, and to which client there: the driver names ready links by token.
local owners = setmetatable({}, { __mode = "v" })

local Ioloop = {}
Ioloop.__index = Ioloop

--- Initializes a loop. Not called directly, but through `Ioloop.create`.
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
	opts.sleep_function = opts.sleep_function or host.sleep_function()
	self.opts = opts
	-- Everything added, as a list and as a set.
	self.clients = {}
	-- Clients on the native connection, by token.
	self._native = {}
	-- Those of them that may have something to do: a queue from _first to _last.
	self._ready, self._first, self._last = {}, 1, 0
	-- Functions, and clients with a connector, which have to be asked; copied on each change.
	self._polled = {}
	-- How long to sleep after asking such a client next.
	self._sleeps = setmetatable({}, { __mode = "k" })
	--- Whether `Ioloop:run_until_clients` is at work.
	self.running = false
end

local function add_ready(self, client)
	self._last = self._last + 1
	self._ready[self._last] = client
end

-- A copy of a list without one item.
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

--- Adds a client or a function.
-- A function is called in each iteration, and returns after how many seconds it wants to be called again at the latest,
-- or nothing for "soon".
-- @tparam Client|function client what to add
-- @return `true`, or `false` and an error message if it is there already
-- @usage
-- loop:add(function()
-- 	poll_my_sensor()
-- 	return 5
-- end)
function Ioloop:add(client)
	local clients = self.clients
	local what, name = describe(client)
	if clients[client] then
		log:warn("[LuaMQTT] %s '%s' was already added to ioloop '%s'", what, name, tostring(self))
		return false, "MQTT " .. what .. " was already added to this ioloop"
	end
	local alone = not clients[2] and clients[1]
	if type(alone) == "table" then
		-- It has company from now on, with whom it takes turns.
		alone._moves = alone._moves + 1
	end
	clients[#clients + 1] = client
	clients[client] = true
	if type(client) == "table" then
		client:set_ioloop(self)
	end
	local token = type(client) == "table" and client._token
	if token then
		self._native[token] = client
		owners[token] = self
		add_ready(self, client)
	else
		self._polled = without(self._polled, client)
		table.insert(self._polled, client)
		self._sleeps[client] = self.opts.sleep_min
	end
	log:info("[LuaMQTT] added %s '%s' to ioloop '%s'", what, name, tostring(self))
	return true
end

--- Removes a client or a function; also from inside a handler or function.
-- @tparam Client|function client what to remove
-- @return `true`, or `false` and an error message if it is not there
function Ioloop:remove(client)
	local clients = self.clients
	local what, name = describe(client)
	if not clients[client] then
		log:warn("[LuaMQTT] %s '%s' not found in ioloop '%s'", what, name, tostring(self))
		return false, "MQTT " .. what .. " not found"
	end
	clients[client] = nil
	for i, item in ipairs(clients) do
		if item == client then
			table.remove(clients, i)
			break
		end
	end
	if type(client) == "table" then
		client:set_ioloop(nil)
	end
	local token = type(client) == "table" and client._token
	if token then
		self._native[token] = nil
		owners[token] = nil
	else
		self._polled = without(self._polled, client)
	end
	log:info("[LuaMQTT] removed %s '%s' from ioloop '%s'", what, name, tostring(self))
	return true
end

-- Up to so many steps of a client, which leaves the loop if it has ended. Returns what the last step returned, or nil
-- if the client is not in the loop any more.
local function step(self, client, most)
	local wait, err = client:_serve(most)
	if not self.clients[client] then
		return nil
	elseif not wait then
		log:info("[LuaMQTT] client '%s' has ended: %s", client.opts.id, tostring(err))
		self:remove(client)
	end
	return wait
end

-- Serves the clients on the native connection that are ready, each up to its share. A client stays in the queue until
-- it has nothing more, also if one of its handlers throws.
local function serve_ready(self, most)
	for token in core.next_ready do
		local loop = owners[token]
		if loop then
			add_ready(loop, loop._native[token])
		end
	end
	local ready = self._ready
	for _ = self._first, self._last do
		local client = ready[self._first]
		if self.clients[client] and step(self, client, most) == 0 then
			add_ready(self, client)
		end
		ready[self._first] = nil
		self._first = self._first + 1
	end
end

-- Asks a client with a connector. Returns in how many seconds it wants to be asked again.
local function poll_client(self, client)
	local opts, sleeps = self.opts, self._sleeps
	local wait = step(self, client, 1)
	if not wait then
		return opts.sleep_max
	elseif wait < 0 then
		sleeps[client] = math_min(sleeps[client] + opts.sleep_step, opts.sleep_max)
	else
		sleeps[client] = opts.sleep_min
	end
	return math_min(math_max(wait, sleeps[client]), (client:check_keep_alive()))
end

-- One round of everything, in which each client handles `most` packets at most; then waits until there is something to
-- do, or for `longest` seconds.
local function iterate(self, longest, most)
	local opts = self.opts
	serve_ready(self, most)
	for _, item in ipairs(self._polled) do
		local wait
		if not self.clients[item] then -- luacheck: ignore 542
			-- removed by one before it
		elseif type(item) == "table" then
			wait = poll_client(self, item)
		else
			wait = item() or opts.sleep_max
		end
		longest = math_min(longest, wait or longest)
	end
	if self._first <= self._last then
		longest = 0
	end
	if not next(self.clients) then
		return
	elseif not opts.sleep_function then
		assert(core.wait(math_max(longest, 0)))
	else
		assert(core.wait(0))
		longest = math_min(longest, opts.sleep_max)
		if longest > 0 then
			opts.sleep_function(longest)
		end
	end
end

--- One round: every client that has something to do is served, every function is called.
-- Then waits until there is something to do, for `sleep_max` seconds at most.
function Ioloop:iteration()
	iterate(self, self.opts.sleep_max, PACKETS_PER_TURN)
end

--- Runs the loop until all its clients and functions are gone. A client that has ended and does not reconnect leaves by
-- itself. Errors that handlers and functions raise come out of this call; the loop may be run again afterwards.
function Ioloop:run_until_clients()
	log:info("[LuaMQTT] ioloop started with %d clients/functions", #self.clients)
	self.running = true
	while next(self.clients) do
		iterate(self, math_huge, self.clients[2] and PACKETS_PER_TURN or PACKETS_ALONE)
	end
	self.running = false
	log:info("[LuaMQTT] ioloop finished")
end

--- Exported functions
-- @section exported

local _M = {}

--- Creates a loop.
-- @function ioloop.create
-- @tparam[opt] table opts see `Ioloop:__init`
-- @treturn Ioloop the loop
function _M.create(opts)
	local loop = setmetatable({}, Ioloop)
	loop:__init(opts)
	return loop
end

local default_loop

--- Returns the default loop.
-- @function ioloop.get
-- @tparam[opt=true] boolean autocreate create it if there is none
-- @tparam[opt] table opts see `Ioloop:__init`
-- @treturn Ioloop the loop, or nil
function _M.get(autocreate, opts)
	if not default_loop and autocreate ~= false then
		default_loop = _M.create(opts)
	end
	return default_loop
end

return _M

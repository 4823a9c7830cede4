--- The waits of a client's callers, and their ends: `client._waits`.
-- Internal to `mqtt.client`.

local core = require("mqtt.core")
local packet_type = require("mqtt.packet").types
local protect = require("mqtt.protect")

local math_max, math_min = math.max, math.min
local each, ipairs, next, select, setmetatable = pairs, ipairs, next, select, setmetatable
local table_insert, table_remove, table_sort = table.insert, table.remove, table.sort
local unpack = table.unpack or unpack -- luacheck: globals unpack
local raise, try = protect.raise, protect.try

-- The least time between two looks at the clock, in seconds: waits that end at almost the same time cost one look.
local LOOK_PAUSE = 0.01

local Waits = {}
Waits.__index = Waits

--- Returns the waits of a client.
-- @tparam Client client the client
-- @treturn Waits
function Waits.of(client)
	local self = client._waits
	if not self then
		self = setmetatable({
			client = client,
			-- The waits under way, as a set.
			pending = {},
			-- How many waits there have been.
			count = 0,
			-- The time at which the first wait ends, or nil.
			next_timeout = nil,
			-- The waits that are over, until their callers have been told.
			over = {},
		}, Waits)
		client._waits = self
	end
	return self
end

-- Makes the link wake its waiters when the next wait is over, or the time to reconnect has come.
local function set_timer(self)
	local client, at = self.client, self.next_timeout
	if at and not (client._wake_at and client._wake_at <= at and client._wake_at > core.now()) then
		client._wake_at = at
		client._link:wake_after(math_max(at - core.now(), 0))
	end
end

-- Has the next step tell the callers of the waits that are over.
local function tell_soon(self)
	self.next_timeout = core.now()
	set_timer(self)
	-- With a connector, the thread for keep alive looks at the clock.
	self.client._transport.look_soon(self.client)
end

--- Begins a wait.
-- @tparam ?number timeout how many seconds it may last
-- @tparam ?string kind the kind of wait, if it matters: "connect"
-- @tparam ?function told called with the results, unless a caller waits in `Waits:await`
-- @treturn table the wait; its field `forget` may be a function, which is called when it is over and raises nothing
function Waits:begin(timeout, kind, told)
	self.count = self.count + 1
	local wait = { number = self.count, kind = kind, told = told }
	self.pending[wait] = true
	if timeout then
		wait.at = core.now() + timeout
		if not self.next_timeout or wait.at < self.next_timeout then
			self.next_timeout = wait.at
			set_timer(self)
			-- With a connector, the thread for keep alive looks at the clock.
			self.client._transport.look_soon(self.client)
		end
	end
	return wait
end

-- The results of a wait that is over.
local function results_of(wait)
	return unpack(wait.results, 1, wait.results.n)
end

-- Tells the callers of all waits that are over, then raises the first error. If an error ends this at once, the next
-- step goes on with the others.
local function tell(self)
	local over, failure = self.over, nil
	while over[1] do
		local wait = table_remove(over, 1)
		if over[1] then
			self.next_timeout = core.now()
			set_timer(self)
		end
		-- A wait may be held for long, by an exchange that does not end: it must not hold the program's functions.
		local wake, told = wait.wake, wait.told
		wait.wake, wait.told = nil, nil
		if wake then
			failure = try(failure, wake)
		elseif told then
			failure = try(failure, told, results_of(wait))
		end
	end
	raise(failure)
end

local function put_over(self, wait, ...)
	if wait.results then
		return
	end
	local results = { ... }
	local n = select("#", ...)
	while n > 1 and results[n] == nil do
		n = n - 1
	end
	results.n = n
	wait.results = results
	self.pending[wait] = nil
	if wait.forget then
		wait.forget()
	end
	-- Without a function, the caller looks at the results itself.
	if wait.wake or wait.told then
		table_insert(self.over, wait)
	end
end

--- Ends a wait, unless it is over.
-- @tparam table wait the wait
-- @param ... results
function Waits:finish(wait, ...)
	put_over(self, wait, ...)
	-- A caller that gets its answer at once must not get the errors of other callers.
	if wait.wake or wait.told then
		tell(self)
	end
end

--- Ends a wait, unless it is over, where no function of the program may be called. The next step calls it.
-- @tparam table wait the wait
-- @param ... results
function Waits:finish_soon(wait, ...)
	put_over(self, wait, ...)
	if self.over[1] then
		tell_soon(self)
	end
end

--- Has the next step call a function of the library: what must be done even if the program ends this thread.
-- @tparam function func the function
function Waits:soon(func)
	table_insert(self.over, { told = func, results = { n = 0 } })
	tell_soon(self)
end

--- Ends all waits, or all waits of a kind.
-- @tparam ?string kind the kind
-- @param ... results
function Waits:finish_all(kind, ...)
	local waits = {}
	for wait in each(self.pending) do
		if not kind or wait.kind == kind then
			waits[#waits + 1] = wait
		end
	end
	-- In the order in which they began.
	table_sort(waits, function(a, b)
		return a.number < b.number
	end)
	for _, wait in ipairs(waits) do
		put_over(self, wait, ...)
	end
	tell(self)
end

--- Ends the waits whose time is over, if the time for a look has come.
function Waits:check()
	local now = core.now()
	if self.next_timeout and self.next_timeout <= now then
		local earliest, late
		for wait in each(self.pending) do
			if not wait.at then -- luacheck: ignore 542
				-- no timeout
			elseif wait.at <= now then
				late = late or {}
				late[#late + 1] = wait
			elseif not earliest or wait.at < earliest then
				earliest = wait.at
			end
		end
		self.next_timeout = earliest and math_max(earliest, now + LOOK_PAUSE)
		late = late or {}
		table_sort(late, function(a, b)
			return a.at < b.at
		end)
		for _, wait in ipairs(late) do
			put_over(self, wait, nil, "timeout")
		end
	end
	set_timer(self)
	tell(self)
end

--- The seconds until something is due: the given time, or less if a wait ends before.
-- @tparam ?number seconds the time
-- @treturn ?number
function Waits:at_most(seconds)
	local at = self.next_timeout
	local left = at and math_max(at - core.now(), 0)
	return seconds and left and math_min(seconds, left) or seconds or left
end

-- Drives the client until a wait is over, where no loop does.
local function drive(self, wait)
	local client, ok, err = self.client, true, nil
	if client.opts.connector.feed then
		ok, err = false, "nobody would move the bytes meanwhile: wait in a coroutine"
	elseif not (client.connection or client._opening) then
		-- The step begins to connect, if the time has come.
		ok, err = client:step()
	end
	while ok and not wait.results do
		ok, err = client:_sync_iteration()
	end
	self:finish(wait, nil, err)
end

--- Returns when a wait is over. Yields where it can, else drives the client meanwhile.
-- @tparam table wait the wait
-- @tparam ?function sleep the first result of `host.sleeper`
-- @tparam ?function wake the second result of `host.sleeper`
-- @return its results
function Waits:await(wait, sleep, wake)
	if sleep then
		wait.wake = wake
		while not wait.results do
			sleep(wait.at and math_max(wait.at - core.now(), 0))
			if wait.at and not wait.results and wait.at <= core.now() then
				self:finish(wait, nil, "timeout")
			end
		end
	else
		drive(self, wait)
	end
	return results_of(wait)
end

--- Ends waits after the end of a connection, or of the attempt to open one.
-- @tparam string reason why
-- @tparam ?table packet the packet that ended it
-- @tparam boolean is_last whether there will be no other connection
function Waits:connection_ended(reason, packet, is_last)
	if not (next(self.pending) or self.over[1]) then -- luacheck: ignore 542
		-- no waits
	elseif is_last then
		self:finish_all(nil, nil, reason, packet)
	elseif packet and packet.type == packet_type.CONNACK then
		self:finish_all("connect", nil, reason, packet)
	end
end

return Waits

--- What somebody waits for, and how that ends when it does not come.
-- Internal to `mqtt.client`: methods that `mqtt.topic_handlers`, `mqtt.waiting` and `mqtt.request` use.

local core = require("mqtt.core")
local packet_type = require("mqtt.packet").types
local protect = require("mqtt.protect")

local math_max, math_min = math.max, math.min
local ipairs, next, pairs, select = ipairs, next, pairs, select
local table_insert, table_remove, table_sort = table.insert, table.remove, table.sort
local unpack = table.unpack or unpack -- luacheck: globals unpack
local raise, try = protect.raise, protect.try

-- How soon one look at the times follows the last, in seconds: many that end at almost the same time cost one look.
local LOOK_PAUSE = 0.01

local Client = {}

--- Makes a request and sees to it that it is told, once, how it ends.
-- @tparam string method name of a method of the client that takes options with a callback
-- @tparam table opts its options; a callback in there is called first
-- @tparam function done called with the answer; or with nil and an error message if the request was accepted, but will
-- not be carried out. Not called if there will be no connection any more
-- @return what the method returns
function Client:_ask(method, opts, done)
	local own, callback = {}, opts.callback
	local packet_id, err, is_answered
	for key, value in pairs(opts) do
		own[key] = value
	end
	function own.callback(packet)
		is_answered = true
		if packet_id and self._lost_requests then
			self._lost_requests[packet_id] = nil
		end
		local failure
		if callback then
			failure = try(nil, callback, packet, self)
		end
		raise(try(failure, done, packet))
	end
	packet_id, err = self[method](self, own)
	-- Without a callback it has been forgotten meanwhile.
	if packet_id and packet_id ~= true and not is_answered and self._callbacks[packet_id] then
		self._lost_requests = self._lost_requests or {}
		self._lost_requests[packet_id] = function(reason)
			done(nil, reason)
		end
	end
	return packet_id, err
end

-- A request that was accepted will not be carried out: its callback is not called. Who asked is told the reason if any.
function Client:_forget_request(packet_id, reason)
	self._callbacks[packet_id] = nil
	local lost = self._lost_requests and self._lost_requests[packet_id]
	if lost then
		self._lost_requests[packet_id] = nil
		if reason then
			lost(reason)
		end
	end
end

-- Makes the link wake whoever waits for it when the next wait is over, or it is time to reconnect.
local function set_timer(self)
	local at = self._next_timeout
	if at and not (self._wake_at and self._wake_at <= at and self._wake_at > core.now()) then
		self._wake_at = at
		self._link:wake_after(math_max(at - core.now(), 0))
	end
end

--- Begins to wait for something.
-- @tparam ?number timeout for so many seconds
-- @tparam ?string kind what for, if that matters: "connect"
-- @tparam ?function told called with the results, unless somebody is in `Client:_wait_for`
-- @treturn table the wait; its field `forget` may be a function, which is called when it is over and raises nothing
function Client:_begin_wait(timeout, kind, told)
	self._wait_count = (self._wait_count or 0) + 1
	local wait = { number = self._wait_count, kind = kind, told = told }
	self._waits = self._waits or {}
	self._waits[wait] = true
	if timeout then
		wait.at = core.now() + timeout
		if not self._next_timeout or wait.at < self._next_timeout then
			self._next_timeout = wait.at
			set_timer(self)
			if self.connection and self._check_soon then
				-- With a connector it is the thread for keep alive that looks.
				self._check_soon()
			end
		end
	end
	return wait
end

-- The results of a wait that is over.
local function results_of(wait)
	return unpack(wait.results, 1, wait.results.n)
end

-- Tells those whose wait is over, all of them; then raises the first error. Where that ends this at once, the next step
-- goes on with the others.
local function tell(self)
	local over, failure = self._over, nil
	while over and over[1] do
		local wait = table_remove(over, 1)
		if over[1] then
			self._next_timeout = core.now()
			set_timer(self)
		end
		-- What still knows the wait, an exchange without an end perhaps, is not to keep what the program has given.
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
	self._waits[wait] = nil
	if wait.forget then
		wait.forget()
	end
	-- Others look at the results themselves.
	if wait.wake or wait.told then
		self._over = self._over or {}
		table_insert(self._over, wait)
	end
end

--- Ends a wait, unless it is over.
-- @tparam table wait the wait
-- @param ... results
function Client:_end_wait(wait, ...)
	put_over(self, wait, ...)
	-- Whoever asks and has the answer at once is not to get the errors of those who are being told.
	if wait.wake or wait.told then
		tell(self)
	end
end

--- Ends a wait, unless it is over, for one who must not have a function of the program called now. The next step calls
-- it.
-- @tparam table wait the wait
-- @param ... results
function Client:_end_wait_soon(wait, ...)
	put_over(self, wait, ...)
	if self._over and self._over[1] then
		self._next_timeout = core.now()
		set_timer(self)
	end
end

--- Ends all waits, or all of a kind.
-- @tparam ?string kind the kind
-- @param ... results
function Client:_end_waits(kind, ...)
	local waits = {}
	for wait in pairs(self._waits or {}) do
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

--- Ends the waits whose time is over, if it is time to look.
function Client:_check_waits()
	local now = core.now()
	if self._next_timeout and self._next_timeout <= now then
		local earliest, late
		for wait in pairs(self._waits) do
			if not wait.at then -- luacheck: ignore 542
				-- for ever
			elseif wait.at <= now then
				late = late or {}
				late[#late + 1] = wait
			elseif not earliest or wait.at < earliest then
				earliest = wait.at
			end
		end
		self._next_timeout = earliest and math_max(earliest, now + LOOK_PAUSE)
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

--- In how many seconds something has to be looked at: the given time, or less if a wait ends before.
-- @tparam ?number seconds the time
-- @treturn ?number
function Client:_at_most(seconds)
	local at = self._next_timeout
	local left = at and math_max(at - core.now(), 0)
	return seconds and left and math_min(seconds, left) or seconds or left
end

--- The link's timer has fired, or somebody has woken those who wait for the link.
function Client:_woken()
	self._wake_at = nil
	if self._waits then
		self:_check_waits()
	end
end

-- Drives the client until a wait is over, where nobody else does.
local function drive(self, wait)
	local ok, err = true, nil
	if self.opts.connector.feed then
		ok, err = false, "nobody would move the bytes meanwhile: wait in a coroutine"
	elseif not (self.connection or self._opening) then
		-- Begins to connect, if it is time.
		ok, err = self:step()
	end
	while ok and not wait.results do
		ok, err = self:_sync_iteration()
	end
	self:_end_wait(wait, nil, err)
end

--- Returns when a wait is over: yields where that can be done, else drives the client meanwhile.
-- @tparam table wait the wait
-- @tparam ?function sleep what `host.sleeper` returned
-- @tparam ?function wake likewise
-- @return its results
function Client:_wait_for(wait, sleep, wake)
	if sleep then
		wait.wake = wake
		while not wait.results do
			sleep(wait.at and math_max(wait.at - core.now(), 0))
			if wait.at and not wait.results and wait.at <= core.now() then
				self:_end_wait(wait, nil, "timeout")
			end
		end
	else
		drive(self, wait)
	end
	return results_of(wait)
end

--- Tells those who wait that a connection has ended, or the attempt to get one.
-- @tparam string reason why
-- @tparam ?table packet the packet that ended it
-- @tparam boolean is_last whether there will be no other
function Client:_connection_ended(reason, packet, is_last)
	if not (self._waits and next(self._waits) or self._over and self._over[1]) then -- luacheck: ignore 542
		-- nobody
	elseif is_last then
		self:_end_waits(nil, nil, reason, packet)
	elseif packet and packet.type == packet_type.CONNACK then
		self:_end_waits("connect", nil, reason, packet)
	end
end

return Client

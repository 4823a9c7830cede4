--- The end of a program of the torture. Everything begun is brought to its end, then all is shut down; the checks of
-- both are here. Functions of the running program, see `torture.interpreter`.

local core = require("mqtt.core")

local model = require("torture.model")

local Run = {}

local function nothing() end

-- How many collections it takes, at least and at most: see torture/run.lua.
local FEWEST, MOST = 2, 20

local MAIN = { where = "main", leave = nothing }
local NO_STEP = {}
-- How soon a broker must have seen a request that nothing keeps back, in seconds: before the broker gives in.
local SOON = 0.3
-- Adding a client may be in vain: Copas has it already.
local ADD_AGAIN = { bad = true }

-- Returns something that still has to happen (a kind, and a text), or nil.
function Run:missing()
	for index, rec in pairs(self.records) do
		local client = rec.client
		if not client then -- luacheck: ignore 542
			-- nobody holds it
		elseif model.is_connected(client) then
			local exchange = rec.record:missing(client)
			if rec.record.marked ~= rec.record:serial_of(client.connection) then
				return "no message arrives any more", "client " .. index
			elseif exchange then
				return "a callback is not called: " .. exchange.kind, exchange.tag
			elseif client:stats().in_flight > 0 then
				return "in_flight stays above 0"
			end
		elseif type(client.opts.reconnect) == "number" and client.opts.reconnect < 0.2 and not rec.spec.is_absent
			and (self.host.has(self, client) or client.connection) and rec.record.opened < rec.opened_before + 3 then
			-- A client whose handlers end each connection need not be connected.
			return "a client does not reconnect", "client " .. index
		end
	end
end

-- Has all clients with a connection served, also clients that handlers have taken out of their loop.
function Run:serve_all()
	for _, rec in pairs(self.records) do
		if rec.client and rec.client.connection and not self.host.has(self, rec.client) then
			self.host.add(self, ADD_AGAIN, MAIN, rec.client)
		end
	end
end

-- Returns a request of the last connection that the broker has not seen though nothing keeps it back, or nil: the
-- receive maximum is for messages only. Also returns how many bytes the broker has read of the connection.
function Run:held_up()
	local log
	for index, rec in pairs(self.records) do
		local client = rec.client
		for _, exchange in pairs(client and model.is_connected(client) and rec.record:subscriptions(client) or {}) do
			log = log or self.control:log()
			local connections = log[index].connections
			local last = connections[#connections]
			if last and last.is_listening and not log[index].requested[exchange.tag] then
				return exchange, last.read
			end
		end
	end
end

-- Checks that SUBSCRIBE and UNSUBSCRIBE arrive while the broker does not answer messages. A message of megabytes before
-- them takes its time.
function Run:check_held_up()
	local deadline = core.now() + SOON
	local exchange, read = self:held_up()
	while exchange and core.now() < deadline and not self.is_interrupted do
		self:serve_all()
		self.host.serve(self, MAIN)
		local before = read
		exchange, read = self:held_up()
		if read ~= before then
			deadline = core.now() + SOON
		end
	end
	if exchange then
		self:violation("a SUBSCRIBE or UNSUBSCRIBE waits for answers to messages", exchange.tag)
	end
end

function Run:settle()
	self:check_held_up()
	self.control:settle()
	self.is_settling = true
	for _, rec in pairs(self.records) do
		rec.opened_before = rec.record.opened
	end
	local deadline = core.now() + self.patience
	self:resume_all()
	local kind, text = self:missing()
	while kind and core.now() < deadline and not self.is_interrupted do
		self:serve_all()
		self.host.serve(self, MAIN)
		self:resume_all()
		kind, text = self:missing()
	end
	if kind then
		self:violation(kind, text)
	end
	self:check_messages()
end

-- Whether the messages of the last connection have all come.
function Run:check_messages()
	local log = self.control:log()
	for index, rec in pairs(self.records) do
		local client, record = rec.client, rec.record
		if client and model.is_connected(client) then
			local is_marked = record.marked == record:serial_of(client.connection)
			for _, message in ipairs(log[index].messages) do
				if message.connection ~= record.marker or not is_marked then -- luacheck: ignore 542
					-- of an earlier connection
				elseif not record.delivered[message.serial] then
					self:violation("a message was not delivered: QoS " .. message.qos)
				elseif record:is_owed(message, client) then
					self:violation("a message that was not acknowledged does not come again: QoS " .. message.qos)
				end
			end
			if client.first_connect and not record:is_inside("connect") then
				self:violation("first_connect is true after the connect event")
			end
		end
	end
end

-- Whether there is a call of await that has not returned.
function Run:is_waiting()
	for thread in pairs(self.waiting) do
		if type(thread) ~= "thread" or coroutine.status(thread) ~= "dead" and not self.killed[thread] then
			return true
		end
	end
	return false
end

-- Whether a thread is about to return from a call of the library, and has its arguments until then.
function Run:is_calling()
	for thread in pairs(self.calling) do
		if coroutine.status(thread) ~= "dead" and not self.killed[thread] then
			return true
		end
	end
	return false
end

-- Whether anything holds on to the callbacks of requests that are over.
function Run:check_garbage()
	local deadline = core.now() + self.patience
	while self:is_calling() and core.now() < deadline and not self.is_interrupted do
		self.host.serve(self, MAIN)
	end
	local jit = rawget(_G, "jit")
	if jit then
		jit.flush()
	end
	for _, rec in pairs(self.records) do
		rec.record:forget_dead_threads()
	end
	for i = 1, MOST do
		-- Again if finalizers have run.
		local before = self.finalized
		self:collect()
		if i >= FEWEST and self.finalized == before and next(self.finished) == nil then
			break
		end
	end
	local _, kind = next(self.finished)
	if kind and not (self:is_waiting() or self:has_coroutines() or next(self.killed)) then
		self:violation("the callback of a request that is over is kept: " .. kind)
	end
end

function Run:shut_down()
	self.is_ending = true
	local clients = {}
	for client in pairs(self.alive) do
		clients[#clients + 1] = client
	end
	for _, client in ipairs(clients) do
		self:call(NO_STEP, MAIN, "shutdown", nil, client.shutdown, client)
		-- Handlers may have begun to connect again.
		if client.connection or client.opts.reconnect then
			self:call(NO_STEP, MAIN, "shutdown", nil, client.shutdown, client)
		end
	end
	-- A failure to send is found when a client is served.
	self:serve_all()
	self.host.finish(self, MAIN)
	local deadline = core.now() + self.patience
	self:resume_all()
	while (self:has_coroutines() or self:is_waiting()) and core.now() < deadline and not self.is_interrupted do
		self.host.serve(self, MAIN)
		self:resume_all()
	end
	if self:has_coroutines() then
		self:violation("a coroutine waits for ever")
	elseif self:is_waiting() then
		self:violation("await does not return after shutdown")
	end
end

-- Checks that the clients have done nothing that no client may do to a broker.
function Run:check_faults()
	for _, broker in pairs(self.control:log()) do
		for _, fault in ipairs(broker.faults) do
			self:violation(fault.kind, fault.text)
		end
	end
end

-- The checks after the end.
function Run:check_end()
	local log = self.control:log()
	for index, rec in pairs(self.records) do
		local record, client, what = rec.record, rec.client, log[index]
		record:check_dispatches()
		if record.opened > record.closed and not record.has_killed then
			self:violation("a connection without a close event")
		end
		if what.nonsense[1] then
			self:violation("the client sends nonsense: " .. what.nonsense[1])
		end
		self:check_attempts(rec, #what.connections)
		for _, exchange in pairs(record.exchanges) do
			if exchange.kind == "request" and exchange.is_accepted and exchange.has_callback and exchange.called == 0 then
				self:violation("the callback of a request is not called after shutdown")
			end
		end
		if client then
			if client.connection then
				self:violation("there is a connection after shutdown")
			elseif client._waits and next(client._waits.pending) then
				self:violation("_waits is not empty after shutdown")
			end
			for _, callback in pairs(client._callbacks) do
				if self.finished[callback] then
					self:violation("_callbacks has a callback that was called")
				end
			end
		end
	end
end

-- Checks that a client has not connected more often than it may.
function Run:check_attempts(rec, count)
	local record, reconnect = rec.record, rec.spec.opts.reconnect
	local may = record.may_connect
	if type(reconnect) == "number" then
		may = may + math.floor((core.now() - record.created_at) / reconnect) + 1
	elseif reconnect then
		return
	end
	if count > may then
		self:violation(reconnect and "a client reconnects too soon" or "a client reconnects without being asked to",
			("%d connections, %d allowed"):format(count, may))
	end
end

return Run

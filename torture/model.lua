--- The promises of the documentation, as checks: records what a program of the torture sees, and reports violations.

local M = {}

-- Errors that mean nothing to a caller: they come from inside.
local INTERNAL = {
	"attempt to ", "bad argument", "table index is", "stack overflow", "internal error", "panicked", "poison",
	"error converting", "no conversion", "C stack", "assertion failed", "cannot resume",
}

--- Whether an error message comes from inside.
-- @param message anything
-- @treturn boolean
function M.is_internal(message)
	if type(message) ~= "string" then
		return true
	end
	for _, text in ipairs(INTERNAL) do
		if message:find(text, 1, true) then
			return true
		end
	end
	return false
end

--- Returns a message without the parts that differ from run to run.
-- @param message anything
-- @treturn string
function M.generalize(message)
	local text = tostring(message):gsub("0x%x+", "0x"):gsub("luamqtt%-v[%w-]+", "ID"):gsub("%d+", "N")
	return (text:gsub("\n.*", ""):gsub("[%w_./]*/mqtt/", "mqtt/"))
end

--- Whether a broker has accepted a client, and the client has not left.
-- @tparam table client the client
-- @return a true value if so
function M.is_connected(client)
	local connack = client and client.connection and client.connection.connack
	return connack and connack.rc == 0
end

-- Return values -------------------------------------------------------------------------------------------------------

local function is_id(value)
	return type(value) == "number" and value >= 1 and value <= 65535 and value % 1 == 0
end

local function is_true(value)
	return value == true
end

-- The results of a function on success, and on failure: false or nil, with a message, perhaps with a packet.
local RETURNS = {
	publish = { is = function(value, qos)
		if qos == 0 then
			return value == true
		end
		return is_id(value) or qos == nil and value == true
	end, failure = false },
	subscribe = { is = is_id, failure = false },
	await = { is = function(value)
		return value == true or type(value) == "table"
	end, packet = true },
	request = { is = function(value)
		return value == true or type(value) == "table"
	end, packet = true },
	close_connection = { is = is_true },
	stats = { is = function(value)
		return type(value) == "table"
	end },
	getfd = { is = function(value)
		return type(value) == "number"
	end },
	none = { none = true },
}
RETURNS.unsubscribe, RETURNS.respond = RETURNS.subscribe, RETURNS.publish
RETURNS.shutdown, RETURNS.off = RETURNS.close_connection, RETURNS.close_connection
for _, name in ipairs({
	"acknowledge", "auth", "disconnect", "send_pingreq", "start_connecting", "open_connection", "send_connect",
	"on_topic", "off_topic", "add", "remove",
}) do
	RETURNS[name] = { is = is_true, failure = false }
end

--- Checks the results of a function. Returns an error message, or nil.
-- @tparam string name the function
-- @param detail the QoS for publish
-- @tparam number count how many results
-- @param first the results
-- @param second
-- @param third
function M.explain_returns(name, detail, count, first, second, third)
	if name == "step" then
		if first == nil and type(second) == "string" and count == 2
			or type(first) == "number" and (count == 1 or count == 2 and type(second) == "string") then
			return nil
		end
	elseif name == "check_keep_alive" then
		if type(first) == "number" and (count == 1 or count == 2 and (second == nil or type(second) == "string")) then
			return nil
		end
	elseif name == "run" then
		if count == 0 or count == 1 and first == true or count == 2 and first == nil and type(second) == "string" then
			return nil
		end
	elseif name == "iteration" or name == "on" then
		if count == 0 then
			return nil
		end
	else
		local expected = RETURNS[name]
		if first then
			if expected.is(first, detail) and count == 1 then
				return nil
			end
		elseif first == expected.failure and type(second) == "string" then
			if M.is_internal(second) then
				return "the message comes from inside: " .. second
			elseif count == 2 or expected.packet and count == 3 and type(third) == "table" then
				return nil
			end
		end
	end
	return ("returned %d values: %s, %s, %s"):format(count, tostring(first), tostring(second), tostring(third))
end

-- Events --------------------------------------------------------------------------------------------------------------

-- The packets that answer a request.
local ANSWERS = { publish1 = 4, publish2 = 5, subscribe = 9, unsubscribe = 11 }

local Record = {}
Record.__index = Record

--- Makes the record of a client.
-- @tparam function violation called with the kind of a violation, and a text
-- @tparam boolean is_ordered whether handlers are called by the thread that serves, not in threads of their own
-- @treturn table the record
function M.record(violation, is_ordered)
	return setmetatable({
		violation = violation,
		is_ordered = is_ordered,
		-- The events seen of each connection table.
		connections = setmetatable({}, { __mode = "k" }),
		last_serial = 0,
		opened = 0,
		closed = 0,
		connected_at = nil,
		-- The last message of each topic and QoS, and how often each message has come, by serial number.
		last = {},
		delivered = {},
		-- By serial number: the connection by which a message of QoS 2 has come, and whether the program has
		-- acknowledged it: true, or "perhaps".
		came_by = {},
		acknowledged = {},
		-- Requests, by tag.
		exchanges = {},
		-- Calls of handlers, under way or over: the handlers that have to be called, and the handlers that have been.
		dispatches = {},
		by_packet = setmetatable({}, { __mode = "k" }),
		-- The last call of handlers by each thread.
		latest = setmetatable({}, { __mode = "k" }),
		-- Whether a finalizer has closed the last connection, and no message has come since.
		closed_by_finalizer = nil,
		-- How many connections the program has asked for: the first one needs no call.
		may_connect = 1,
		created_at = nil,
		has_reconnected = false,
		-- The connection that the marker came on, and the broker's number of the connection.
		marked = nil,
		marker = nil,
		-- The bytes received before the connection.
		base = 0,
		-- Whether the first connect is a clean start only because it is the first.
		is_first_clean = false,
		-- Threads that the program has ended: their work may stay unfinished.
		killed_threads = setmetatable({}, { __mode = "k" }),
		has_killed = false,
		-- Events that the torture does not see, as a set.
		unseen = {},
	}, Record)
end

local function seen(self, connection)
	local what = self.connections[connection]
	if not what then
		self.last_serial = self.last_serial + 1
		what = { connects = 0, closes = 0, serial = self.last_serial }
		self.connections[connection] = what
	end
	return what
end

--- Returns the number of a connection: its address may be that of another one later.
-- @tparam ?table connection the connection
-- @treturn ?number its number
function Record:serial_of(connection)
	return connection and seen(self, connection).serial
end

local EVENTS = {}

function EVENTS:connect(client, connack)
	local connection = client.connection
	if connack.rc ~= 0 then
		return
	elseif not connection then
		return self.is_ordered and self.violation("connect event without a connection")
	end
	local what = seen(self, connection)
	what.connects = what.connects + 1
	if what.connects > 1 then
		self.violation("two connect events for one connection")
	end
	self.opened = self.opened + 1
	self.connected_at = self.now()
	local opts = client.opts
	-- At the first connect "first" has just become false.
	local keeps = opts.reconnect or opts.queue or opts.resubscribe
		or not opts.clean and not (self.is_first_clean and self.opened == 1)
	for _, exchange in pairs(self.exchanges) do
		if not keeps and not exchange.is_received and exchange.connection ~= self:serial_of(connection) then
			exchange.is_lost = true
		end
	end
end

function EVENTS:close(client, connection)
	local what = seen(self, connection)
	what.closes = what.closes + 1
	if what.closes > 1 then
		self.violation("two close events for one connection")
	elseif type(connection.close_reason) ~= "string" then
		self.violation("a close event without a close_reason")
	end
	if what.connects > 0 then
		self.closed = self.closed + 1
	end
	self.closed_by_finalizer = self.is_finalizing()
	self.base = client:stats().bytes_received
end

function EVENTS:message(client, message)
	local connection = client.connection
	local what = connection and seen(self, connection)
	-- A finalizer may run when a message has been taken, and before its handlers are called.
	local is_cut_off = not connection and self.closed_by_finalizer
	self.closed_by_finalizer = nil
	if is_cut_off then -- luacheck: ignore 542
		-- It has closed the connection.
	elseif self.is_ordered and not connection then
		self.violation("a message event after the close event")
	elseif self.is_ordered and what.connects == 0 then
		self.violation("a message event before the connect event")
	end
	local number = tonumber(message.payload)
	if message.topic == "end" then
		self.marked, self.marker = self:serial_of(connection), number
	elseif message.topic:find("^m/") and number then
		local stream = message.topic .. " " .. message.qos
		local count = self.delivered[number] or 0
		self.delivered[number] = count + 1
		-- A message that was not acknowledged comes again by the next connection.
		-- Where handlers run in threads of their own, the next connection may be there before a message is handled.
		local may_come_again = message.qos == 1 or message.qos == 2 and self.acknowledged[number] ~= true
			and (self.came_by[number] ~= self:serial_of(connection) or not self.is_ordered and message.dup)
		self.came_by[number] = self:serial_of(connection)
		if count > 0 and not may_come_again then
			self.violation("a message of QoS " .. message.qos .. " came twice")
		elseif count == 0 and number < (self.last[stream] or 0) then
			self.violation("messages of one topic and QoS out of order")
		end
		self.last[stream] = math.max(self.last[stream] or 0, number)
	end
end

--- Called by the first handler of each event.
-- @tparam string event the event
-- @tparam table client the client
-- @tparam table expected identifiers of the handlers that have to be called, as a list
-- @param first the first argument of the handlers
function Record:begin(event, client, expected, first)
	if EVENTS[event] then
		EVENTS[event](self, client, first)
	end
	local thread = coroutine.running()
	local before = thread and self.latest[thread]
	if before and before.inside == 0 then
		before.is_over = true
	end
	local dispatch = { event = event, expected = expected, called = {}, inside = 0, thread = thread,
		packet_id = type(first) == "table" and event ~= "message" and first.packet_id or nil }
	self.dispatches[#self.dispatches + 1] = dispatch
	if thread then
		self.latest[thread] = dispatch
	end
	-- The handlers of shutdown get the client, which is the same each time.
	if type(first) == "table" and event ~= "shutdown" then
		self.by_packet[first] = dispatch
	end
end

-- The packets that come with events.
local PACKETS = {
	connect = { [2] = true }, message = { [3] = true }, acknowledge = { [4] = true, [5] = true },
	subscribe = { [9] = true }, unsubscribe = { [11] = true }, auth = { [15] = true },
}

-- Whether the arguments of a handler fit its event.
local function is_of_event(event, first, second)
	if PACKETS[event] then
		return type(first) == "table" and PACKETS[event][first.type] and type(second) == "table"
	elseif event == "error" then
		return type(first) == "string" and type(second) == "table"
	elseif event == "close" then
		return type(first) == "table" and first.close_reason ~= nil and type(second) == "table"
	end
	return type(first) == "table" and first.opts ~= nil
end

--- Called by each handler of the program.
-- @treturn table the call, to be given to `left`
function Record:entered(event, id, first, second)
	if not is_of_event(event, first, second) then
		self.violation("a handler was called for another event: " .. event, tostring(first))
	end
	if self.unseen[event] then
		return { inside = 0 }
	end
	local dispatch = type(first) == "table" and self.by_packet[first] or nil
	for i = #self.dispatches, 1, -1 do
		local other = self.dispatches[i]
		if dispatch then
			break
		elseif other.event == event and not other.called[id] then
			dispatch = other
		end
	end
	if not dispatch then
		self.violation("a handler was called without its event: " .. event)
		return { inside = 0 }
	elseif dispatch.called[id] then
		self.violation("a handler was called twice for one event: " .. event)
	end
	dispatch.called[id] = true
	dispatch.inside = dispatch.inside + 1
	return dispatch
end

--- Called by each handler of a topic.
-- @tparam table message the message
-- @treturn table the call, to be given to `left`
function Record:entered_topic(message)
	local dispatch = self.by_packet[message] or { inside = 0 }
	dispatch.inside = dispatch.inside + 1
	return dispatch
end

--- Called when such a handler has returned or raised an error.
function Record.left(_, dispatch)
	dispatch.inside = dispatch.inside - 1
end

--- Whether a handler of an event has not returned yet.
function Record:is_inside(event)
	for _, dispatch in ipairs(self.dispatches) do
		if dispatch.event == event and dispatch.inside > 0 then
			return true
		end
	end
	return false
end

--- Notes that the program has ended a thread.
-- @tparam thread thread the thread
function Record:killed(thread)
	self.killed_threads[thread], self.has_killed = true, true
end

--- Notes that a thread has been ended that was about to call the callback of a request: of the request that a packet
-- answers. A message may be the response to any request.
-- @tparam string event the event whose handlers the thread was calling
-- @tparam ?number packet_id the packet identifier, if the event's packet answers a request
function Record:unanswered(event, packet_id)
	for _, exchange in pairs(self.exchanges) do
		if event == "message" and exchange.kind == "request" or packet_id and exchange.id == packet_id then
			exchange.is_lost = true
		end
	end
end

-- Whether the thread that called these handlers has been ended.
function Record:was_killed(dispatch)
	return dispatch.thread and self.killed_threads[dispatch.thread]
end

--- Whether a message is missing: the broker has sent it by the last connection, perhaps by earlier connections too, it
-- has not come by the last connection, and the program has not acknowledged it.
-- @tparam table message the broker's record of the message
-- @tparam table client the client
-- @treturn boolean
function Record:is_owed(message, client)
	return message.qos > 0 and not client.opts.auto_ack and not self.acknowledged[message.serial]
		and self.came_by[message.serial] ~= self:serial_of(client.connection)
end

--- Lets go of threads that are over, and so of everything on their stacks.
function Record:forget_dead_threads()
	for _, dispatch in ipairs(self.dispatches) do
		local thread = dispatch.thread
		if thread and coroutine.status(thread) == "dead" and not self:was_killed(dispatch) then
			dispatch.thread = nil
		end
	end
end

--- Checks that all handlers have been called.
function Record:check_dispatches()
	for _, dispatch in ipairs(self.dispatches) do
		for _, id in ipairs(dispatch.expected) do
			if not dispatch.called[id] and dispatch.inside == 0 and not self:was_killed(dispatch) then
				self.violation("a handler was not called: " .. dispatch.event,
					("handler %d of %d"):format(id, #dispatch.expected))
			end
		end
	end
end

-- Requests ------------------------------------------------------------------------------------------------------------

--- Notes a request that is about to be made.
-- @tparam string tag the mark by which the broker knows the request
-- @tparam string kind publish0, publish1, publish2, subscribe, unsubscribe or request
-- @tparam boolean has_callback whether the request has a callback
-- @treturn table the exchange
function Record:ask(tag, kind, has_callback)
	local exchange = { tag = tag, kind = kind, has_callback = has_callback, called = 0, is_accepted = nil }
	self.exchanges[tag] = exchange
	return exchange
end

--- Notes whether the request was accepted.
function Record:asked(exchange, client, accepted)
	exchange.is_accepted = accepted and true or false
	exchange.id = accepted
	exchange.connection = self:serial_of(client.connection)
	if not accepted and exchange.called > 0 then
		self.violation("the callback of a refused request was called: " .. exchange.kind)
	elseif accepted and exchange.kind == "publish0" and exchange.has_callback and exchange.called ~= 1 then
		self.violation("the callback of a publish of QoS 0 was not called at once")
	end
end

--- Notes that its callback is called.
function Record:answered(exchange, answer, reason)
	exchange.called = exchange.called + 1
	if exchange.called > 1 then
		self.violation("a callback was called twice: " .. exchange.kind)
	elseif exchange.is_accepted == false then
		self.violation("the callback of a refused request was called: " .. exchange.kind)
	end
	if exchange.kind == "publish0" then
		if type(answer) ~= "string" then
			self.violation("the callback of a publish of QoS 0 got a " .. type(answer))
		end
	elseif exchange.kind == "request" then
		if type(answer) ~= "table" and type(reason) ~= "string" then
			self.violation("the callback of a request got neither a response nor an error")
		end
	elseif type(answer) ~= "table" or answer.type ~= ANSWERS[exchange.kind] then
		self.violation("a callback got another packet: " .. exchange.kind, tostring(answer))
	elseif type(exchange.id) == "number" and answer.packet_id ~= exchange.id then
		self.violation("a callback got another packet's answer: " .. exchange.kind)
	end
end

--- Returns a request whose callback still has to be called while the client is connected, or nil.
function Record:missing(client)
	if client:stats().dropped > 0 then
		return nil
	end
	for _, dispatch in ipairs(self.dispatches) do
		if self:was_killed(dispatch) and not dispatch.is_over then
			self:unanswered(dispatch.event, dispatch.packet_id)
		end
	end
	for _, exchange in pairs(self.exchanges) do
		if exchange.is_accepted and exchange.has_callback and exchange.called == 0 and not exchange.is_lost
			and not exchange.is_unsure then
			return exchange
		end
	end
end

--- Returns the subscribe and unsubscribe requests that were made by a client's connection, as a list.
function Record:subscriptions(client)
	local found, connection = {}, self:serial_of(client.connection)
	for _, exchange in pairs(self.exchanges) do
		if exchange.is_accepted and exchange.connection == connection and client:stats().dropped == 0
			and (exchange.kind == "subscribe" or exchange.kind == "unsubscribe") then
			found[#found + 1] = exchange
		end
	end
	return found
end

--- Marks the requests that the broker has answered on the client's connection, all of which have been received.
function Record:received(answered, number)
	for tag, connection in pairs(answered) do
		if connection == number and self.exchanges[tag] then
			self.exchanges[tag].is_received = true
		end
	end
end

return M

-- The brokers of a program of the torture, which behave mostly well, sometimes badly, as the program says. Also the
-- watchdog, which kills the process that runs the programs when a program takes too long.
-- Prints the port of its control connection. `torture.control` writes there:
--   begin PID LIMIT LENGTH  a program begins, in the process PID, for LIMIT seconds at most; LENGTH bytes follow, the
--                           plans of the brokers: a list for each client. Answered by the ports
--   settle                  from now on the brokers behave: they send withheld packets, and a marker on each connection
--   log                     answered by the events so far
--   stop                    the program is over

local socket = require("socket")

local data = require("torture.data")
local packet_type = require("mqtt.protocol").packet_type

local protocols = { [4] = require("mqtt.protocol4"), [5] = require("mqtt.protocol5") }

-- The delay of a late answer, and how long a killed process may take to say where it was, in seconds.
local LATE = 0.004
local LAST_WORDS = 1
-- How long a broker with limits withholds an answer before it gives in, and how long a deaf broker reads nothing, in
-- seconds.
local HOLD = 0.6
-- In how many pieces a message trickles, and the time between two pieces, in seconds.
local PIECES, DRIP = 4, 0.002
-- How long one wait takes at most, in seconds.
local PAUSE = 0.25
-- The last identifier of messages to clients: never are more messages unacknowledged.
local LAST_ID = 1000
-- The first byte of a CONNECT.
local CONNECT = 0x10
-- How many bytes of a malformed packet are reported.
local NONSENSE = 40

local AUTHENTICATION = { authentication_method = "torture" }
-- The behaviour after the end of a plan, and when all is to end well.
local WELL = { connack = "ok", answers = { "answer" }, pushes = {} }

-- All sockets waited for, each with the function to call when it is readable.
local readable = {}
-- Work for later: a list of `{ at=, run= }`.
local timers = {}
-- The programs under way, by their control connections.
local scenarios = {}

local function later(seconds, run)
	timers[#timers + 1] = { at = socket.gettime() + seconds, run = run }
end

-- Connections ---------------------------------------------------------------------------------------------------------

local Connection = {}
Connection.__index = Connection

function Connection:plan_now()
	return self.scenario.is_settled and WELL or self.plan
end

-- Notes a fault of the client.
function Connection:fault(kind, text)
	table.insert(self.broker.faults, { kind = kind, text = text })
end

function Connection:write(bytes)
	if self.sock and not self.has_ended then
		self.sent = self.sent + #bytes
		if self.trickling then
			self.trickling = self.trickling .. bytes
		else
			self.sock:send(bytes)
		end
	end
end

-- Writes in small pieces; bytes written meanwhile come behind.
function Connection:trickle(bytes)
	if not self.sock or self.has_ended or self.trickling then
		return self:write(bytes)
	end
	local size = math.ceil(#bytes / PIECES)
	local left = #bytes
	self.sent, self.trickling = self.sent + #bytes, bytes
	local function drip()
		if not self.sock then
			return
		end
		local count = left > size and size or #self.trickling
		self.sock:send(self.trickling:sub(1, count))
		self.trickling, left = self.trickling:sub(count + 1), left - count
		if left > 0 then
			later(DRIP, drip)
		else
			self.trickling = nil
		end
	end
	drip()
end

-- Reads again, if nothing has been read for some time.
function Connection:hear()
	if self.sock and self.is_deaf then
		self.is_deaf, readable[self.sock] = false, self.listen
		self.listen()
	end
end

function Connection:send(packet)
	self:write(tostring(self.protocol.make_packet(packet)))
end

function Connection:close(by)
	if self.sock then
		readable[self.sock] = nil
		self.sock:close()
		self.sock = nil
		self.record.closed_by = self.record.closed_by or by
	end
end

-- The ways to end a connection, and to spoil one.
local SPOIL = {
	close = function(self)
		self:close("broker")
	end,
	reset = function(self)
		self.sock:setoption("linger", { on = true, timeout = 0 })
		self:close("broker")
	end,
	half_close = function(self)
		self.sock:shutdown("send")
		self.has_ended, self.record.closed_by = true, "broker"
	end,
	garbage = function(self)
		self:write("\0\0torture")
		self.has_ended, self.record.closed_by = true, "broker"
	end,
	disconnect = function(self)
		if self.version == 5 then
			self:send({ type = packet_type.DISCONNECT, rc = 0x8B })
		end
		self:close("broker")
	end,
}

-- Sends a message. A message without a serial number is the response to a request.
function Connection:send_message(message, dup)
	if message.serial then
		table.insert(self.broker.messages, {
			serial = message.serial, connection = self.serial, topic = message.topic, qos = message.qos,
		})
	end
	local bytes = tostring(self.protocol.make_packet({
		type = packet_type.PUBLISH, topic = message.topic, payload = tostring(message.serial or message.payload),
		qos = message.qos, packet_id = message.id, dup = dup or false, retain = false, properties = message.properties,
	}))
	if message.is_slow then
		self:trickle(bytes)
	else
		self:write(bytes)
	end
end

function Connection:send_marker()
	self.is_marked = true
	self:send({ type = packet_type.PUBLISH, topic = "end", payload = tostring(self.serial), qos = 0 })
end

-- An identifier that is not in use.
local function next_id(broker)
	local used = {}
	for _, message in ipairs(broker.session) do
		used[message.id] = true
	end
	repeat
		broker.last_id = broker.last_id % LAST_ID + 1
	until not used[broker.last_id]
	return broker.last_id
end

-- Sends a new message, and keeps it in the session.
function Connection:send_new(message)
	if message.qos > 0 then
		message.id, message.connection = next_id(self.broker), self
		table.insert(self.broker.session, message)
	end
	self:send_message(message)
end

local function push_messages(self, push)
	for _ = 1, push.count or 1 do
		local broker = self.broker
		broker.last_serial = broker.last_serial + 1
		self:send_new({ serial = broker.last_serial, topic = push.topic or "m/1", qos = push.qos or 0,
			is_slow = push.what == "trickle" })
	end
end

local PUSH = {
	messages = push_messages,
	-- In small pieces.
	trickle = push_messages,
	-- Reads nothing for some time.
	deaf = function(self)
		self.is_deaf, readable[self.sock] = true, nil
		later(HOLD, function()
			self:hear()
		end)
	end,
	-- Repeats unacknowledged messages, as no sane broker does.
	["repeat"] = function(self)
		for _, message in ipairs(self.broker.session) do
			if message.connection == self and not message.is_received then
				self:send_message(message, true)
			end
		end
	end,
}

-- Does what the plan has for this moment, which is a number of packets.
function Connection:push()
	for _, push in ipairs(self:plan_now().pushes) do
		if push.after == self.count and self.sock and not self.has_ended then
			(PUSH[push.what] or SPOIL[push.what])(self, push)
		end
	end
end

function Connection:accept()
	local connect, broker = self.connect, self.broker
	local keeps = not connect.clean and self.plan.session ~= "forget"
	local is_resumed = keeps and broker.has_session
	broker.has_session = keeps
	if not is_resumed then
		broker.session, broker.granted = {}, {}
	end
	-- What the client has sent on an earlier connection may be read later.
	self.granted = broker.granted
	self.is_accepted = true
	local properties
	if self.version == 5 then
		properties = data.copy(self:plan_now().limits or {})
		properties.authentication_method = connect.properties.authentication_method
		self.limits = properties
	end
	self.limits.receive_maximum = self.limits.receive_maximum or self.broker.plans.receive_maximum
	self:send({ type = packet_type.CONNACK, sp = is_resumed, rc = 0, properties = properties })
	for _, message in ipairs(broker.session) do
		message.connection = self
		if message.is_received then
			self:send({ type = packet_type.PUBREL, packet_id = message.id, rc = 0 })
		else
			self:send_message(message, true)
		end
	end
	if self.scenario.is_settled then
		self:send_marker()
	end
end

function Connection:accept_if_open()
	if self.sock and not self.has_ended and not self.is_accepted then
		self:accept()
	end
end

-- What a broker does instead of accepting.
local CONNACK = {
	refuse = function(self)
		self:send({ type = packet_type.CONNACK, sp = false, rc = self.version == 5 and 0x87 or 5 })
		self:close("broker")
	end,
	withhold = function() end,
	late = function(self)
		later(LATE, function()
			self:accept_if_open()
		end)
	end,
	-- Accepts, and ends the connection at once: session taken over.
	kick = function(self)
		self:accept()
		if self.version == 5 then
			self:send({ type = packet_type.DISCONNECT, rc = 0x8E })
		end
		self:close("broker")
	end,
	auth = function(self)
		if self.version == 5 and self.connect.properties.authentication_method then
			self:send({ type = packet_type.AUTH, rc = 0x18, properties = AUTHENTICATION })
		else
			self:accept()
		end
	end,
}

-- Answers a request as the plan says: by `accept` or by `refuse`.
function Connection:answer(tag, accept, refuse)
	local answers = self:plan_now().answers
	self.requests = self.requests + 1
	self.broker.requested[tag] = self.serial
	local action = answers[(self.requests - 1) % math.max(#answers, 1) + 1] or "answer"
	local is_over
	local function reply()
		if self.sock and not self.has_ended and not is_over then
			is_over = true
			self.broker.answered[tag] = self.serial;
			(action == "refuse" and refuse or accept)()
		end
	end
	if action == "withhold" then
		table.insert(self.scenario.withheld, reply)
		if self.limits.receive_maximum then
			later(HOLD, reply)
		end
	elseif action == "late" then
		later(LATE, reply)
	elseif action == "answer" or action == "refuse" then
		reply()
	else
		local spoil = action:match("^answer_(.*)$")
		if spoil then
			reply()
		end
		SPOIL[spoil or action](self)
	end
end

-- Whether the broker has granted a topic for responses, in the session of this connection.
local function is_granted(self, topic)
	return self.granted[topic] ~= nil
end

-- Notes that the client exceeds a limit. A client may send messages before it has the CONNACK with the limits, if it
-- then leaves: so this counts only if the client shows that it has received something, on this connection and later.
function Connection:suspect(kind, text)
	table.insert(self.suspicions, { kind = kind, text = text })
end

function Connection:has_shown_itself()
	for _, suspicion in ipairs(self.suspicions) do
		table.insert(self.broker.faults, suspicion)
	end
	self.suspicions = {}
end

-- Checks a PUBLISH of the client.
function Connection:check_publish(packet, size)
	local limits, response_topic = self.limits, packet.properties and packet.properties.response_topic
	if packet.qos > (limits.maximum_qos or 2) then
		self:suspect("a message exceeds the maximum QoS", ("QoS %d"):format(packet.qos))
	elseif size > (limits.maximum_packet_size or math.huge) then
		self:suspect("a message exceeds the maximum packet size", ("%d bytes"):format(size))
	elseif packet.qos > (self.version == 5 and 0 or 1) then
		self.in_flight[packet.packet_id] = true
		local count = 0
		for _ in pairs(self.in_flight) do
			count = count + 1
		end
		if count > (limits.receive_maximum or math.huge) then
			self:suspect("the receive maximum is exceeded", ("%d messages"):format(count))
		end
	end
	if response_topic and not is_granted(self, response_topic) then
		self:fault("a request is sent before its topic for responses is granted", packet.payload)
	end
end

-- Sends the response to a request, if the client has a subscription for it.
function Connection:respond(request)
	local properties = request.properties or {}
	if properties.response_topic and is_granted(self, properties.response_topic) then
		self:send_new({ topic = properties.response_topic, qos = request.qos, payload = "response",
			properties = { correlation_data = properties.correlation_data } })
	end
end

-- Removes a message to the client from the session.
local function forget(self, id)
	local session = self.broker.session
	for i, message in ipairs(session) do
		if message.id == id then
			return table.remove(session, i)
		end
	end
end

local RECEIVED = {
	[packet_type.CONNECT] = function(self, packet)
		self.connect = packet
		local what = self:plan_now().connack
		if what == "ok" then
			self:accept()
		else
			(CONNACK[what] or SPOIL[what])(self)
		end
	end,
	[packet_type.AUTH] = function(self)
		self:accept_if_open()
	end,
	[packet_type.PUBLISH] = function(self, packet, size)
		self:check_publish(packet, size)
		local tag, id, qos = (packet.payload or ""):match("^[^:]*"), packet.packet_id, packet.qos
		local ack = qos == 1 and packet_type.PUBACK or packet_type.PUBREC
		if qos == 0 then
			self:respond(packet)
			return
		end
		self:answer(tag, function()
			if qos == 1 then
				self.in_flight[id] = nil
			end
			self:send({ type = ack, packet_id = id, rc = 0 })
			self:respond(packet)
		end, function()
			self.in_flight[id] = nil
			self:send({ type = ack, packet_id = id, rc = self.version == 5 and 0x87 or 0 })
		end)
	end,
	[packet_type.SUBSCRIBE] = function(self, packet)
		local topic, id = packet.subscriptions[1].topic, packet.packet_id
		self:answer(topic:match("[^/]*$"), function()
			self.granted[topic] = true
			self:send({ type = packet_type.SUBACK, packet_id = id, rc = { 0 } })
		end, function()
			self:send({ type = packet_type.SUBACK, packet_id = id, rc = { self.version == 5 and 0x87 or 0x80 } })
		end)
	end,
	[packet_type.UNSUBSCRIBE] = function(self, packet)
		local topic, id = packet.subscriptions[1], packet.packet_id
		self:answer(topic:match("[^/]*$"), function()
			self.granted[topic] = nil
			self:send({ type = packet_type.UNSUBACK, packet_id = id, rc = { 0 } })
		end, function()
			self:send({ type = packet_type.UNSUBACK, packet_id = id, rc = { 0x87 } })
		end)
	end,
	[packet_type.PUBREL] = function(self, packet)
		self.in_flight[packet.packet_id] = nil
		self:send({ type = packet_type.PUBCOMP, packet_id = packet.packet_id, rc = 0 })
	end,
	[packet_type.PUBACK] = function(self, packet)
		forget(self, packet.packet_id)
	end,
	[packet_type.PUBREC] = function(self, packet)
		if (packet.rc or 0) >= 0x80 then
			forget(self, packet.packet_id)
			return
		end
		for _, message in ipairs(self.broker.session) do
			if message.id == packet.packet_id then
				message.is_received = true
			end
		end
		self:send({ type = packet_type.PUBREL, packet_id = packet.packet_id, rc = 0 })
	end,
	[packet_type.PUBCOMP] = function(self, packet)
		forget(self, packet.packet_id)
	end,
	[packet_type.PINGREQ] = function(self)
		self:send({ type = packet_type.PINGRESP })
	end,
	[packet_type.DISCONNECT] = function(self)
		self:close("client")
	end,
}

-- Packets that a client sends only after it has received something.
local ANSWERS = {
	[packet_type.PUBACK] = true, [packet_type.PUBREC] = true, [packet_type.PUBREL] = true, [packet_type.PUBCOMP] = true,
}

-- Takes a whole packet off the buffer, if there is one.
local function take_packet(self)
	if self.lacking > 0 then
		return nil
	end
	local buffer = self.buffer
	local length, unit, at = 0, 1, 2
	repeat
		local byte = buffer:byte(at)
		if not byte then
			return nil
		end
		length, unit, at = length + byte % 128 * unit, unit * 128, at + 1
	until byte < 128 or at > 6
	if #buffer < at - 1 + length then
		self.lacking = at - 1 + length - #buffer
		return nil
	end
	if self.count == 0 and buffer:byte() == CONNECT and not buffer:find(self.broker.plans.id, 1, true) then
		self:fault("a client of another program connects", buffer:match("torture%-[%d-]+"))
		self:close("broker")
		return nil
	end
	local position = 1
	local packet, err = self.protocol.parse_packet(function(size)
		position = position + size
		return buffer:sub(position - size, position - 1)
	end)
	self.buffer = buffer:sub(at + length)
	if not packet then
		local bytes = buffer:sub(1, math.min(at - 1 + length, NONSENSE)):gsub(".", function(byte)
			return ("%02X "):format(byte:byte())
		end)
		table.insert(self.broker.nonsense, ("%s: %s"):format(err, bytes))
		self:close("broker")
		return nil
	end
	return packet, at - 1 + length
end

function Connection:receive()
	local bytes, err, partial = self.sock:receive(65536)
	self.pieces[#self.pieces + 1] = bytes or partial
	self.read = self.read + #(bytes or partial)
	self.lacking = self.lacking - #(bytes or partial)
	-- The pieces of a huge packet are put together once.
	if self.lacking <= 0 then
		self.buffer = self.buffer .. table.concat(self.pieces)
		self.pieces, self.lacking = {}, 0
	end
	for packet, size in take_packet, self do
		self.count = self.count + 1
		self.record.received = self.count
		if ANSWERS[packet.type] then
			self:has_shown_itself()
		end
		if RECEIVED[packet.type] then
			RECEIVED[packet.type](self, packet, size)
		end
		if self.sock then
			self:push()
		end
		if not self.sock or self.is_deaf then
			return
		end
	end
	if err == "closed" then
		self:close("client")
	end
end

local function accepted(scenario, broker, index)
	local sock = broker.listener:accept()
	if not sock then
		return
	end
	sock:settimeout(0)
	sock:setoption("tcp-nodelay", true)
	local number = #broker.connections + 1
	local plans = broker.plans
	local plan = plans[number] or WELL
	local way = not scenario.is_settled and plan.accept
	local self = setmetatable({
		sock = sock,
		scenario = scenario,
		broker = broker,
		serial = number,
		plan = plan,
		version = plans.version,
		protocol = protocols[plans.version],
		record = { client = index, received = 0 },
		-- Bytes that have been received: put together, and those that came later; and how many the packet lacks.
		buffer = "",
		pieces = {},
		lacking = 0,
		count = 0,
		requests = 0,
		sent = 0,
		read = 0,
		-- The limits of the client, once it has been accepted, and its messages that have not been answered.
		limits = {},
		in_flight = {},
		suspicions = {},
		-- Topics for responses that the broker has granted.
		granted = {},
		-- Whether the connection reads nothing, and the bytes to be written in small pieces.
		is_deaf = way == "deaf",
		trickling = nil,
	}, Connection)
	broker.connections[number] = self
	if way == "close" or way == "reset" then
		SPOIL[way](self)
	else
		self.listen = function()
			self:receive()
		end
		-- A deaf connection reads nothing until all is to end well.
		readable[sock] = not self.is_deaf and self.listen or nil
	end
end

-- Programs ------------------------------------------------------------------------------------------------------------

local function start(pid, limit, plans_of_all)
	local scenario = { pid = pid, limit = limit, brokers = {}, withheld = {}, is_settled = false }
	local ports = {}
	for index, plans in ipairs(plans_of_all) do
		-- A broker that is absent keeps its port: another process must not answer there.
		local listener = assert(socket.tcp4())
		assert(listener:bind("127.0.0.1", 0))
		listener:settimeout(0)
		local broker = {
			listener = listener,
			plans = plans,
			connections = {},
			-- Messages to the client that it has not acknowledged, while there is a session.
			session = {},
			has_session = false,
			last_id = 0,
			last_serial = 0,
			messages = {},
			-- The numbers of the connections by which requests came and were answered, by their tags.
			requested = {},
			answered = {},
			-- Subscriptions of the session.
			granted = {},
			nonsense = {},
			faults = {},
		}
		scenario.brokers[index] = broker
		ports[index] = select(2, listener:getsockname())
		if not plans.is_absent then
			assert(listener:listen(32))
			readable[listener] = function()
				accepted(scenario, broker, index)
			end
		end
	end
	scenario.kill_at = socket.gettime() + limit
	return scenario, table.concat(ports, " ")
end

local function each_connection(scenario, run)
	for _, broker in ipairs(scenario.brokers) do
		for _, connection in ipairs(broker.connections) do
			if connection.sock then
				run(connection)
			end
		end
	end
end

local function settle(scenario)
	scenario.is_settled = true
	for _, reply in ipairs(scenario.withheld) do
		reply()
	end
	each_connection(scenario, function(self)
		self:hear()
		if self.is_accepted and not self.is_marked then
			self:send_marker()
		elseif self.connect then
			self:accept_if_open()
		end
	end)
end

local function log(scenario)
	local brokers = {}
	for index, broker in ipairs(scenario.brokers) do
		local connections = {}
		for i, connection in ipairs(broker.connections) do
			connections[i] = { sent = connection.sent, read = connection.read, received = connection.count,
				requests = connection.requests,
				closed_by = connection.record.closed_by,
				is_listening = connection.sock ~= nil and not connection.has_ended and not connection.is_deaf }
		end
		brokers[index] = { connections = connections, messages = broker.messages, requested = broker.requested,
			answered = broker.answered, nonsense = broker.nonsense, faults = broker.faults }
	end
	return data.write(brokers)
end

local function stop(scenario)
	each_connection(scenario, function(self)
		self:close("end")
	end)
	for _, broker in ipairs(scenario.brokers) do
		readable[broker.listener] = nil
		broker.listener:close()
	end
end

-- Kills a process that takes too long: at first so that it can say where it was.
local function watch()
	local now = socket.gettime()
	for _, scenario in pairs(scenarios) do
		if now > scenario.kill_at then
			os.execute("kill -" .. (scenario.is_warned and "KILL " or "INT ") .. scenario.pid .. " 2>/dev/null")
			scenario.is_warned = true
			scenario.kill_at = now + LAST_WORDS
		end
	end
end

local function controlled(control)
	local line = control:receive("*l")
	if not line then
		if scenarios[control] then
			stop(scenarios[control])
		end
		scenarios[control], readable[control] = nil, nil
		control:close()
		return
	end
	local scenario = scenarios[control]
	local pid, limit, length = line:match("^begin (%d+) (%S+) (%d+)$")
	local answer = "done"
	if pid then
		scenarios[control], answer = start(pid, tonumber(limit), data.read(control:receive(tonumber(length))))
	elseif line == "settle" then
		settle(scenario)
	elseif line == "log" then
		answer = log(scenario)
	elseif line == "stop" then
		stop(scenario)
		scenarios[control] = nil
	end
	control:send(answer .. "\n")
end

local listener = assert(socket.bind("127.0.0.1", 0))
readable[listener] = function()
	local control = listener:accept()
	control:setoption("tcp-nodelay", true)
	readable[control] = function()
		controlled(control)
	end
end
io.stdout:write("listening ", (select(2, listener:getsockname())), "\n")
io.stdout:flush()

while true do
	local sockets, wait = {}, PAUSE
	for sock in pairs(readable) do
		sockets[#sockets + 1] = sock
	end
	for _, timer in ipairs(timers) do
		wait = math.min(wait, math.max(timer.at - socket.gettime(), 0))
	end
	local ready = socket.select(sockets, nil, wait)
	for _, sock in ipairs(ready) do
		if readable[sock] then
			readable[sock](sock)
		end
	end
	local now, due = socket.gettime(), timers
	timers = {}
	for _, timer in ipairs(due) do
		if timer.at <= now then
			timer.run()
		else
			timers[#timers + 1] = timer
		end
	end
	watch()
end

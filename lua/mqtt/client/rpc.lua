--- Requests and responses of MQTT 5.0 (4.10): `client._rpc`. `Client:request` and `Client:respond` are documented in
-- `mqtt.client`.
-- Internal to `mqtt.client`.

local arguments = require("mqtt.client.arguments")
local await = require("mqtt.client.await")
local const = require("mqtt.const")
local core = require("mqtt.core")
local ending = require("mqtt.client.ending")
local fields = require("mqtt.client.fields")
local host = require("mqtt.host")
local log = require("mqtt.log")
local protect = require("mqtt.protect")
local requests = require("mqtt.client.requests")
local Waits = require("mqtt.client.waits")

local each, error, ipairs, next, setmetatable, type = pairs, error, ipairs, next, setmetatable, type
local str_format = string.format
local table_sort = table.sort
local raise, try, with = protect.raise, protect.try, fields.with

-- The options of `Client:request`.
local REQUEST = with(fields.publish, { timeout = true })
-- Requests end with their process.
REQUEST.tag, REQUEST.expire = nil, nil

-- How long a response may take unless the request says otherwise, in seconds.
local TIMEOUT = 10
local REFUSED = await.REFUSED

local Rpc = {}
Rpc.__index = Rpc

local function new(client)
	return setmetatable({
		client = client,
		-- The last part of the topic for responses, and the first part of correlation data; and the number of requests
		-- so far.
		name = core.random_hex(32),
		last = 0,
		-- The topic for responses, and the topic that it is below.
		topic = nil,
		base = nil,
		-- Waits by correlation data, and listeners by topic.
		requests = setmetatable({}, { __mode = "v" }),
		listeners = {},
		-- Requests whose response topic is not known yet, in the form of `requests` of a listener.
		moved = {},
		-- Requests of QoS 1 that have been sent, by their waits: the function to send them again, and the topic if it
		-- is the program's own.
		sent = setmetatable({}, { __mode = "k" }),
	}, Rpc)
end

-- Checks the options of a publish by one of these methods. Returns an error message, or nil.
local function explain(client, opts, known, also)
	if client._version ~= const.v50 then
		return "allowed only in MQTT v5.0 protocol"
	elseif type(opts) ~= "table" then
		return "expecting opts to be a table"
	end
	local unknown = fields.strict("opts", opts, known)
	if unknown then
		return unknown
	elseif opts.properties ~= nil and type(opts.properties) ~= "table" then
		return "expecting opts.properties to be a table"
	end
	local properties = opts.properties or {}
	if properties.correlation_data ~= nil then
		return "expecting no opts.properties.correlation_data, which is given by the library"
	end
	return arguments.request("publish", with(opts, also or {}), client._version)
end

-- Removes the listener of a topic. Handlers of the program for the same topic stay.
local function drop_listener(self, topic)
	local listener = self.listeners[topic]
	if listener then
		self.listeners[topic] = nil
		self.client:off_topic(topic, listener.handler)
	end
end

-- The topic for responses to requests that name none: below the response information of the broker (3.1.2.11.7) if it
-- gives any, else a topic that nobody else has. Or nil and an error message.
local function response_topic(self)
	local conn = self.client.connection
	local connack = conn and conn.connack
	local base = connack and connack.properties and connack.properties.response_information or self.base or "responses"
	if base ~= self.base then
		local topic = base:gsub("/$", "") .. "/" .. self.name
		local broken = core.check_topic_name(topic)
		if broken then
			return nil, "the broker's response information is of no use: " .. broken
		end
		self.base, self.topic = base, topic
	end
	return self.topic
end

-- Takes a message on a topic for responses.
local function receive(self, message)
	if message.qos > 0 then
		local ok, err = self.client:acknowledge(message)
		if not ok then
			-- A handler of `message` may have acknowledged it already.
			log:debug("[LuaMQTT] client '%s' did not acknowledge a response: %s", self.client.opts.id, err)
		end
	end
	local data = message.properties and message.properties.correlation_data
	local wait = data and self.requests[data]
	if wait then
		self.requests[data] = nil
		self.client._waits:finish(wait, message)
	else
		log:debug("[LuaMQTT] client '%s' received a response that nobody waits for", self.client.opts.id)
	end
end

-- Whether requests with this listener may be sent: the broker has granted the topic in this session. A connection that
-- the session has given up takes no requests: they wait for the next connection.
local function is_granted(self, listener)
	local conn = self.client.connection
	local connack = conn and conn.connack
	return self.client._topics:is_granted(listener.topic) and connack and connack.rc == 0
		and not self.client._link:is_failed()
end

-- Sends the requests that have waited for their topic, in the order in which they were made. With an error message, and
-- perhaps a packet, ends them instead. Raises the first error.
local function release(self, listener, err, pck)
	local held, order, failure = listener.requests, {}, nil
	for wait in each(held) do
		order[#order + 1] = wait
	end
	table_sort(order, function(a, b)
		return a.number < b.number
	end)
	local waits = self.client._waits
	for _, wait in ipairs(order) do
		local send = held[wait]
		-- Each leaves the table before it is sent: the others stay there if this thread is ended meanwhile.
		if not send then -- luacheck: ignore 542
			-- Another thread has sent it.
		elseif wait.results then
			held[wait] = nil
		elseif err then
			held[wait] = nil
			waits:finish_soon(wait, nil, err, pck)
		elseif is_granted(self, listener) then
			held[wait] = nil
			failure = try(failure, send)
		end
	end
	raise(failure)
end

-- Subscribes to a topic for responses, once. Returns the listener, or nil and an error message.
local function listen(self, topic)
	local listener = self.listeners[topic]
	if listener and not listener.is_former then
		return listener
	end
	drop_listener(self, topic)
	-- Requests are not sent before the broker has the subscription. `requests` has the function that sends each, by its
	-- wait.
	listener = { topic = topic, requests = {} }
	self.listeners[topic] = listener
	function listener.handler(message)
		receive(self, message)
	end
	local ok, err = self.client:on_topic {
		topic = topic,
		subscribe = true,
		qos = 1,
		handler = listener.handler,
	}
	if not ok then
		if self.listeners[topic] == listener then
			self.listeners[topic] = nil
		end
		-- Ends the requests that other threads have made meanwhile.
		release(self, listener, err)
		return nil, err
	end
	return listener
end

--- The broker has answered the SUBSCRIBE of a topic. If it is a topic for responses, the next step sends the requests
-- that wait for it, or ends them: handlers of the SUBACK may end this thread before. Neither yields nor raises.
-- @tparam string topic the topic
-- @tparam table suback the answer
function Rpc:inbox_answered(topic, suback)
	local client, listener = self.client, self.listeners[topic]
	if not listener then
		return
	end
	local conn, refusal = client.connection, suback.rc[1] >= REFUSED and suback:reason_strings()[1] or nil
	Waits.of(client):soon(function()
		local subscription = client._topics.subscriptions[topic]
		if not refusal then
			release(self, listener)
		elseif client.connection == conn and self.listeners[topic] == listener
			and not (subscription and subscription.state) then
			-- Otherwise the topic has been asked for again.
			drop_listener(self, topic)
			release(self, listener, refusal, suback)
		end
	end)
end

--- The SUBSCRIBE of a topic cannot be sent. If it is a topic for responses, the requests that wait for it end. The next
-- request tries again.
-- @tparam string topic the topic
-- @tparam string err why
function Rpc:inbox_failed(topic, err)
	local listener = self.listeners[topic]
	if listener and not self.client._topics:is_granted(topic) then
		drop_listener(self, topic)
		release(self, listener, err)
	end
end

-- Subscribes to the given topic, or to the topic for responses. Returns the listener, or nil and an error message.
local function inbox(self, topic)
	local err
	if not topic then
		topic, err = response_topic(self)
	end
	if not topic then
		return nil, err
	end
	return listen(self, topic)
end

-- The broker has lost the old session, with the subscriptions to topics for responses: requests wait until it has
-- granted these again. Requests of QoS 1 that were sent wait too, and are sent once more: their responses may be lost.
local function session_lost(self)
	for topic, listener in each(with(self.listeners, {})) do
		self.client._topics:lost(topic)
		if listener.is_former then
			drop_listener(self, topic)
		end
	end
	for wait, request in each(self.sent) do
		local listener = self.listeners[request.topic or self.topic]
		local held = listener and listener.requests or self.moved
		held[wait] = request.send
	end
end

--- The broker has accepted the client: determines the topics for responses, before anything is sent. Neither yields nor
-- raises.
-- @tparam table connack the packet
function Rpc:revise(connack)
	if not connack.sp then
		session_lost(self)
	end
	local before = self.topic
	local old = response_topic(self) ~= before and self.listeners[before]
	if not old then
		return
	end
	self.moved = with(self.moved, old.requests)
	-- The old topic is not renewed any more. Responses to requests already sent may still come to it, if the session
	-- goes on.
	local is_granted_still = self.client._topics:is_granted(before)
	self.client._topics.subscriptions[before] = nil
	old.requests, old.is_former = {}, true
	if not is_granted_still then
		drop_listener(self, before)
	end
end

--- Sends the requests that may be sent on a new connection. Requests of a topic that is not used any more wait for the
-- new topic, or end if there is none. Raises the first error.
function Rpc:renew()
	local failure
	if next(self.moved) then
		local listener, err = inbox(self)
		local moved = self.moved
		self.moved = {}
		if listener then
			for wait, send in each(moved) do
				listener.requests[wait] = send
			end
		else
			failure = try(nil, release, self, { requests = moved }, err)
		end
	end
	for _, listener in each(with(self.listeners, {})) do
		if is_granted(self, listener) then
			failure = try(failure, release, self, listener)
		end
	end
	raise(failure)
end

--- The session has given back a request that was to be sent, or repeated: the broker does not have the subscription for
-- its response. The request waits for the subscription.
-- @tparam string data its correlation data
function Rpc:withdrawn(data)
	local wait = self.requests[data]
	if not wait or wait.results then
		return
	end
	local listener, err = inbox(self, wait.request.topic)
	if not listener then
		return self.client._waits:finish(wait, nil, err)
	end
	listener.requests[wait] = wait.request.send
	if is_granted(self, listener) then
		release(self, listener)
	end
end

function Rpc.request(client, opts)
	local problem = explain(client, opts, REQUEST) or arguments.timeout(opts.timeout)
	local topic = not problem and opts.properties and opts.properties.response_topic
	if topic then
		problem = core.check_topic_name(topic)
		problem = problem and "opts.properties.response_topic: " .. problem
	end
	if problem then
		error(problem, 2)
	end
	opts = arguments.keep(opts)
	local sleep, wake
	if not opts.callback then
		sleep, wake = host.sleeper()
		if sleep == false then
			return nil, wake
		end
	end
	if not (client.connection or client.opts.queue) or await.has_ended(client) then
		return nil, ending.NOT_OPENED
	end

	local self, waits = client._rpc, Waits.of(client)
	if not self then
		self = new(client)
		client._rpc = self
	end
	local listener, err = inbox(self, topic)
	if not listener then
		return nil, err
	end
	self.last = self.last + 1
	local data = str_format("%s-%d", self.name, self.last)
	local wait = waits:begin(opts.timeout or TIMEOUT, nil, opts.callback)
	self.requests[data] = wait
	-- Returns nil and an error message if the request cannot be sent.
	local function send()
		if wait.results then
			return true
		end
		local message = with(opts, {
			properties = with(opts.properties, { response_topic = topic or self.topic, correlation_data = data }),
		})
		message.callback = nil
		if opts.qos == 1 then
			self.sent[wait] = wait.request
		end
		return requests.ask(client, "publish", message, function(answer, lost)
			if lost then
				waits:finish(wait, nil, lost)
			elseif type(answer) == "table" and (answer.rc or 0) >= REFUSED then
				waits:finish(wait, await.judge(answer))
			end
		end)
	end
	wait.request = {
		topic = topic,
		send = function()
			local sent, reason = send()
			if not sent then
				waits:finish_soon(wait, nil, reason)
			end
		end,
	}
	function wait.forget()
		-- The exchange may go on for ever, and it holds the wait.
		self.sent[wait], self.moved[wait], wait.request = nil, nil, nil
		for _, other in each(self.listeners) do
			other.requests[wait] = nil
		end
	end
	local ok = true
	if is_granted(self, listener) then
		ok, err = send()
	else
		listener.requests[wait] = wait.request.send
	end
	if not (ok or opts.callback and wait.results) then
		wait.told = nil
		waits:finish(wait, nil, err)
		return nil, err
	elseif opts.callback then
		-- If the request has failed, its callback has been called: the connection was lost, and there will be no other.
		return true
	end
	return waits:await(wait, sleep, wake)
end

function Rpc.respond(client, request, opts)
	if type(request) ~= "table" or type(request.topic) ~= "string" then
		error("expecting request to be a publish packet", 2)
	end
	local problem = explain(client, opts, fields.publish, { topic = "response" })
	if problem then
		error(problem, 2)
	end
	local properties = request.properties or {}
	local topic = properties.response_topic
	if not topic then
		return false, "the message wants no response"
	end
	-- The other side may send any topic.
	local broken = core.check_topic_name(topic)
	if broken then
		return false, "the message has a response topic of no use: " .. broken
	end
	return client:publish(with(opts, {
		topic = topic,
		qos = opts.qos or request.qos,
		properties = with(opts.properties, { correlation_data = properties.correlation_data }),
	}))
end

return Rpc

--- Requests and responses of MQTT 5.0 (4.10): methods of the client.
-- @submodule Client

local arguments = require("mqtt.client.arguments")
local const = require("mqtt.const")
local core = require("mqtt.core")
local host = require("mqtt.host")
local log = require("mqtt.log")
local protect = require("mqtt.protect")

local error, ipairs, next, pairs, setmetatable, type = error, ipairs, next, pairs, setmetatable, type
local str_format = string.format
local table_sort = table.sort
local raise, try = protect.raise, protect.try

-- How long a response may take unless the request says otherwise, in seconds.
local TIMEOUT = 10
-- The least reason code that refuses.
local REFUSED = core.reason_codes.refused

local Client = {}

-- A copy of a table with further fields.
local function with(table, more)
	local copy = {}
	for key, value in pairs(table or {}) do
		copy[key] = value
	end
	for key, value in pairs(more) do
		copy[key] = value
	end
	return copy
end

-- Returns what is wrong with the options of a publish by one of these methods, or nil.
local function explain(self, opts, also)
	if self._version ~= const.v50 then
		return "allowed only in MQTT v5.0 protocol"
	elseif type(opts) ~= "table" then
		return "expecting opts to be a table"
	elseif opts.properties ~= nil and type(opts.properties) ~= "table" then
		return "expecting opts.properties to be a table"
	end
	local properties = opts.properties or {}
	if properties.correlation_data ~= nil then
		return "expecting no opts.properties.correlation_data, which is given by the library"
	end
	return arguments.request("publish", with(opts, also or {}), self._version)
end

-- The listener of a topic is not needed any more. Handlers that the program has for that topic stay.
local function drop_listener(self, state, topic)
	local listener = state.listeners[topic]
	if listener then
		state.listeners[topic] = nil
		self:off_topic(topic, listener.handler)
	end
end

-- The topic to which responses are sent unless a request names another: below what the broker says is for this client
-- (3.1.2.11.7), if it does, else one that nobody else has. Or nil and an error message.
local function response_topic(self, state)
	local connack = self.connection and self.connection.connack
	local base = connack and connack.properties and connack.properties.response_information or state.base or "responses"
	if base ~= state.base then
		local topic = base:gsub("/$", "") .. "/" .. state.name
		local broken = core.check_topic_name(topic)
		if broken then
			return nil, "the broker's response information is of no use: " .. broken
		end
		state.base, state.topic = base, topic
	end
	return state.topic
end

-- Takes a message that came to a topic for responses.
local function receive(self, state, message)
	if message.qos > 0 then
		local ok, err = self:acknowledge(message)
		if not ok then
			-- A handler of `message` may have been first.
			log:debug("[LuaMQTT] client '%s' did not acknowledge a response: %s", self.opts.id, err)
		end
	end
	local data = message.properties and message.properties.correlation_data
	local wait = data and state.requests[data]
	if wait then
		state.requests[data] = nil
		self:_end_wait(wait, message)
	else
		log:debug("[LuaMQTT] client '%s' received a response that nobody waits for", self.opts.id)
	end
end

-- Whether requests may be sent whose responses come to a topic: the broker has granted it in this session.
local function is_granted(self, listener)
	local connack = self.connection and self.connection.connack
	return listener.is_ready and connack and connack.rc == 0
end

-- Sends the requests that have waited for their topic, in the order in which they were made; or, with an error message
-- and perhaps a packet, ends them. Raises the first error.
local function release(self, listener, err, pck)
	local requests, waits, failure = listener.requests, {}, nil
	listener.requests = {}
	for wait in pairs(requests) do
		waits[#waits + 1] = wait
	end
	table_sort(waits, function(a, b)
		return a.number < b.number
	end)
	for _, wait in ipairs(waits) do
		local send = requests[wait]
		if wait.results then -- luacheck: ignore 542
			-- Its time is over, or the program has ended it meanwhile.
		elseif err then
			failure = try(failure, self._end_wait, self, wait, nil, err, pck)
		elseif is_granted(self, listener) then
			failure = try(failure, send)
		else
			-- The connection has been lost meanwhile.
			listener.requests[wait] = send
		end
	end
	raise(failure)
end

-- Subscribes to a topic for responses, once. Returns what is known of it, or nil and an error message.
local function listen(self, state, topic)
	local listener = state.listeners[topic]
	if listener and not listener.is_former then
		return listener
	end
	drop_listener(self, state, topic)
	-- Requests are not sent before the broker has the subscription: what sends each, by its wait.
	listener = { is_ready = false, requests = {} }
	state.listeners[topic] = listener
	function listener.handler(message)
		receive(self, state, message)
	end
	local ok, err = self:on_topic {
		topic = topic,
		subscribe = true,
		qos = 1,
		handler = listener.handler,
		callback = function(suback)
			listener.is_ready = suback.rc[1] < REFUSED
			if listener.is_ready then
				return release(self, listener)
			end
			if state.listeners[topic] == listener then
				drop_listener(self, state, topic)
			end
			release(self, listener, suback:reason_strings()[1], suback)
		end,
	}
	if not ok then
		if state.listeners[topic] == listener then
			state.listeners[topic] = nil
		end
		-- Of other threads, meanwhile.
		release(self, listener, err)
		return nil, err
	end
	return listener
end

-- Subscribes to the topic for responses, or to the given one. Returns what is known of it, or nil and an error message.
local function inbox(self, state, topic)
	local err
	if not topic then
		topic, err = response_topic(self, state)
	end
	if not topic then
		return nil, err
	end
	return listen(self, state, topic)
end

-- The broker does not have the session of before, which had the topics for responses: requests wait until it has
-- granted them again. That includes those of QoS 1 which were sent: their responses may be lost, so they are sent once
-- more.
local function session_lost(self, state)
	for topic, listener in pairs(with(state.listeners, {})) do
		listener.is_ready = false
		if listener.is_former then
			drop_listener(self, state, topic)
		end
	end
	for wait, request in pairs(state.sent) do
		local listener = state.listeners[request.topic or state.topic]
		local requests = listener and listener.requests or state.moved
		requests[wait] = request.send
	end
end

-- The broker has accepted the client. Finds which topics for responses there are from now on, before anything is sent.
-- Neither yields nor raises.
function Client:_revise_requests(connack)
	local state = self._responses
	if not connack.sp then
		session_lost(self, state)
	end
	local before = state.topic
	local old = response_topic(self, state) ~= before and state.listeners[before]
	if not old then
		return
	end
	state.moved = with(state.moved, old.requests)
	-- It is not renewed any more. Responses to what has been sent may still come to it, if the session goes on.
	self._subscriptions[before] = nil
	old.requests, old.is_former = {}, true
	if not old.is_ready then
		drop_listener(self, state, before)
	end
end

-- Sends the requests that may be sent on a new connection. Those that wait for a topic which is not used any more wait
-- for another, or end if that cannot be had. Raises the first error.
function Client:_renew_requests()
	local state, failure = self._responses, nil
	local moved = state.moved
	state.moved = {}
	if next(moved) then
		local listener, err = inbox(self, state)
		if listener then
			for wait, send in pairs(moved) do
				listener.requests[wait] = send
			end
		else
			failure = try(nil, release, self, { requests = moved }, err)
		end
	end
	for _, listener in pairs(with(state.listeners, {})) do
		if is_granted(self, listener) then
			failure = try(failure, release, self, listener)
		end
	end
	raise(failure)
end

-- The session has given back a request that was to be sent, perhaps again: the broker does not have the subscription
-- for its response. The request waits for that subscription.
function Client:_request_withdrawn(packet_id, data)
	self:_forget_request(packet_id)
	local state = self._responses
	local wait = state.requests[data]
	if not wait or wait.results then
		return
	end
	local listener, err = inbox(self, state, wait.request.topic)
	if not listener then
		return self:_end_wait(wait, nil, err)
	end
	listener.requests[wait] = wait.request.send
	if is_granted(self, listener) then
		release(self, listener)
	end
end

--- Publishes a request and takes the response to it, for MQTT 5.0 only.
-- The request says where the response is to be sent to, by the properties `response_topic` and `correlation_data`. The
-- client subscribes to that topic when it is first needed: `responses/RANDOM`, or a topic below the response
-- information of the CONNACK if the broker gives any (ask for it by the CONNECT property
-- `request_response_information = 1`). Responses are acknowledged by the library; handlers of `message` see them too.
--
-- With a callback this returns at once. Without one it returns the response, and waits as `Client:await` does.
--
-- Over a lost connection requests wait on; if there will be no other one they fail, and at `Client:disconnect`. None is
-- sent, or repeated, before the broker has granted the topic for its response in the session that it has then. If the
-- broker has lost the session, unanswered ones of QoS 1 are sent once more.
-- @tparam table opts options of `Client:publish`, but for `callback`; also:
-- @tparam[opt] table opts.properties may have a `response_topic` of your own
-- @tparam[opt=10] number opts.timeout how many seconds the response may take
-- @tparam[opt] function opts.callback `function(response)`, or `function(nil, errmsg [, packet])` when there will be
-- none: "timeout", or why not, with the packet that says so
-- @treturn[1] table the response, a PUBLISH packet; with a callback true
-- @return[2] nil
-- @treturn[2] string error message; with a callback that is not called then
-- @treturn[2] table the packet that says so, if there is one
-- @usage
-- client:request {
-- 	topic = "clock/now", payload = "UTC", timeout = 2,
-- 	callback = function(response, err)
-- 		print(response and response.payload or err)
-- 	end,
-- }
--
-- -- in a coroutine
-- local response, err = client:request { topic = "clock/now" }
function Client:request(opts)
	local problem = explain(self, opts) or arguments.timeout(opts.timeout)
	local topic = not problem and opts.properties and opts.properties.response_topic
	if topic then
		problem = core.check_topic_name(topic)
		problem = problem and "opts.properties.response_topic: " .. problem
	end
	if problem then
		error(problem, 2)
	end
	local sleep, wake
	if not opts.callback then
		sleep, wake = host.sleeper()
		if sleep == false then
			return nil, wake
		end
	end
	if not (self.connection or self.opts.queue) or self:_has_ended() then
		return nil, "network connection is not opened"
	end

	self._responses = self._responses or {
		name = core.random_hex(32),
		last = 0,
		-- Waits by correlation data, and topics that are listened to.
		requests = setmetatable({}, { __mode = "v" }),
		listeners = {},
		-- Requests that wait until it is known where their responses are to come to, as those of a listener.
		moved = {},
		-- What sends the requests of QoS 1 again that have been sent, and their topics, if they name any, by their waits.
		sent = setmetatable({}, { __mode = "k" }),
	}
	local state = self._responses
	local listener, err = inbox(self, state, topic)
	if not listener then
		return nil, err
	end
	state.last = state.last + 1
	local data = str_format("%s-%d", state.name, state.last)
	local wait = self:_begin_wait(opts.timeout or TIMEOUT, nil, opts.callback)
	state.requests[data] = wait
	-- Returns nil and an error message if it cannot be sent.
	local function send()
		if wait.results then
			return true
		end
		local message = with(opts, {
			properties = with(opts.properties, { response_topic = topic or state.topic, correlation_data = data }),
		})
		message.callback = nil
		if opts.qos == 1 then
			state.sent[wait] = wait.request
		end
		return self:_ask("publish", message, function(answer, lost)
			if lost then
				self:_end_wait(wait, nil, lost)
			elseif type(answer) == "table" and (answer.rc or 0) >= REFUSED then
				self:_end_wait(wait, self._judge(answer))
			end
		end)
	end
	wait.request = {
		topic = topic,
		send = function()
			local sent, reason = send()
			if not sent then
				self:_end_wait(wait, nil, reason)
			end
		end,
	}
	function wait.forget()
		-- The exchange may go on without an end, and has the wait.
		state.sent[wait], state.moved[wait], wait.request = nil, nil, nil
		for _, other in pairs(state.listeners) do
			other.requests[wait] = nil
		end
	end
	local ok = true
	if is_granted(self, listener) then
		ok, err = send()
	else
		listener.requests[wait] = wait.request.send
	end
	if not ok then
		wait.told = nil
		self:_end_wait(wait, nil, err)
		return nil, err
	elseif opts.callback then
		return true
	end
	return self:_wait_for(wait, sleep, wake)
end

--- Publishes the response to a request, for MQTT 5.0 only: to its response topic, with its correlation data.
-- @tparam packet_mt request the message that asks for it
-- @tparam table opts options of `Client:publish`, but for the topic; `qos` is that of the request by default
-- @return what `Client:publish` returns; also false and an error message when the message wants no response
-- @usage
-- client:on_topic("clock/now", function(msg)
-- 	client:respond(msg, { payload = os.date("!%c") })
-- 	client:acknowledge(msg)
-- end, { subscribe = true, qos = 1 })
function Client:respond(request, opts)
	if type(request) ~= "table" or type(request.topic) ~= "string" then
		error("expecting request to be a publish packet", 2)
	end
	local problem = explain(self, opts, { topic = "response" })
	if problem then
		error(problem, 2)
	end
	local properties = request.properties or {}
	local topic = properties.response_topic
	if not topic then
		return false, "the message wants no response"
	end
	-- It may be anything: it is the other side's.
	local broken = core.check_topic_name(topic)
	if broken then
		return false, "the message has a response topic of no use: " .. broken
	end
	return self:publish(with(opts, {
		topic = topic,
		qos = opts.qos or request.qos,
		properties = with(opts.properties, { correlation_data = properties.correlation_data }),
	}))
end

return Client

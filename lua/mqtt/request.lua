--- Requests and responses of MQTT 5.0 (4.10): methods of the client.
-- @submodule Client

local const = require("mqtt.const")
local core = require("mqtt.core")
local host = require("mqtt.host")
local log = require("mqtt.log")
local protect = require("mqtt.protect")

local error, ipairs, pairs, setmetatable, type = error, ipairs, pairs, setmetatable, type
local str_format = string.format
local table_sort = table.sort
local raise, try = protect.raise, protect.try

-- How long a response may take unless the request says otherwise, in seconds.
local TIMEOUT = 10
-- The least reason code that refuses.
local REFUSED = 0x80

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
	return self:_explain_request("publish", with(opts, also or {}))
end

-- The topic to which responses are sent unless a request names another: below what the broker says is for this client
-- (3.1.2.11.7), if it does, else one that nobody else has.
local function response_topic(self, state)
	local connack = self.connection and self.connection.connack
	local base = connack and connack.properties and connack.properties.response_information or state.base or "responses"
	if base ~= state.base then
		if state.topic then
			-- The broker has moved this client to another part of the topics.
			self:off_topic(state.topic)
			state.listeners[state.topic] = nil
		end
		state.base = base
		state.topic = base:gsub("/$", "") .. "/" .. state.name
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

-- Subscribes to a topic for responses, once. Returns what is known of it, or nil and an error message.
local function listen(self, state, topic)
	local listener = state.listeners[topic]
	if listener then
		return listener
	end
	-- Requests are not sent before the broker has the subscription: what sends each, by its wait.
	listener = { is_ready = false, requests = {} }
	state.listeners[topic] = listener
	local ok, err = self:on_topic {
		topic = topic,
		subscribe = true,
		qos = 1,
		handler = function(message)
			receive(self, state, message)
		end,
		callback = function(suback)
			local requests, waits = listener.requests, {}
			listener.requests = {}
			listener.is_ready = suback.rc[1] < REFUSED
			if not listener.is_ready and state.listeners[topic] == listener then
				state.listeners[topic] = nil
				self:off_topic(topic)
			end
			for wait in pairs(requests) do
				waits[#waits + 1] = wait
			end
			table_sort(waits, function(a, b)
				return a.number < b.number
			end)
			local failure
			for _, wait in ipairs(waits) do
				local send = requests[wait]
				if not send then -- luacheck: ignore 542
					-- Its time is over, or the program has ended it meanwhile.
				elseif listener.is_ready then
					failure = try(failure, send)
				else
					failure = try(failure, self._end_wait, self, wait, nil, suback:reason_strings()[1], suback)
				end
			end
			raise(failure)
		end,
	}
	if not ok then
		state.listeners[topic] = nil
		return nil, err
	end
	return listener
end

--- Publishes a request and takes the response to it, for MQTT 5.0 only.
-- The request says where the response is to be sent to, by the properties `response_topic` and `correlation_data`. The
-- client subscribes to that topic when it is first needed: `responses/RANDOM`, or a topic below the response
-- information of the CONNACK if the broker gives any (ask for it by the CONNECT property
-- `request_response_information = 1`). Responses are acknowledged by the library; handlers of `message` see them too.
--
-- With a callback this returns at once. Without one it returns the response, and waits as `Client:await` does.
--
-- Over a lost connection requests wait on; if there will be no other one they fail, and at `Client:disconnect`.
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
	local problem = explain(self, opts) or self._explain_timeout(opts.timeout)
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
	}
	local state = self._responses
	topic = topic or response_topic(self, state)
	local listener, err = listen(self, state, topic)
	if not listener then
		return nil, err
	end
	state.last = state.last + 1
	local data = str_format("%s-%d", state.name, state.last)
	local wait = self:_begin_wait(opts.timeout or TIMEOUT, nil, opts.callback)
	state.requests[data] = wait
	local message = with(opts, {
		properties = with(opts.properties, { response_topic = topic, correlation_data = data }),
	})
	message.callback = nil
	-- Returns nil and an error message if it cannot be sent.
	local function send()
		if wait.results then
			return true
		end
		return self:_ask("publish", message, function(answer, lost)
			if lost then
				self:_end_wait(wait, nil, lost)
			elseif type(answer) == "table" and (answer.rc or 0) >= REFUSED then
				self:_end_wait(wait, self._judge(answer))
			end
		end)
	end
	local ok = true
	if listener.is_ready then
		ok, err = send()
	else
		local requests = listener.requests
		requests[wait] = function()
			local sent, reason = send()
			if not sent then
				self:_end_wait(wait, nil, reason)
			end
		end
		wait.forget = function()
			requests[wait] = nil
		end
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

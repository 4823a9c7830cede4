--- Handlers of topics: methods of the client.
-- Which filters a topic matches is found by `mqtt.core`; here is what is done about it.
-- @submodule Client

local arguments = require("mqtt.client.arguments")
local core = require("mqtt.core")
local log = require("mqtt.log")
local options = require("mqtt.client.options")
local protect = require("mqtt.protect")
local topics = require("mqtt.topics")

local error, ipairs, next, pairs, tostring, type = error, ipairs, next, pairs, tostring, type
local str_format = string.format
local table_insert, table_remove, table_sort = table.insert, table.remove, table.sort
local raise, try = protect.raise, protect.try

-- The options of `Client:on_topic`: those that count in any case, and those of a subscription.
local OPTIONS = { topic = true, handler = true, keys = true, subscribe = true }
local SUBSCRIPTION = {
	qos = true,
	no_local = true,
	retain_as_published = true,
	retain_handling = true,
	properties = true,
	user_properties = true,
	callback = true,
}
-- The least reason code that refuses.
local REFUSED = core.reason_codes.refused

local Client = {}

-- Returns what is wrong with the options, or nil.
local function explain(self, opts)
	if type(opts.handler) ~= "function" then
		return "expecting the handler to be a function"
	elseif opts.keys ~= nil and type(opts.keys) ~= "table" then
		return "expecting opts.keys to be a table"
	elseif opts.subscribe ~= nil and type(opts.subscribe) ~= "boolean" then
		return "expecting opts.subscribe to be a boolean"
	end
	for key in pairs(opts) do
		if SUBSCRIPTION[key] and not opts.subscribe then
			return "expecting opts.subscribe to be true where there is opts." .. key
		elseif not (SUBSCRIPTION[key] or OPTIONS[key]) then
			return "unexpected key in opts: " .. tostring(key)
		end
	end
	local ok, err = topics.validate_subscribe_topic(opts.topic)
	if not ok then
		return err
	elseif not opts.subscribe then
		return nil
	end
	-- Some of that is looked at only when there is a connection: now is the time to blame the caller.
	return arguments.request("subscribe", opts, self._version)
end

-- Reports that the broker will not send what a handler waits for.
local function report(self, filter, problem, suback)
	local message = str_format("no subscription to %s: %s", filter, problem)
	log:error("[LuaMQTT] client '%s' %s", self.opts.id, message)
	self:handle("error", message, self, suback)
end

-- Sends the SUBSCRIBE of a filter. Returns true, or false and an error message.
local function subscribe(self, filter)
	local subscription = self._subscriptions[filter]
	subscription.state = "asked"
	local ok, err = self:_ask("subscribe", subscription.opts, function(suback)
		local rc = suback and suback.rc[1]
		subscription.state = suback and rc < REFUSED and "granted" or nil
		if suback and rc >= REFUSED then
			report(self, filter, suback:reason_strings()[1], suback)
		end
	end)
	if not ok then
		subscription.state = nil
		return false, err
	end
	return true
end

-- Renews the subscriptions that a new connection does not have: those that the server has lost with its session, unless
-- that is done by the library anyhow, and those that were asked for before.
function Client:_renew_subscriptions(connack)
	local conn, opts, inboxes = self.connection, self.opts, self._responses and self._responses.listeners or {}
	local filters = {}
	for filter, subscription in pairs(self._subscriptions) do
		local state = subscription and subscription.state
		-- Requests wait for the SUBACK of their topic.
		local has = state == "granted" and (connack.sp or opts.resubscribe and not inboxes[filter])
			or state == "asked" and options.keeps_exchanges(opts)
		if not has then
			filters[#filters + 1] = filter
		end
	end
	-- In the order in which they were asked for; what is to end comes first.
	table_sort(filters, function(a, b)
		local first, second = self._subscriptions[a], self._subscriptions[b]
		return (first and first.number or 0) < (second and second.number or 0)
	end)
	local failure
	for _, filter in ipairs(filters) do
		local ok, err
		if self.connection ~= conn then
			break
		elseif self._subscriptions[filter] then
			ok, err = subscribe(self, filter)
			if not ok and self.connection == conn then
				failure = try(failure, report, self, filter, err)
			end
		elseif self._subscriptions[filter] == false then
			-- Its last handler went while there was no connection.
			self._subscriptions[filter] = nil
			self:unsubscribe { topic = filter }
		end
	end
	raise(failure)
end

-- Takes a handler out.
local function remove(self, key)
	local state = self._topics
	local filter = state.handlers[key].topic
	state.remove(filter, key)
	state.handlers[key] = nil
	local keys = state.keys[filter]
	for i, other in ipairs(keys) do
		if other == key then
			table_remove(keys, i)
			break
		end
	end
	if not keys[1] then
		state.keys[filter] = nil
	end
	if not next(state.handlers) then
		-- So that messages cost nothing more.
		self._topics = false
	end
end

--- Adds a handler of the messages whose topic matches a topic filter.
-- It is called after the handlers of the `message` event, which go on seeing every message. Handlers of topics are
-- called in the order in which they were added, whatever their filters are. One that is removed meanwhile is not called
-- any more; one that is added meanwhile by another handler of a topic is called from the next message on. As to errors,
-- waiting and `auto_ack` they are handlers of `message` like others.
--
-- With `subscribe` the client also takes care of the subscription: at once if it is connected, and on each later
-- connection that does not have it. If it cannot be had, there is an `error` event, with the SUBACK if that is why. Of
-- several handlers of one filter the last `subscribe` and its options count, as they do for the broker.
--
-- All arguments may also be in one table, see the second example.
-- @tparam string filter topic filter; a shared subscription's, `$share/GROUP/FILTER`, matches without `$share/GROUP/`
-- @tparam function handler `function(publish_packet, captures, client)`: `captures` is what the wildcards of the filter
-- stand for, in their order: a level for each `+`, all the rest for `#`, which may be empty
-- @tparam[opt] table opts options; besides these, with `subscribe`, those of `Client:subscribe`
-- @tparam[opt] table opts.keys names of the wildcards, in their order: captures also have these as keys
-- @tparam[opt=false] boolean opts.subscribe subscribe to the filter
-- @return true on success or false and error message when the SUBSCRIBE could not be sent: then nothing was added
-- @usage
-- client:on_topic("sensors/+/temperature", function(msg, captures)
-- 	print(captures[1], msg.payload)
-- end)
--
-- client:on_topic {
-- 	topic = "homes/+/+/#", keys = { "home", "room", "device" },
-- 	subscribe = true, qos = 1,
-- 	handler = function(msg, captures, client)
-- 		print(captures.home, captures.room, captures.device)
-- 		client:acknowledge(msg)
-- 	end,
-- }
function Client:on_topic(filter, handler, opts)
	if opts ~= nil and type(opts) ~= "table" then
		error("expecting opts to be a table", 2)
	end
	local own = {}
	for key, value in pairs(opts or type(filter) == "table" and filter or {}) do
		own[key] = value
	end
	if type(filter) ~= "table" then
		own.topic, own.handler = filter, handler
	elseif handler ~= nil then
		error("expecting the handler in the table of options", 2)
	end
	local problem = explain(self, own)
	if problem then
		error(problem, 2)
	end
	filter = own.topic

	local state = self._topics
	if not state then
		state = { last = 0, handlers = {}, keys = {} }
		state.insert, state.remove, state.matches = core.filters()
		self._topics = state
	end
	local key = state.last + 1
	state.last = key
	state.handlers[key] = own
	state.keys[filter] = state.keys[filter] or {}
	table_insert(state.keys[filter], key)
	state.insert(filter, key)
	if not own.subscribe then
		return true
	end

	self._subscriptions = self._subscriptions or {}
	local before = self._subscriptions[filter]
	self._subscriptions[filter] = { opts = own, number = key }
	local conn = self.connection
	local ok, err = true, nil
	if conn and conn.connack then
		ok, err = subscribe(self, filter)
	end
	if not ok then
		self._subscriptions[filter] = before
		if state.handlers[key] then
			remove(self, key)
		end
		return false, err
	end
	return true
end

--- Removes handlers of a topic filter. With the last one of a filter that `Client:on_topic` has subscribed to, that
-- subscription ends too; without a connection, on the next one.
-- @tparam string filter the topic filter, as it was given
-- @tparam[opt] function handler one of them, else all are removed
-- @return true on success or false and error message: there is none, or the UNSUBSCRIBE could not be sent
function Client:off_topic(filter, handler)
	if type(filter) ~= "string" then
		error("expecting the topic filter to be a string", 2)
	elseif handler ~= nil and type(handler) ~= "function" then
		error("expecting the handler to be a function", 2)
	end
	local state = self._topics
	local found = {}
	for _, key in ipairs(state and state.keys[filter] or {}) do
		if handler == nil or state.handlers[key].handler == handler and not found[1] then
			found[#found + 1] = key
		end
	end
	if not found[1] then
		return false, "there is no such handler of " .. filter
	end
	for _, key in ipairs(found) do
		remove(self, key)
	end
	local subscription = self._subscriptions and self._subscriptions[filter]
	if not subscription or state.keys[filter] then
		return true
	end
	self._subscriptions[filter] = nil
	local conn = self.connection
	if conn and conn.connack then
		local ok, err = self:unsubscribe { topic = filter }
		if not ok then
			return false, err
		end
	elseif subscription.state then
		self._subscriptions[filter] = false
	end
	return true
end

-- Calls the handlers whose filters the topic of a message matches. Raises the first error; that is `failure` if the
-- handlers of the `message` event have raised one.
function Client:_handle_topics(message, failure)
	local state = self._topics
	if not state then
		-- The last handler of a topic has gone meanwhile.
		return raise(failure)
	end
	local found, err = state.matches(message.topic)
	if not found then
		raise(failure)
		if err then
			error(err, 0)
		end
		return
	end
	local handlers = state.handlers
	for i = 1, #found, 2 do
		local own = handlers[found[i]]
		if own then
			local captures, keys = found[i + 1], own.keys
			for j = 1, keys and #captures or 0 do
				local key = keys[j]
				if key ~= nil then
					captures[key] = captures[j]
				end
			end
			if failure or found[i + 2] then
				failure = try(failure, own.handler, message, captures, self)
			else
				own.handler(message, captures, self)
			end
		end
	end
	raise(failure)
end

return Client

--- Handlers of topics, and the subscriptions that they have asked for: `client._topics`. `Client:on_topic` and
-- `Client:off_topic` are documented in `mqtt.client`.
-- Internal to `mqtt.client`. `mqtt.core` finds the filters that a topic matches; this file calls their handlers.

local arguments = require("mqtt.client.arguments")
local core = require("mqtt.core")
local fields = require("mqtt.client.fields")
local log_error = require("mqtt.client.ending").log_error
local options = require("mqtt.client.options")
local protect = require("mqtt.protect")
local requests = require("mqtt.client.requests")
local REFUSED = require("mqtt.client.await").REFUSED
local validate_filter = require("mqtt.topics").validate_subscribe_topic

local each, error, ipairs, setmetatable, type = pairs, error, ipairs, setmetatable, type
local str_format = string.format
local table_insert, table_remove, table_sort = table.insert, table.remove, table.sort
local raise, try = protect.raise, protect.try

-- The options of `Client:on_topic` itself, and all its options: with `subscribe` also the subscription's.
local OPTIONS = { topic = true, handler = true, keys = true, subscribe = true }
local ALL_OPTIONS = fields.with(fields.subscribe, OPTIONS)

local Topics = {}
Topics.__index = Topics

local function new(client)
	local insert, remove, matches = core.filters()
	return setmetatable({
		client = client,
		-- Add a handler by filter and key, remove it, and find the handlers of a topic.
		insert = insert,
		remove = remove,
		matches = matches,
		-- The options of each handler by key, a growing number; the last key; and the keys by filter.
		handlers = {},
		last = 0,
		keys = {},
		-- By filter: a table with `opts`, `number`, and `state` ("asked", "granted" or nil); or false: to be
		-- unsubscribed.
		subscriptions = {},
	}, Topics)
end

-- Checks the options. Returns an error message, or nil.
local function explain(client, opts)
	if type(opts.handler) ~= "function" then
		return "expecting the handler to be a function"
	elseif opts.keys ~= nil and type(opts.keys) ~= "table" then
		return "expecting opts.keys to be a table"
	elseif opts.subscribe ~= nil and type(opts.subscribe) ~= "boolean" then
		return "expecting opts.subscribe to be a boolean"
	end
	local unknown = fields.strict("opts", opts, ALL_OPTIONS)
	if unknown then
		return unknown
	end
	for key in each(opts) do
		if not (OPTIONS[key] or opts.subscribe) then
			return "expecting opts.subscribe to be true where there is opts." .. key
		end
	end
	local ok, err = validate_filter(opts.topic)
	if not ok then
		return err
	elseif not opts.subscribe then
		return nil
	end
	-- The request checks some options only when it is made: check all now, to blame the caller.
	return arguments.request("subscribe", opts, client._version)
end

-- Reports that the broker will not send messages for a filter.
local function report(self, filter, problem, suback)
	local message = str_format("no subscription to %s: %s", filter, problem)
	local client = self.client
	log_error(client, message)
	client:handle("error", message, client, suback)
end

-- Sends the SUBSCRIBE of a filter. Returns true, or false and an error message.
local function subscribe(self, filter)
	local subscription = self.subscriptions[filter]
	subscription.state = "asked"
	local ok, err = requests.ask(self.client, "subscribe", subscription.opts, function(suback, lost)
		if not suback then
			subscription.state = nil
			if lost and self.client._rpc then
				self.client._rpc:inbox_failed(filter, lost)
			end
		elseif suback.rc[1] >= REFUSED then
			report(self, filter, suback:reason_strings()[1], suback)
		end
	end, function(suback)
		subscription.state = suback.rc[1] < REFUSED and "granted" or nil
		if self.client._rpc then
			self.client._rpc:inbox_answered(filter, suback)
		end
	end)
	if not ok then
		subscription.state = nil
		return false, err
	end
	return true
end

-- Renews the subscriptions that a new connection does not have: subscriptions that the server has lost with its
-- session, unless the library renews them anyhow, and subscriptions not granted so far, unless the session still asks
-- for them. Returns the failed subscriptions, as `report_unrenewed` takes them: nothing of the program is called before
-- the handlers of `connect`.
function Topics:renew(connack)
	local client = self.client
	local conn, opts, inboxes = client.connection, client.opts, client._rpc and client._rpc.listeners or {}
	local filters = {}
	for filter, subscription in each(self.subscriptions) do
		local state = subscription and subscription.state
		-- The subscriptions of `Client:request` are renewed here in any case: requests wait for the SUBACK.
		local has = state == "granted" and (connack.sp or opts.resubscribe and not inboxes[filter])
			or state == "asked" and options.keeps_exchanges(opts)
		if not has then
			filters[#filters + 1] = filter
		end
	end
	-- In the order in which they were asked for; filters to be unsubscribed come first.
	table_sort(filters, function(a, b)
		local first, second = self.subscriptions[a], self.subscriptions[b]
		return (first and first.number or 0) < (second and second.number or 0)
	end)
	local failed = {}
	for _, filter in ipairs(filters) do
		local ok, err
		if client.connection ~= conn then
			break
		elseif self.subscriptions[filter] then
			ok, err = subscribe(self, filter)
			-- If this connection is over, the next one renews the subscription.
			if not ok and client.connection == conn and not client._link:is_failed() then
				failed[#failed + 1] = { filter, err }
			end
		elseif self.subscriptions[filter] == false then
			-- The last handler of the filter was removed while there was no connection.
			self.subscriptions[filter] = nil
			client:unsubscribe { topic = filter }
		end
	end
	return failed
end

--- Whether the broker has granted a filter, in this session.
-- @tparam string filter the filter
-- @treturn boolean whether it has
function Topics:is_granted(filter)
	local subscription = self.subscriptions[filter]
	return subscription and subscription.state == "granted" or false
end

--- A filter that the broker had granted is not granted any more, since the broker has lost the session.
-- @tparam string filter the filter
function Topics:lost(filter)
	if self:is_granted(filter) then
		self.subscriptions[filter].state = nil
	end
end

--- Reports the subscriptions that could not be renewed. Raises the first error.
-- @tparam table failed as `renew` has returned it
function Topics:report_unrenewed(failed)
	local client, failure = self.client, nil
	local conn = client.connection
	for _, item in ipairs(failed) do
		local filter, err = item[1], item[2]
		if conn and client.connection == conn then
			failure = try(failure, report, self, filter, err)
			if client._rpc then
				failure = try(failure, client._rpc.inbox_failed, client._rpc, filter, err)
			end
		end
	end
	raise(failure)
end

-- Removes a handler.
local function remove(self, key)
	local filter = self.handlers[key].topic
	self.remove(filter, key)
	self.handlers[key] = nil
	local keys = self.keys[filter]
	for i, other in ipairs(keys) do
		if other == key then
			table_remove(keys, i)
			break
		end
	end
	if not keys[1] then
		self.keys[filter] = nil
	end
end

function Topics.on_topic(client, filter, handler, opts)
	if opts ~= nil and type(opts) ~= "table" then
		error("expecting opts to be a table", 2)
	end
	local own = arguments.keep(opts or type(filter) == "table" and filter or {})
	if type(filter) ~= "table" then
		own.topic, own.handler = filter, handler
	elseif handler ~= nil then
		error("expecting the handler in the table of options", 2)
	end
	local problem = explain(client, own)
	if problem then
		error(problem, 2)
	end
	filter = own.topic

	local self = client._topics
	if not self then
		self = new(client)
		client._topics = self
	end
	local key = self.last + 1
	self.last = key
	self.handlers[key] = own
	self.keys[filter] = self.keys[filter] or {}
	table_insert(self.keys[filter], key)
	self.insert(filter, key)
	if not own.subscribe then
		return true
	end

	local before = self.subscriptions[filter]
	self.subscriptions[filter] = { opts = own, number = key }
	local conn = client.connection
	local ok, err = true, nil
	if conn and conn.connack then
		ok, err = subscribe(self, filter)
	end
	if not ok then
		self.subscriptions[filter] = before
		if self.handlers[key] then
			remove(self, key)
		end
		return false, err
	end
	return true
end

function Topics.off_topic(client, filter, handler)
	if type(filter) ~= "string" then
		error("expecting the topic filter to be a string", 2)
	elseif handler ~= nil and type(handler) ~= "function" then
		error("expecting the handler to be a function", 2)
	end
	local self, found = client._topics, {}
	for _, key in ipairs(self and self.keys[filter] or {}) do
		if handler == nil or self.handlers[key].handler == handler and not found[1] then
			found[#found + 1] = key
		end
	end
	if not found[1] then
		return false, "there is no such handler of " .. filter
	end
	for _, key in ipairs(found) do
		remove(self, key)
	end
	local subscription = self.subscriptions[filter]
	if not subscription or self.keys[filter] then
		return true
	end
	self.subscriptions[filter] = nil
	local conn = client.connection
	if conn and conn.connack then
		local ok, err = client:unsubscribe { topic = filter }
		if not ok then
			return false, err
		end
	elseif subscription.state then
		self.subscriptions[filter] = false
	end
	return true
end

--- Calls the handlers whose filters the topic of a message matches. Raises the first error.
-- @tparam table message the message
-- @tparam ?table failure the first error of the handlers of the `message` event, as `protect.try` returns it
function Topics:deliver(message, failure)
	local found, err = self.matches(message.topic)
	if not found then
		raise(failure)
		if err then
			error(err, 0)
		end
		return
	end
	local handlers, client = self.handlers, self.client
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
				failure = try(failure, own.handler, message, captures, client)
			else
				own.handler(message, captures, client)
			end
		end
	end
	raise(failure)
end

return Topics

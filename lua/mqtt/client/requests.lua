--- The requests of a client to the broker: SUBSCRIBE, UNSUBSCRIBE, PUBLISH, AUTH, PINGREQ, DISCONNECT, and the
-- acknowledgements of messages. Methods of `Client` are documented in `mqtt.client`.
-- Internal to `mqtt.client`.

local arguments = require("mqtt.client.arguments")
local calls = require("mqtt.calls")
local const = require("mqtt.const")
local core = require("mqtt.core")
local ending = require("mqtt.client.ending")
local fields = require("mqtt.client.fields")
local log = require("mqtt.log")
local options = require("mqtt.client.options")
local packet = require("mqtt.packet")
local protect = require("mqtt.protect")

local each, error, getmetatable, ipairs, require, type = pairs, error, getmetatable, ipairs, require, type
local os_time = os.time
local tostring = tostring
local core_acknowledge, acknowledge_plain = core.acknowledge, calls.acknowledge
local core_publish, publish_plain, LARGE_PAYLOAD = core.publish, calls.publish, core.large_payload
local keeps_exchanges, raise, try = options.keeps_exchanges, protect.raise, protect.try
local unacknowledged = require("mqtt.client.incoming").unacknowledged
local NOT_OPENED, PUBLISH = ending.NOT_OPENED, packet.types.PUBLISH
local IGNORED = fields.ignored

local STUCK = "the connection takes nothing"

-- How long publishing waits for a connection that takes nothing, in seconds.
local SEND_TIMEOUT = 30
-- How long disconnecting waits for acknowledgements that let further messages go out, in seconds.
local DRAIN_TIMEOUT = 5

local requests = {
	--- The callbacks of a client that has none. Not to be changed.
	NO_CALLBACKS = {},
}

--- Ends a request whose packet is in the session's send buffer: a connector has to write the buffer. The native
-- connection writes by itself.
-- @tparam Client client the client
-- @tparam string what the name of its packet
-- @treturn boolean true; or false
-- @treturn ?string and an error message: the connection has failed, and the program has been told
function requests.sent(client, what)
	client.send_time = os_time()
	local ok, err = client._transport.send(client, requests.sent, what)
	if ok then
		return true
	end
	err = "failed to send " .. what .. ": " .. tostring(err)
	if not client._closing then
		-- Otherwise the failure is being told already, and a handler tries to send more.
		ending.fail(client, err, "error")
	end
	return false, err
end

local sent = requests.sent

-- What the library wants to know of the requests that are being made by `ask`, by their callbacks.
local asking = setmetatable({}, { __mode = "k" })

--- Keeps the callback of a request, or removes an old one.
-- @tparam Client client the client
-- @tparam number packet_id the packet identifier
-- @tparam ?function callback the callback
function requests.set_callback(client, packet_id, callback)
	if callback then
		if client._callbacks == requests.NO_CALLBACKS then
			client._callbacks = {}
		end
		if asking[callback] then
			client._asked = client._asked or {}
			client._asked[packet_id] = asking[callback]
		end
	end
	client._callbacks[packet_id] = callback
end

local set_callback = requests.set_callback

--- Forgets all callbacks: packet identifiers start anew with a new session.
-- @tparam Client client the client
function requests.forget_all(client)
	client._callbacks, client._asked = nil, nil
end

--- Logs fields that 3.1.1 ignores because only MQTT 5.0 has them. So a program may serve both with one table.
-- @tparam Client client the client
-- @tparam string what the name of the packet
-- @tparam table opts the table
-- @tparam[opt] table names the fields in question
function requests.note_ignored(client, what, opts, names)
	for _, name in ipairs(names or { "properties", "user_properties" }) do
		if opts[name] ~= nil then
			log:debug("[LuaMQTT] client '%s' ignores %s of a %s: only MQTT 5.0 has that", client.opts.id, name, what)
		end
	end
end

local note_ignored = requests.note_ignored

--- Makes a request of the session. Raises, in the name of the caller's caller, if the arguments are to blame. So it is
-- not to be used as a tail call.
-- @tparam Client client the client
-- @tparam ?function callback kept by the packet identifier that the method returns, before the answer comes
-- @tparam string what the name of the packet
-- @tparam string method of the link
-- @param ... its arguments
-- @return the method's result; or false
-- @treturn ?string and an error message
function requests.request(client, callback, what, method, ...)
	if not client.connection and not (method == "subscribe" and options.keeps_subscriptions(client.opts)) then
		return false, NOT_OPENED
	end
	local link = client._link
	local result, err, misuse = link[method](link, ...)
	if not result then
		if misuse then
			error(err, 3)
		end
		return false, "failed to send " .. what .. ": " .. err
	end
	log:debug("[LuaMQTT] client '%s' sending %s", client.opts.id, what)
	if result ~= true then
		set_callback(client, result, callback)
	end
	if not client.connection then
		return result
	end
	local ok
	ok, err = sent(client, what)
	-- On failure the connection is gone, and the program has been told. A kept exchange goes on on the next connection.
	if not ok and (result == true or not keeps_exchanges(client.opts)) then
		return false, err
	end
	return result
end

local request = requests.request

--- Makes a request, and has `done` called once with its end.
-- @tparam Client client the client
-- @tparam string method name of a method of the client that takes options with a callback
-- @tparam table opts its options; a callback in these is called first
-- @tparam function done called with the answer; or with nil and an error message if the request was accepted and will
-- not be carried out. Not called if there will be no connection any more
-- @tparam ?function note called with the answer to a SUBSCRIBE or UNSUBSCRIBE, before anything of the program is called
-- @return the method's results
function requests.ask(client, method, opts, done, note)
	local own, callback = {}, opts.callback
	local asked = { done = done, note = note }
	local known = fields[method]
	for key, value in each(opts) do
		-- The table may have options of the caller's.
		if known[key] ~= nil then
			own[key] = value
		end
	end
	function own.callback(answer)
		local packet_id = type(answer) == "table" and answer.packet_id
		-- The identifier may be that of another request by now.
		if packet_id and client._asked and client._asked[packet_id] == asked then
			client._asked[packet_id] = nil
		end
		local failure
		if callback then
			failure = try(nil, callback, answer, client)
		end
		raise(try(failure, done, answer))
	end
	asking[own.callback] = asked
	local packet_id, err = client[method](client, own)
	asking[own.callback] = nil
	return packet_id, err
end

--- A request that was accepted will not be carried out: its callback is not called.
-- @tparam Client client the client
-- @tparam number packet_id its packet identifier
-- @tparam ?string reason the error message for the function `done` of `ask`
function requests.forget(client, packet_id, reason)
	client._callbacks[packet_id] = nil
	if client._tags then
		client._tags[packet_id] = nil
	end
	local asked = client._asked and client._asked[packet_id]
	if asked then
		client._asked[packet_id] = nil
		if reason then
			asked.done(nil, reason)
		end
	end
end

--- Checks what a program gives to `publish`, `subscribe` or `unsubscribe`.
-- @tparam string method the name of the method
-- @param opts its first argument
-- @param second its second argument
-- @treturn ?string an error message
function requests.check(method, opts, second)
	return arguments.no_callback(second) or type(opts) == "table" and fields.lenient(method, opts)
		or arguments[method](opts)
end

local check = requests.check

-- SUBSCRIBE and UNSUBSCRIBE ------------------------------------------------------------------------------------------

-- The fields of a subscription that only MQTT 5.0 has.
local V50_SUBSCRIBE_FIELDS = { "no_local", "retain_as_published", "retain_handling", "properties", "user_properties" }

function requests.subscribe(client, opts, second)
	local problem = check("subscribe", opts, second)
	if problem then
		error(problem, 2)
	end
	local no_local, retain_as_published, retain_handling = opts.no_local, opts.retain_as_published, opts.retain_handling
	if client._version ~= const.v50 then
		note_ignored(client, "SUBSCRIBE", opts, V50_SUBSCRIBE_FIELDS)
		no_local, retain_as_published, retain_handling = false, false, 0
	elseif type(retain_handling) == "boolean" then
		retain_handling = retain_handling and 1 or 0
	end
	if not client.connection and not options.keeps_subscriptions(client.opts) then
		log:warn("[LuaMQTT] client '%s' does not subscribe to %s, since it is not connected: subscribe in a handler of "
			.. "connect, or set the option resubscribe, queue or store", client.opts.id, opts.topic)
	end
	local packet_id, err = request(client, opts.callback, "SUBSCRIBE", "subscribe", opts.topic, opts.qos or 0,
		no_local or false, retain_as_published or false, retain_handling or 0, opts.properties, opts.user_properties)
	if packet_id then
		return packet_id
	end
	return false, err
end

function requests.unsubscribe(client, opts, second)
	local problem = check("unsubscribe", opts, second)
	if problem then
		error(problem, 2)
	end
	if client._version ~= const.v50 then
		note_ignored(client, "UNSUBSCRIBE", opts)
	end
	local packet_id, err = request(client, opts.callback, "UNSUBSCRIBE", "unsubscribe", opts.topic, opts.properties,
		opts.user_properties)
	if packet_id then
		return packet_id
	end
	return false, err
end

-- PUBLISH ------------------------------------------------------------------------------------------------------------

--- Waits until the connection has taken most of the bytes to be sent. Does not wait where waiting holds up somebody
-- else, or where the connection itself waits until the program has taken received messages.
-- @tparam Client client the client
-- @treturn boolean whether there is room
function requests.wait_for_room(client)
	local link = client._link
	local least, deadline = link:outgoing_bytes(), core.now() + SEND_TIMEOUT
	while link:is_full() do
		local bytes, now = link:outgoing_bytes(), core.now()
		if bytes < least then
			least, deadline = bytes, now + SEND_TIMEOUT
		end
		if now >= deadline then
			client._stuck, client._direct = bytes, nil
			return false
		elseif not client._transport.wait_for_room(client, deadline - now) then
			return false
		end
	end
	return true
end

local wait_for_room = requests.wait_for_room

-- Whether the connection has still taken nothing since a publish gave up waiting.
local function is_stuck(client)
	if client._link:outgoing_bytes() < client._stuck or not client._link:is_full() then
		client._stuck = nil
		client._direct = client._transport.direct(client)
	end
	return client._stuck ~= nil
end

-- Publishes a message that `publish_plain` cannot. Returns the results of the link's function.
local function send_publish(client, opts)
	local topic, payload, qos, retain, dup = opts.topic, opts.payload, opts.qos, opts.retain, opts.dup
	local properties, user_properties = opts.properties, opts.user_properties
	if properties or user_properties or opts.expire then
		if client._version ~= const.v50 then
			note_ignored(client, "PUBLISH", opts)
		end
		return client._link:publish(topic, payload, qos or 0, retain or false, dup or false, opts.packet_id, properties,
			user_properties, opts.expire)
	end
	local may_wait = type(payload) == "string" and #payload >= LARGE_PAYLOAD and client._transport.may_block(client)
	return core_publish(client._handle, topic, payload, qos, retain, dup, opts.packet_id, may_wait)
end

-- Keeps the callback of an accepted message, and gives up messages that were dropped for it.
local function await_answer(client, packet_id, callback, dropped)
	if packet_id ~= 0 then
		set_callback(client, packet_id, callback)
	end
	if dropped then
		require("mqtt.client.dropped")(client, dropped)
	end
end

-- Ends the publish of an accepted message. Returns the results of `publish`.
local function published(client, packet_id, callback, full)
	if full then
		local ok, err = sent(client, "PUBLISH")
		if not ok and (packet_id == 0 or not keeps_exchanges(client.opts)) then
			return false, err
		end
		wait_for_room(client)
	end
	if packet_id == 0 then
		if callback then
			callback("no ack for QoS 0 message", client)
		end
		return true
	end
	return packet_id
end

function requests.publish(client, opts, second)
	local direct = client._direct
	if direct and publish_plain and second == nil then
		local packet_id, time, full, dropped, callback = publish_plain(direct, opts, IGNORED)
		if packet_id then
			client.send_time = time
			if full or dropped or callback then
				await_answer(client, packet_id, callback, dropped)
				return published(client, packet_id, callback, full)
			end
			return packet_id == 0 or packet_id
		end
	end

	local keeping = client._keeping
	if keeping and keeping.takes(client, opts) then
		local packet_id, err, is_misuse = keeping.accept(client, opts, second)
		if packet_id then
			return packet_id
		elseif is_misuse then
			error(err, 2)
		end
		return false, err
	end
	local packet_id, time, full, dropped, callback
	if not direct and publish_plain and second == nil and client.connection and not client._stuck then
		-- A client with a connector.
		packet_id, time, full, dropped, callback = publish_plain(client._handle, opts, IGNORED)
	end
	if not packet_id then
		local problem = check("publish", opts, second)
		if problem then
			error(problem, 2)
		elseif not (client.connection or client.opts.queue) then
			return false, NOT_OPENED
		elseif client._stuck and is_stuck(client) then
			return false, "failed to send PUBLISH: " .. STUCK
		end
		packet_id, time, full, dropped = send_publish(client, opts)
		if packet_id == false and wait_for_room(client) then
			packet_id, time, full, dropped = send_publish(client, opts)
		end
		if not packet_id then
			local err, is_misuse = time, full
			if is_misuse then
				error(err, 2)
			end
			return false, "failed to send PUBLISH: " .. err
		end
		callback = opts.callback
	end
	-- Before anything that yields: the answer may come meanwhile.
	await_answer(client, packet_id, callback, dropped)
	if direct then
		client.send_time = time
	elseif client.connection then
		local ok, err = sent(client, "PUBLISH")
		-- On failure the connection is gone, and the program has been told. A kept message is sent on the next
		-- connection.
		if not ok and (packet_id == 0 or not keeps_exchanges(client.opts)) then
			return false, err
		end
	end
	return published(client, packet_id, callback, full)
end

-- PUBACK and PUBREC --------------------------------------------------------------------------------------------------

function requests.acknowledge(client, msg, rc, properties, user_properties)
	local direct = client._direct
	if direct and rc == nil and properties == nil and user_properties == nil then
		local time = acknowledge_plain(direct, msg, client._session_mt)
		if time then
			client.send_time = time
			unacknowledged[msg] = nil
			return true
		end
	end
	if type(msg) ~= "table" or msg.type ~= PUBLISH then
		error("expecting msg to be a publish packet", 2)
	end
	local err = arguments.reason(rc, properties, user_properties)
	if err then
		error(err, 2)
	end
	unacknowledged[msg] = nil
	local packet_id, qos, mt = msg.packet_id, msg.qos, getmetatable(msg)
	local is_over = mt ~= client._session_mt and packet.is_session_mt(mt)
	if not client.connection then
		if packet_id and qos == 2 and not is_over then
			-- The acknowledgement counts when the session is resumed.
			core_acknowledge(client._handle, packet_id, qos, rc or 0)
		end
		return false, NOT_OPENED
	elseif not packet_id or qos == 0 then
		return true
	elseif is_over then
		return false, "the session that this message belongs to is over"
	end
	local ok, misuse
	local what = qos == 1 and "PUBACK" or "PUBREC"
	if properties or user_properties then
		ok, err = request(client, nil, what, "acknowledge", packet_id, qos, rc or 0, properties, user_properties)
		if ok then
			return true
		end
		return false, err
	end
	ok, err, misuse = core_acknowledge(client._handle, packet_id, qos, rc or 0)
	if ok then
		return sent(client, what)
	elseif misuse then
		error(err, 2)
	end
	return false, "failed to send " .. what .. ": " .. err
end

-- AUTH, PINGREQ and DISCONNECT ---------------------------------------------------------------------------------------

function requests.auth(client, rc, properties, user_properties)
	local err = arguments.reason(rc, properties, user_properties)
	if not err and client._version ~= const.v50 then
		err = "allowed only in MQTT v5.0 protocol"
	end
	if err then
		error(err, 2)
	end
	local ok
	ok, err = request(client, nil, "AUTH", "auth", rc or 0, properties, user_properties)
	if ok then
		return true
	end
	return false, err
end

function requests.send_pingreq(client)
	local ok, err = request(client, nil, "PINGREQ", "ping")
	if ok then
		return true
	end
	return false, err
end

-- Waits for a while until the messages that the receive maximum keeps back have gone out, where waiting holds up nobody
-- else.
local function drain(client)
	local deadline = core.now() + DRAIN_TIMEOUT
	while client._link:holds_back() do
		local rest = deadline - core.now()
		if rest <= 0 or not client._transport.wait_until_sent(client, rest) then
			return
		end
	end
end

function requests.disconnect(client, rc, properties, user_properties)
	local err = arguments.reason(rc, properties, user_properties)
	if err then
		error(err, 2)
	end
	local transport = client._transport
	if transport.hand_over(client, requests.disconnect, rc, properties, user_properties) then
		return true
	elseif client._opening then
		client:close_connection(ending.BY_CLIENT)
	end
	local conn = client.connection
	drain(client)
	if client.connection ~= conn then
		return false, NOT_OPENED
	end
	local ok
	ok, err = request(client, nil, "DISCONNECT", "disconnect", rc or 0, properties, user_properties)
	if not ok then
		if not client.connection then
			ending.tell_waiting(client, ending.BY_CLIENT)
		end
		return false, err
	end
	transport.settle(client)
	if client.connection == conn then
		ending.close(client, ending.BY_CLIENT, true)
	end
	return true
end

return requests

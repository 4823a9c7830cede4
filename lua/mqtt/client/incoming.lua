--- Packets of the broker go to the program here, and nowhere else: to the handlers of events and topics, and to the
-- callbacks of requests.
-- Internal to `mqtt.client`.

local core = require("mqtt.core")
local events = require("mqtt.transport.events")
local log = require("mqtt.log")
local packet = require("mqtt.packet")
local protect = require("mqtt.protect")

local core_pop, core_step, now, BUILDS_MESSAGES = core.pop, core.step, core.now, core.builds_messages
local call_all, raise, try = protect.call_all, protect.raise, protect.try
local shape_publish, shape_ack = packet.shape_publish, packet.shape_ack
local error, setmetatable, tostring = error, setmetatable, tostring

local types = packet.types
local PUBLISH, PUBACK, PUBREC = types.PUBLISH, types.PUBACK, types.PUBREC

-- After this many answers to messages the loop has its turn. The loop sends the messages published meanwhile, so the
-- broker has something to do.
local ANSWERS_PER_TURN = 50
-- How long a client with a connector is served in a row before the loop has its turn, in seconds.
local LONGEST_TURN = 0.01

-- The events of the packets that answer a request.
local ANSWER_EVENTS = {
	[types.SUBACK] = "subscribe",
	[types.UNSUBACK] = "unsubscribe",
	[PUBACK] = "acknowledge",
	[PUBREC] = "acknowledge",
}

local incoming = {
	--- Messages that nobody has acknowledged yet, for the option `auto_ack`.
	unacknowledged = setmetatable({}, { __mode = "k" }),
}
local unacknowledged = incoming.unacknowledged

--- Calls all handlers of an event, then raises the first error that a handler has raised. This is the method
-- `Client:handle`, which programs and loops replace.
-- @tparam Client client the client
-- @tparam string event its name
-- @param ... the arguments of the handlers
function incoming.handle(client, event, ...)
	local handlers = client.handlers[event]
	if not handlers then
		error("invalid event '" .. tostring(event) .. "' to handle", 2)
	end
	local handler = handlers[1]
	if handlers[2] then
		call_all(handlers, 1, nil, ...)
	elseif handler then
		-- Mostly there is one handler: a direct call costs less.
		handler(...)
		if handlers[2] then
			-- The handler has added others.
			call_all(handlers, 2, nil, ...)
		end
	end
end

--- Notes a message for acknowledgement after all its handlers, for the option `auto_ack`.
-- @tparam table message the message
function incoming.note(message)
	if message.qos ~= 0 then
		unacknowledged[message] = true
	end
end

-- Acknowledges a message after all its handlers, unless the program has done so. If this fails, the broker sends the
-- message once more.
local function acknowledge_handled(client, message)
	if not unacknowledged[message] then
		return
	end
	local ok, err = client:acknowledge(message)
	if not ok and client.connection then
		log:warn("[LuaMQTT] client '%s' could not acknowledge a message: %s", client.opts.id, err)
	end
end

--- Calls the handlers of a message: handlers of the event, then handlers of topics.
-- @tparam Client client the client
-- @tparam table message the message
function incoming.deliver(client, message)
	local topics, failure, passed = client._topics, nil, nil
	if not topics then
		passed = client:handle("message", message, client)
	else
		if client.handlers.message[1] or client.handle ~= incoming.handle then
			failure, passed = try(nil, client.handle, client, "message", message, client)
		end
		topics:deliver(message, failure)
	end
	-- `passed` is false where a handler's error was caught.
	if passed ~= false then
		acknowledge_handled(client, message)
	end
end

-- The tag of a kept message that is acknowledged, or nil.
local function take_tag(client, packet_id)
	local tag = client._tags[packet_id]
	if tag then
		client._tags[packet_id] = nil
	end
	return tag
end

--- The broker has answered a request: calls its callback, after the handlers of the event.
-- @tparam Client client the client
-- @tparam table answer a SUBACK, UNSUBACK, PUBACK or PUBREC
function incoming.answered(client, answer)
	local callbacks, packet_id, event = client._callbacks, answer.packet_id, ANSWER_EVENTS[answer.type]
	local callback = callbacks[packet_id]
	callbacks[packet_id] = nil
	if client._tags and event == "acknowledge" then
		answer.tag = take_tag(client, packet_id)
	end
	-- The library's part comes before anything of the program, which may wait, end its thread, or lose the session.
	local asked = client._asked and client._asked[packet_id]
	if asked then
		client._asked[packet_id] = nil
		if asked.note then
			asked.note(answer)
		end
	end
	if not callback then
		client:handle(event, answer, client)
	elseif client.handle == incoming.handle then
		call_all(client.handlers[event], 1, callback, answer, client)
	else
		raise(try(try(nil, client.handle, client, event, answer, client), callback, answer, client))
	end
end

-- The same as `answered`, for a PUBACK or PUBREC. It makes a table only if somebody wants it, which saves 120
-- instructions of 1,000 a message.
local function acknowledged(client, kind, packet_id, rc, properties, user_properties)
	local callbacks, handlers = client._callbacks, client.handlers.acknowledge
	local callback = callbacks[packet_id]
	local tag = client._tags and take_tag(client, packet_id)
	if not (callback or handlers[1]) then
		return
	end
	callbacks[packet_id] = nil
	local ack = shape_ack[client._version](kind, packet_id, rc, properties, user_properties)
	if tag then
		ack.tag = tag
	end
	if not handlers[1] then
		callback(ack, client)
	elseif callback or handlers[2] then
		call_all(handlers, 1, callback, ack, client)
	else
		handlers[1](ack, client)
		if handlers[2] then
			call_all(handlers, 2, nil, ack, client)
		end
	end
end

--- Takes messages and acknowledgements from the link to the program, on the shortest way, as long as the client stays
-- on its connection and in its loop.
-- @tparam Client client the client
-- @tparam number most how many at most
-- @tparam ?table thread the record of `mqtt.loop.copas`: a handler may wait, and then another thread takes the next
-- step
-- @treturn ?number what `Client:step` is to return; nil when there is an event of another kind
-- @return then this event, as `events.pop` returns it
function incoming.serve(client, most, thread)
	local handle, session_mt, auto_ack = client._handle, client._session_mt, client.opts.auto_ack
	local shape = shape_publish[client._version]
	-- The ioloop drives the runtime when all its clients have been served.
	local in_background = client._transport.in_background
	local next_event = thread and in_background and core_step or core_pop
	local worker, timeouts, error_handler, gettimeouts, geterrorhandler, removed
	if thread then
		worker, timeouts, error_handler, removed = thread.worker, thread.timeouts, thread.error_handler, thread.removed
		gettimeouts, geterrorhandler = thread.gettimeouts, thread.geterrorhandler
	end
	local answers, moves = 0, client._moves
	-- Nobody keeps the connection of a connector alive meanwhile.
	local deadline = not in_background and now() + LONGEST_TURN
	for _ = 1, most do
		-- A copy of `events.name`, `deliver` and `answered`, which takes 400 instructions less of 2,900 a message.
		local kind, first, second, third, fourth, fifth, sixth, seventh, eighth, ninth = next_event(handle, session_mt)
		if kind == PUBLISH then
			local message = first
			if not BUILDS_MESSAGES then
				message = setmetatable(shape(kind, first, second, third, fourth, fifth, sixth, seventh, eighth), session_mt)
			end
			if auto_ack then
				incoming.note(message)
			end
			local handlers = client.handlers.message
			local handler = handlers[1]
			if client._topics or handlers[2] then
				incoming.deliver(client, message)
			else
				if handler then
					handler(message, client)
					if handlers[2] then
						-- The handler has added others.
						call_all(handlers, 2, nil, message, client)
					end
				end
				if auto_ack then
					acknowledge_handled(client, message)
				end
			end
		elseif kind == PUBACK or kind == PUBREC then
			acknowledged(client, kind, first, second, third, fourth)
			answers = answers + 1
			if answers == ANSWERS_PER_TURN and not thread then
				break
			end
		elseif not kind and in_background and not thread then
			return -1
		else
			return nil, events.name(client, kind, first, second, third, fourth, fifth, sixth, seventh, eighth, ninth)
		end
		-- For a thread of Copas: `may_go_on` of `mqtt.loop.copas`, without a call.
		if client._moves ~= moves or thread and (thread.worker ~= worker or gettimeouts() ~= timeouts
			or geterrorhandler(worker) ~= error_handler or removed[worker] ~= nil) or deadline and now() > deadline then
			break
		end
	end
	return 0
end

return incoming

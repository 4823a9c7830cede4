--- Moves bytes between a connector and the session.
-- Internal to `mqtt.client`. Connector calls may yield, so they are made from Lua, and nothing here holds on to state
-- across one that another thread could have changed.

local core = require("mqtt.core")
local host = require("mqtt.host")
local log = require("mqtt.log")
local protect = require("mqtt.protect")

local pop, running_thread = core.pop, core.running
local outside, protected = host.outside, protect.call
local ipairs, rawget, require, select, setmetatable = ipairs, rawget, require, select, setmetatable
local tostring, type = tostring, type
local str_byte = string.byte

-- How long to wait between looks at whether another thread has sent everything, in seconds.
local DRAIN_PAUSE = 0.005
-- How long the next connection waits until the broker has ended the last one, in seconds.
local PARTING_TIME = 0.5
-- How soon keep alive looks again when the answer that it misses may not have been received yet, in seconds.
local SECOND_LOOK = 0.01

-- The greatest number that a descriptor can have.
local MOST_DESCRIPTOR = 0x7FFFFFFF

-- Greatest remaining length of a packet that is read whole before it is judged, in bytes.
local SMALL = 16383

local bridge = {}

--- Whether a connector is the native one, by its mark: `mqtt.connector.native` may be loaded more than once.
-- @param connector what the program gave
-- @treturn boolean
function bridge.is_native(connector)
	return type(connector) == "table" and rawget(connector, "is_native") == true
end

--- Returns the class of a connector.
-- @tparam table connector what the program gave: a class, or a function table of luamqtt 3.x; or the native one, for
-- the connector that does the same where the program wants a TLS module of its own
-- @treturn[1] table the class
-- @return[2] nil
-- @return[2] what is wrong with the connector
function bridge.class(connector)
	if bridge.is_native(connector) then
		return require("mqtt.connector." .. (host.openresty() and "nginx" or host.in_copas() and "copas" or "luasocket"))
	end
	-- Not for every program that loads the library.
	local v3 = require("mqtt.connector.v3")
	local is_v3 = v3.is(connector)
	for _, method in ipairs({ "connect", "shutdown", "send", "receive", "validate", "buffer_clear" }) do
		if is_v3 and (method == "validate" or method == "buffer_clear") then -- luacheck: ignore 542
			-- not of a function table
		elseif type(connector[method]) ~= "function" then
			return nil, "expecting connector." .. method .. " to be a function"
		end
	end
	if is_v3 then
		return v3.class(connector)
	end
	for _, signal in ipairs({ "signal_closed", "signal_idle" }) do
		if not connector[signal] then
			return nil, "missing connector." .. signal .. " signal value"
		end
	end
	return connector
end

-- What the program's connector does must not get into the way of the program's handlers, or end a loop's thread: an
-- error in it is logged. The connection is over in any case.
local function shut_down(client, conn)
	local ok, err = protected(conn.shutdown, conn)
	if not ok then
		log:error("[LuaMQTT] client '%s' connector.shutdown failed: %s", client.opts.id, tostring(err))
	end
end

-- Waits until the broker has ended the client's last connection: once the client is back, a broker reads no more of it.
local function await_parting(client, conn)
	local link, last = client._link, client._connected
	local deadline = core.now() + PARTING_TIME
	while client._opening == conn and (link:is_parting() or last and last.is_parting and last:is_parting()) do
		local rest = deadline - core.now()
		if rest <= 0 then
			return
		elseif not host.pause(DRAIN_PAUSE) then
			link:wait_until_parted(rest)
		end
	end
end

-- Returns what `pcall` does.
local function connect(client, conn)
	await_parting(client, conn)
	return protected(conn.connect, conn)
end

-- The descriptor of an open connection, if the connector tells it.
local function descriptor_of(conn)
	local fd = conn.getfd and conn:getfd()
	return type(fd) == "number" and fd >= 0 and fd <= MOST_DESCRIPTOR and fd % 1 == 0 and fd or nil
end

--- Opens a connection. Where threads can be had, one of them takes care of keep alive from then on.
-- @tparam Client client the client, which has none
-- @tparam table conn its new connection table
-- @tparam function failed what to do when that fails: gets the client and an error message, returns the latter
-- @return true, or false and an error message
function bridge.open(client, conn, failed)
	client._opening = conn
	host.shut_down_at_exit(client)
	local own, timeout = rawget(conn, "timeout"), client.opts.connect_timeout
	conn.timeout = timeout or own
	local called, ok, err = outside(client._link, connect, client, conn)
	if not called then
		ok, err = false, ok
	end
	if timeout then
		-- What is sent later has the connector's own limit.
		conn.timeout = own
	end
	if client._opening ~= conn then
		-- by another thread
		if ok then
			shut_down(client, conn)
		end
		return false, "connection attempt was given up"
	elseif not ok then
		return false, failed(client, tostring(err))
	end
	local told, descriptor = protected(descriptor_of, conn)
	if not told then
		shut_down(client, conn)
		return false, failed(client, "connector.getfd failed: " .. tostring(descriptor))
	end
	if client.ioloop then
		-- Which has other clients to ask: for connectors that could wait.
		conn.receive_timeout = 0
	end
	client._link:attach(descriptor)
	client.connection, client._opening, client._connected = conn, nil, conn
	client._check_soon = host.repeatedly(function()
		local seconds = client.connection == conn and client:check_keep_alive()
		-- That may have ended the connection.
		return client.connection == conn and seconds
	end)
	return true
end

--- Has a function called in the context that the connection belongs to, if the caller runs in another one.
-- In OpenResty a request cannot use the sockets of a timer; see `mqtt.connector.nginx`. Elsewhere this does nothing.
-- @tparam Client client the client
-- @tparam function func gets the client and the further arguments; its results are lost
-- @param ... further arguments
-- @treturn boolean whether it will be called; if not, the caller goes on by itself
function bridge.hand_over(client, func, ...)
	local conn = client.connection
	local hand_over = conn and conn.hand_over
	return hand_over ~= nil and hand_over(conn, func, client, ...)
end

-- The threads that call `send` of a connector, by client. Nothing here keeps a thread alive: nobody will resume one
-- that has been collected.
local senders = setmetatable({}, { __mode = "kv" })

-- Connections that cannot be sent to any more, with the error message: what was sent last may have been cut.
local broken = setmetatable({}, { __mode = "k" })

-- Sends bytes and what else the session has, as long as the connection takes it. Returns true, or false and an error
-- message. `is_at_work` looks for this on the stack, and what it has been given.
local function send_all(client, conn, data)
	local link = client._link
	while data and client.connection == conn do
		local called, ok, err = protected(conn.send, conn, data)
		if not (called and ok) then
			return false, tostring(called and err or ok)
		end
		data = link:take()
	end
	return true
end

-- Whether the thread that began to send for a client is still at it, and will be resumed.
local function is_at_work(client)
	local thread = senders[client]
	return thread ~= nil and host.is_at_work(thread, send_all, client) and not host.is_removed(thread)
end

--- Whether a thread is sending, which will send what is added meanwhile too.
-- @tparam Client client the client
function bridge.is_sending(client)
	local conn = client.connection
	return conn ~= nil and client._sending == conn and is_at_work(client)
end

--- Waits until other threads have sent what they are at.
-- @tparam Client client the client
function bridge.drain(client)
	while bridge.is_sending(client) and host.pause(DRAIN_PAUSE) do -- luacheck: ignore 542
		-- until the thread that sends has come to the end
	end
end

--- Closes a connection. What was sent on it reaches the broker all the same: what that still sends is read in the
-- background until it closes, too, or for two seconds. Closing a socket while received data is unread would reset the
-- connection, and could destroy what the broker has not read yet.
-- @tparam Client client the client, which has let go of it
-- @tparam table conn its connection table
function bridge.close(client, conn)
	client._check_soon()
	shut_down(client, conn)
	if client._connected == conn then
		client._link:detach()
	end
end

--- Writes what the session has to send. While one thread is at it, what others add is written by that one.
-- Nor is it an error if the connection is closed meanwhile.
-- @tparam Client client the client
-- @return true, or false and an error message
function bridge.flush(client)
	local conn = client.connection
	if client._sending ~= conn then -- luacheck: ignore 542
		-- nobody sends
	elseif is_at_work(client) then
		return true
	elseif conn and not broken[conn] then
		broken[conn] = "connector.send failed: the thread that sent has been ended"
	end
	if not conn or broken[conn] then
		return not conn, conn and broken[conn]
	end
	local data = client._link:take()
	if not data then
		return true
	end
	client._sending, senders[client] = conn, running_thread()
	local ok, err = send_all(client, conn, data)
	if client._sending == conn then
		client._sending = false
	end
	if ok or client.connection ~= conn then
		return true
	end
	broken[conn] = "connector.send failed: " .. err
	return false, broken[conn]
end

-- Another thread may wake those who wait at any moment, also between two calls of `pop`.
local function skip_woken(client, kind, ...)
	if kind == "woken" then
		return skip_woken(client, pop(client._handle, client._session_mt))
	end
	return kind, ...
end

-- The next event of a client's link but "woken", which is for those who wait: the values that `pop` returns.
local function next_event(client)
	return skip_woken(client, pop(client._handle, client._session_mt))
end

-- Reads one packet. Returns its fixed header and its body, or nil and an error or signal. After an idle signal the next
-- call starts with the same bytes again, if the connector keeps them (`buffer_clear` says when it need not).
-- A large body is not waited for if the header breaks a rule.
local function receive_packet(conn, link)
	local header, err = conn:receive(1)
	if not header then
		return nil, err
	end
	-- The remaining length, at most four bytes (2.1.4); a fifth would be malformed, and is left to the session to judge.
	local length, unit = 0, 1
	local byte
	repeat
		local data
		data, err = conn:receive(1)
		if not data then
			return nil, err
		end
		byte = str_byte(data)
		header = header .. data
		length = length + byte % 128 * unit
		unit = unit * 128
	until byte < 128 or #header > 5
	if length > SMALL then
		link:feed(header)
		if link:is_failed() then
			return header
		end
	end
	local body
	if length > 0 and #header <= 5 then
		body, err = conn:receive(length)
		if not body then
			return nil, err
		end
	end
	return header, body
end

-- Reads one packet as `receive_packet` does, and lets go of its bytes.
local function take_packet(client, conn, link)
	local header, body = receive_packet(conn, link)
	if client.connection == conn and (header or body ~= conn.signal_idle) then
		conn:buffer_clear()
	end
	return header, body
end

-- The same: an error that the connector raises is returned like one that it returns.
local function receive(client, conn, link)
	client._receiving = conn
	local called, header, body = protected(take_packet, client, conn, link)
	client._receiving = false
	if not called then
		return nil, "connector.receive failed: " .. tostring(header)
	end
	return header, body
end

--- Waits for something that lets the session send more: receives a packet, unless another thread does or will. What the
-- program is to get of it stays in the link until the next step. Keeps everything else waiting where nobody can yield.
-- @tparam Client client the client
-- @treturn boolean false if nothing will come
function bridge.receive_aside(client)
	local link, conn = client._link, client.connection
	if not conn then
		return false
	elseif client._copas or client._receiving == conn then
		return host.pause(DRAIN_PAUSE)
	end
	local header, body = receive(client, conn, link)
	if header and client.connection == conn then
		link:feed(header, body)
		return bridge.flush(client)
	elseif body ~= conn.signal_idle then
		return false
	end
	client:_pause()
	return true
end

--- One step of a client with a connector.
-- @tparam Client client the client
-- @tparam function begin what to do without a connection, returns what `step` returns
-- @tparam function handle_event what to do with an event of the link, returns what `step` returns
-- @return what `Client:step` returns
function bridge.step(client, begin, handle_event)
	local link, conn, in_copas = client._link, client.connection, client._copas
	local kind, a, b, c, d, e, f, g, h, i = pop(client._handle, client._session_mt)
	if kind == "woken" then
		kind, a, b, c, d, e, f, g, h, i = next_event(client)
	end
	if not conn then
		if kind then
			-- an answer that came by the last connection
			return handle_event(client, kind, a, b, c, d, e, f, g, h, i)
		end
		return begin(client)
	elseif not kind then
		local header, body
		if in_copas then
			header, body = outside(link, receive, client, conn, link)
		else
			header, body = receive(client, conn, link)
		end
		if client.connection ~= conn then
			-- closed by another thread meanwhile
			return 0
		end
		client._may_have_more = header ~= nil
		if not header and body == conn.signal_idle then
			return -1
		end
		if header then
			link:feed(header, body)
			kind, a, b, c, d, e, f, g, h, i = pop(client._handle, client._session_mt)
			if kind == "woken" then
				kind, a, b, c, d, e, f, g, h, i = next_event(client)
			end
		elseif body == conn.signal_closed or link:is_failed() then
			-- Once DISCONNECT has been sent it does not matter how the connection ends.
			kind = "closed"
		else
			kind, a = "failed", tostring(body)
		end
	end
	-- The answers to it, such as a PUBREL or the DISCONNECT after a broken rule.
	local ok, err
	if in_copas then
		ok, err = outside(link, bridge.flush, client)
	else
		ok, err = bridge.flush(client)
	end
	if kind then
		return handle_event(client, kind, a, b, c, d, e, f, g, h, i)
	elseif ok then
		return 0
	end
	return handle_event(client, "failed", err)
end

-- Handles an event outside of `step`, if there is one. Returns the error message.
local function handle_aside(client, handle_event, kind, ...)
	if kind then
		return select(2, handle_event(client, kind, ...))
	end
end

--- Does what keep alive wants now.
-- @tparam Client client the client, connected
-- @tparam function handle_event as for `step`
-- @return nil, or an error message if the connection was given up
-- @treturn ?number in how many seconds to call this again, if what has arrived should be received before
function bridge.check_keep_alive(client, handle_event)
	local link = client._link
	local left, is_for_broker = link:deadline()
	if left == 0 and is_for_broker and client._may_have_more then
		-- The program may have been busy with what came before the answer, which need not be the broker's fault.
		client._may_have_more = false
		return nil, SECOND_LOOK
	end
	local conn = client.connection
	if left == 0 and is_for_broker and conn.arriving then
		link:arriving(conn:arriving())
	end
	link:handle_timeout()
	local ok, err = bridge.flush(client)
	if not ok then
		return handle_aside(client, handle_event, "failed", err)
	elseif link:is_failed() then
		return handle_aside(client, handle_event, next_event(client))
	end
end

return bridge

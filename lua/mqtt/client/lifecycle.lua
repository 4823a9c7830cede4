--- The life of a client: the choice of a broker and the time, opening a connection, CONNECT and CONNACK, and the end.
-- Methods of `Client` are documented in `mqtt.client`.
-- Internal to `mqtt.client`.

local arguments = require("mqtt.client.arguments")
local const = require("mqtt.const")
local core = require("mqtt.core")
local ending = require("mqtt.client.ending")
local host = require("mqtt.host")
local log = require("mqtt.log")
local options = require("mqtt.client.options")
local pop = require("mqtt.transport.events").pop
local protect = require("mqtt.protect")
local requests = require("mqtt.client.requests")
local target = require("mqtt.client.target")
local transports = require("mqtt.transport")

local error, ipairs, pcall, setmetatable, type = error, ipairs, pcall, setmetatable, type
local math_ceil, math_max, math_min = math.ceil, math.max, math.min
local str_format = string.format
local connect_timeout, keeps_exchanges = options.connect_timeout, options.keeps_exchanges
local fail, gone, is_first_pass = ending.fail, ending.gone, ending.is_first_pass
local raise, try = protect.raise, protect.try
local NOT_OPENED, COLLECTED, GIVEN_UP = ending.NOT_OPENED, ending.COLLECTED, ending.GIVEN_UP

-- The part of `connect_timeout` that is left for the CONNACK in any case.
local CONNACK_PART = 0.1

local lifecycle = {}

-- Options ------------------------------------------------------------------------------------------------------------

-- Checks the options again, since the program may have changed them. Returns an error message, or nil.
local function check_options(client)
	if client._is_collected then
		return COLLECTED
	end
	return options.check_changed(client.opts, client._version)
end

--- Passes the session the options that it needs to know.
-- @tparam Client client the client
-- @treturn[1] boolean true
-- @return[2] nil and an error message
function lifecycle.configure(client)
	local err = check_options(client)
	if err then
		return nil, err
	end
	local timeout, rpc = client.connection and client.connection.connack_timeout, client._rpc
	return client._link:configure(options.session(client.opts, timeout, rpc and rpc.name))
end

local configure = lifecycle.configure

-- Makes the connection table for a broker; the arguments are the results of `Brokers:next`. Raises on bad options.
local function new_connection(client, ...)
	local conn
	conn, client._from_uri = target.new(client.opts, client._from_uri, ...)
	return conn
end

--- Finds the transport of a client, and checks the options for each broker. Raises if they are of no use.
-- @tparam Client client the client
function lifecycle.check_brokers(client)
	local opts = client.opts
	local uris = type(opts.uri) == "table" and opts.uri or { opts.uri }
	local conns, is_secure = {}, false
	-- The first uri comes last, so that the options show its user name, password and `secure`.
	for i = #uris, 1, -1 do
		local ok, conn = pcall(new_connection, client, uris[i])
		if not ok then
			error(uris == opts.uri and str_format("uri[%d]: %s", i, conn) or conn, 0)
		end
		conns[i], is_secure = conn, is_secure or conn.secure
	end
	local transport = transports.of(opts, is_secure)
	if client._transport ~= transport then
		client._transport = transport
	end
	for _, conn in ipairs(conns) do
		transport.check(client, conn)
	end
end

-- Opening ------------------------------------------------------------------------------------------------------------

-- The connection is open: the CONNACK gets the rest of the time for connecting.
local function opened(client)
	local transport = client._transport
	client.connection, client._opening = client._opening, nil
	client._direct = transport.direct(client)
	if client._stuck then
		client._stuck = nil
	end
	local whole = connect_timeout(client.opts)
	local rest = math_max(client._brokers.last_attempt + whole - core.now(), whole * CONNACK_PART)
	-- Rounded up to milliseconds, for an error message.
	client.connection.connack_timeout = math_ceil(rest * 1000) / 1000
	transport.opened(client)
end

-- The connection could not be opened. Returns the error message.
local function open_failed(client, reason)
	client._link:close()
	client._opening = nil
	client._brokers:ended()
	client.first_connect = is_first_pass(client)
	local message = "failed to open network connection: " .. reason
	ending.log_error(client, message)
	raise(try(try(nil, client.handle, client, "error", message, client), ending.tell_waiting, client, message))
	return message
end

-- Sends CONNECT on a connection that has just been opened. Returns the results of `step`.
local function begin(client)
	local ok, err = client:send_connect()
	if ok then
		return 0
	end
	client.first_connect = is_first_pass(client)
	return gone(client, err)
end

--- The transport has opened the connection.
-- @tparam Client client the client
-- @return the results of `step`
function lifecycle.opened(client)
	opened(client)
	return begin(client)
end

--- The transport could not open the connection.
-- @tparam Client client the client
-- @tparam string reason why
-- @return the results of `step`
function lifecycle.open_failed(client, reason)
	return gone(client, open_failed(client, reason))
end

-- Opens a connection to the next broker. Returns the results of the transport's `open`. Raises if the options have
-- become bad.
local function open(client)
	local err = check_options(client)
	if err then
		error(err, 0)
	end
	local brokers, transport = client._brokers, client._transport
	local conn = transport.adopt(client, new_connection(client, brokers:next(client.opts.uri)))
	log:info("[LuaMQTT] client '%s' connecting to %s%s%s", client.opts.id, target.place(conn))
	brokers.last_attempt = core.now()
	local keeping, is_open = client._keeping, true
	if keeping then
		is_open, err = keeping.ready(client)
	end
	if is_open then
		is_open, err = transport.open(client, conn)
	end
	if is_open == nil then
		return nil
	elseif client._opening ~= conn then
		-- Another thread has given the attempt up.
		return false, GIVEN_UP
	elseif is_open then
		opened(client)
		return true
	end
	return false, open_failed(client, err)
end

-- Handles the answers that the last connection has brought and nobody has taken.
local function take_rest(client)
	repeat
		local kind, what, more = pop(client)
		-- A broken link belongs to the parent of a fork, and says "broken" each time.
		if kind and kind ~= "broken" then
			client:_handle_event(kind, what, more)
		end
	until not kind or kind == "broken" or client.connection or client._opening
end

function lifecycle.open_connection(client)
	if not (client.connection or client._opening) then
		local endings = client._endings
		take_rest(client)
		if client._endings ~= endings and not (client.connection or client._opening) then
			-- A handler of an answer has closed or shut down the client, or another thread did while the handler
			-- waited.
			return false, GIVEN_UP
		end
	end
	if client.connection then
		return true
	elseif client._is_collected then
		-- In the client's last `close` handler. The program may be ending, and must not be held up.
		return false, COLLECTED
	end
	local is_open, err
	-- If a connector is being opened by another thread, that attempt is given up.
	if not (client._opening and client._transport.in_background) then
		is_open, err = open(client)
	end
	if is_open then
		return true
	elseif is_open == false then
		return false, err
	end
	local conn = client._opening
	while client._opening == conn do
		client._transport.await_open(client)
		if client._opening == conn then
			local kind, what = pop(client)
			if kind == "opened" then
				opened(client)
			elseif kind == "open_failed" or kind == "broken" then
				return false, open_failed(client, what)
			elseif kind == "woken" then
				client:_woken()
			end
		end
	end
	if client.connection then
		return true
	end
	return false, GIVEN_UP
end

function lifecycle.start_connecting(client)
	local ok, err = client:open_connection()
	if ok and not (client.connection and client.connection.connect_sent) then
		ok, err = client:send_connect()
	end
	if not ok then
		client.first_connect = is_first_pass(client)
		return false, err
	end
	return true
end

--- Connects if this is the first connect, or the time to reconnect has come.
-- @tparam Client client the client, which has no connection
-- @return the results of `step`; -1 if the connection is being opened
function lifecycle.connect_in_time(client)
	local reconnect, brokers = client.opts.reconnect, client._brokers
	if client._is_collected then
		return nil, COLLECTED
	elseif not client.first_connect and not reconnect then
		return nil, NOT_OPENED
	end
	local bad = options.check("reconnect", reconnect or false)
	if bad then
		error(bad, 0)
	end
	local now, last = core.now(), brokers.last_attempt
	local due = last and reconnect and last + brokers:delay(reconnect) or now
	if brokers.lost_at then
		due = math_max(due, brokers.lost_at + host.reconnect_pause())
	end
	if due > now then
		local waits = client._waits
		local at = math_min(due, waits and waits.next_timeout or due)
		local left = math_max(at - now, 0)
		if client._wake_at ~= at then
			-- The link wakes its waiters at this time.
			client._wake_at = at
			client._link:wake_after(left)
		end
		return left
	end
	local is_open, err = open(client)
	if is_open == nil then
		return -1
	elseif is_open then
		return begin(client)
	end
	client.first_connect = is_first_pass(client)
	return gone(client, err)
end

-- CONNECT and CONNACK ------------------------------------------------------------------------------------------------

function lifecycle.send_connect(client)
	local conn, opts = client.connection, client.opts
	if not conn then
		return false, NOT_OPENED
	end
	log:info("[LuaMQTT] client '%s' sending CONNECT (user '%s')", opts.id, opts.username or "not specified")
	local ok, err = configure(client)
	if ok and opts.clean and not keeps_exchanges(opts) then
		requests.forget_all(client)
	end
	if client._version ~= const.v50 then
		requests.note_ignored(client, "CONNECT", opts)
	end
	if ok then
		ok, err = client._link:connect(options.connect_fields(opts))
	end
	if not ok then
		err = "failed to send CONNECT: " .. err
		fail(client, err, "error")
		return false, err
	end
	ok, err = requests.sent(client, "CONNECT")
	if not ok then
		return false, err
	end
	conn.connect_sent = true
	-- From now on the CONNACK is due.
	client._transport.look_soon(client)
	return true
end

-- Many brokers close a plain connection to the port for TLS without a word.
local WRONG_PORT = ": if this is its port for TLS, use mqtts://"

-- The reason codes by which a server refers to other servers (4.11), and the reason code for a second client with the
-- same client identifier (3.14.2.1).
local USE_ANOTHER_SERVER = core.reason_codes.use_another_server
local SERVER_MOVED = core.reason_codes.server_moved
local SESSION_TAKEN_OVER = core.reason_codes.session_taken_over

-- This many connections that the broker has ended, within so many seconds, are worth a warning.
local TAKEN_OVER, TAKEN_OVER_WITHIN = 3, 300

-- The broker has ended a connection that it had accepted, perhaps since another client has the same client identifier.
local function note_taken_over(client, is_certain)
	local brokers, now = client._brokers, core.now()
	if not brokers.taken_since or now - brokers.taken_since > TAKEN_OVER_WITHIN then
		brokers.taken_since, brokers.taken = now, 0
	end
	brokers.taken = brokers.taken + 1
	if brokers.taken == TAKEN_OVER then
		log:warn("[LuaMQTT] the broker has ended %d connections of client '%s': %s uses the same client identifier "
			.. "(the option id), or the broker ends it for another reason, which its log tells", TAKEN_OVER,
			client.opts.id, is_certain and "another client" or "perhaps another client")
	end
end

-- Follows the server reference of a CONNACK or DISCONNECT of 5.0, if there is a reference and the option allows it.
local function follow_reference(client, pck)
	local reference = pck.properties and pck.properties.server_reference
	if not (reference and client.opts.follow_server_reference)
		or pck.rc ~= USE_ANOTHER_SERVER and pck.rc ~= SERVER_MOVED then
		return
	end
	if pck.rc == SERVER_MOVED and client._keeping then
		client._keeping.moved(client, reference)
	end
	for _, ignored in ipairs(client._brokers:refer(reference, pck.rc == SERVER_MOVED)) do
		log:warn("[LuaMQTT] client '%s' ignores server reference %q: expecting host[:port]", client.opts.id, ignored)
	end
end

-- The CONNACK that each connection has brought, and all of these as a set. The loops may have a thread handle a CONNACK
-- when the client has another connection already.
local brought, all_brought = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

--- Notes the effects of a CONNACK on the next connection. At once: its handlers may run later, in another thread.
-- @tparam Client client the client
-- @tparam table connack the packet
function lifecycle.note_connack(client, connack)
	all_brought[connack] = true
	if client.connection then
		brought[client.connection] = connack
	end
	if connack.rc ~= 0 then
		return follow_reference(client, connack)
	end
	client._brokers:succeeded()
	local assigned = connack.properties and connack.properties.assigned_client_identifier
	if assigned and client.opts.id == "" then
		-- The server knows the session by the assigned client identifier (3.2.2.3.7).
		client.opts.id = assigned
	end
end

--- The broker has answered CONNECT.
-- @tparam Client client the client
-- @tparam table connack the packet
-- @treturn[1] boolean true
-- @return[2] false and an error message
function lifecycle.connack_received(client, connack)
	local conn, opts = client.connection, client.opts
	if not conn or all_brought[connack] and brought[conn] ~= connack then
		-- The connection was closed before the thread came to handle the CONNACK.
		return false, NOT_OPENED
	end
	conn.connack = connack
	if connack.rc ~= 0 then
		local err = str_format("CONNECT failed with CONNACK [rc=%d]: %s", connack.rc, connack:reason_string())
		fail(client, err, "connection failed", connack)
		return false, err
	end
	local rpc, topics = client._rpc, client._topics
	if rpc then
		rpc:revise(connack)
	end
	log:info("[LuaMQTT] client '%s' connected successfully to '%s%s%s'", opts.id, target.place(conn))
	if opts.clean == "first" then
		opts.clean = false
		-- The next connection takes the exchanges of this connection up.
		configure(client)
	end
	-- The broker may have set another keep alive.
	client._transport.look_soon(client)
	local failure, unrenewed
	if topics then
		failure, unrenewed = try(nil, topics.renew, topics, connack)
	end
	if rpc and client.connection == conn then
		failure = try(failure, rpc.renew, rpc)
	end
	if client.connection ~= conn then
		raise(failure)
		return false, NOT_OPENED
	end
	failure = try(failure, client.handle, client, "connect", connack, client)
	client.first_connect = false
	local waits = client._waits
	if waits then
		failure = try(failure, waits.finish_all, waits, "connect", connack)
	end
	if unrenewed and unrenewed[1] and client.connection == conn then
		failure = try(failure, topics.report_unrenewed, topics, unrenewed)
	end
	raise(failure)
	return true
end

-- The end ------------------------------------------------------------------------------------------------------------

--- The broker ends the connection.
-- @tparam Client client the client
-- @tparam table disconnect the DISCONNECT
-- @return the results of `step`
function lifecycle.disconnect_received(client, disconnect)
	local reason = "disconnect received from broker"
	if (disconnect.rc or 0) == 0 then
		client:close_connection(reason)
		return 0
	end
	follow_reference(client, disconnect)
	reason = str_format("%s: %s [0x%02X]", reason, disconnect:reason_string(), disconnect.rc)
	local text = disconnect.properties.reason_string
	if text then
		reason = reason .. ": " .. text
	end
	local message = reason
	if disconnect.rc == SESSION_TAKEN_OVER then
		message = message .. ": another client uses this client identifier (the option id)"
		note_taken_over(client, true)
	end
	fail(client, message, reason, disconnect)
	return gone(client, reason)
end

--- The connection has ended.
-- @tparam Client client the client
-- @return the results of `step`
function lifecycle.closed(client)
	-- After our DISCONNECT the broker closes, perhaps before the sending thread closes the connection.
	if client._link:is_failed() then
		client:close_connection(ending.BY_CLIENT)
		return gone(client, ending.BY_CLIENT)
	end
	local conn, reason = client.connection, ending.BY_BROKER
	local message = reason
	if conn and conn.connack then
		note_taken_over(client, false)
	else
		message = reason .. " before its CONNACK" .. (conn and conn.protocol == "mqtt" and WRONG_PORT or "")
	end
	fail(client, message, reason)
	return gone(client, reason)
end

function lifecycle.close_connection(client, reason)
	if reason ~= nil and type(reason) ~= "string" then
		error("expecting reason to be a string", 2)
	end
	if not client._transport.hand_over(client, lifecycle.close_connection, reason) then
		ending.close(client, reason or "unspecified")
	end
	return true
end

function lifecycle.shutdown(client, ...)
	local err = arguments.reason(...)
	if err then
		error(err, 2)
	end
	log:debug("[LuaMQTT] client '%s' shutting down", client.opts.id)
	client.first_connect = false
	client.opts.reconnect = false
	client._endings = client._endings + 1
	if client._transport.hand_over(client, lifecycle.shutdown, ...) then
		return true
	end
	local failure, ok = try(nil, client.disconnect, client, ...)
	if not ok and client.connection and not client._closing then
		-- The disconnect has failed, and perhaps nobody is left to see it.
		failure = try(failure, client.close_connection, client, ending.BY_CLIENT)
	end
	-- A loop may be waiting for the time to reconnect: it has to see that there is no such time any more.
	client._link:wake()
	failure = try(failure, client.handle, client, "shutdown", client)
	raise(failure)
	return true
end

return lifecycle

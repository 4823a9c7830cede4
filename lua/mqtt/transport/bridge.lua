--- Moves bytes between a connector and the session. See `mqtt.transport` for the functions.
-- Internal to `mqtt.client`. Connector calls may yield, so they are made from Lua, and no function here keeps, across
-- such a call, state that another thread could change.

local core = require("mqtt.core")
local events = require("mqtt.transport.events")
local host = require("mqtt.host")
local log = require("mqtt.log")
local native = require("mqtt.transport.native")
local protect = require("mqtt.protect")
local target = require("mqtt.client.target")

local pop, running_thread = events.pop, core.running
local outside, protected = host.outside, protect.call
local error, ipairs, rawget, require, select = error, ipairs, rawget, require, select
local setmetatable, tostring, type = setmetatable, tostring, type
local loaded = package.loaded
local math_min = math.min

-- How long to wait between looks at whether another thread has sent everything, in seconds.
local DRAIN_PAUSE = 0.005
-- How long a program without threads waits at most until its store has been synced, in seconds.
local SYNC_TIME = 1
-- How long the next connection waits until the broker has ended the last one, in seconds.
local PARTING_TIME = 0.5
-- If an expected answer may have arrived unread, keep alive looks again after this time, in seconds.
local SECOND_LOOK = 0.01

-- The greatest number that a descriptor can have.
local MOST_DESCRIPTOR = 0x7FFFFFFF

-- How many bytes are received at once, and how many a packet has at least (2.1.1).
local GULP, SHORTEST_PACKET = 0x10000, 2

local bridge = { in_background = false }

-- Returns the class of a connector, or nil and an error message. A class stays itself, and a function table of luamqtt
-- 3.x becomes a class. For the native connector (the program wants its own TLS module) it is the connector in Lua for
-- the same sockets.
local function class_of(connector)
	if native.is_of(connector) then
		return require("mqtt.connector." .. (host.openresty() and "nginx" or host.in_copas() and "copas" or "luasocket"))
	end
	-- Loaded only when needed.
	local v3 = require("mqtt.connector.v3")
	local is_v3 = v3.is(connector)
	for _, method in ipairs({ "connect", "shutdown", "send", "receive", "validate", "buffer_clear" }) do
		if is_v3 and (method == "validate" or method == "buffer_clear") then -- luacheck: ignore 542
			-- a function table has neither
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

function bridge.adopt(client, conn)
	target.check_connector(client.opts, conn)
	local class, err = class_of(client.opts.connector)
	if not class then
		error(err, 0)
	end
	return setmetatable(conn, class)
end

function bridge.check(client, conn)
	bridge.adopt(client, conn):validate()
end

-- Closes the connector, and logs an error that it raises: the error must not stop the program's handlers, or end a
-- loop's thread. The connection is over in any case.
local function shut_down(client, conn)
	local ok, err = protected(conn.shutdown, conn)
	if not ok then
		log:error("[LuaMQTT] client '%s' connector.shutdown failed: %s", client.opts.id, tostring(err))
	end
end

-- Waits until the broker has ended the client's last connection: a broker stops reading it once the client is back.
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

-- Returns the results of `pcall`.
local function connect(client, conn)
	await_parting(client, conn)
	return protected(conn.connect, conn)
end

-- Connections whose `send` does nothing but write to their descriptor. The link writes to it too: at once, or, in a
-- burst, many packets together. So no bytes wait for Lua, even if the program ends or is busy elsewhere. Only where the
-- socket takes no more, or fails, the connector's `send` is called, which waits, and tells of the failure.
local plain = setmetatable({}, { __mode = "k" })

-- Connections that take no more bytes, with the error message: the last write may have been cut.
local broken = setmetatable({}, { __mode = "k" })

-- The descriptor of an open connection, if the connector tells it.
local function descriptor_of(conn)
	local fd = conn.getfd and conn:getfd()
	return type(fd) == "number" and fd >= 0 and fd <= MOST_DESCRIPTOR and fd % 1 == 0 and fd or nil
end

function bridge.open(client, conn)
	client._opening = conn
	host.shut_down_at_exit(client)
	local own, timeout = rawget(conn, "timeout"), client.opts.connect_timeout
	conn.timeout = timeout or own
	local called, ok, err = outside(client, connect, client, conn)
	if not called then
		ok, err = false, ok
	end
	if timeout then
		-- From now on the connector's own limit counts.
		conn.timeout = own
	end
	local told, descriptor = true, nil
	if ok then
		told, descriptor = protected(descriptor_of, conn)
	end
	if ok and not (told and client._opening == conn) then
		-- The connection is unusable, or another thread has given the attempt up.
		shut_down(client, conn)
	end
	if not told then
		ok, err = false, "connector.getfd failed: " .. tostring(descriptor)
	end
	if not ok or client._opening ~= conn then
		return false, tostring(err)
	end
	if client.ioloop then
		-- The loop has other clients to serve: connectors that could wait must not.
		conn.receive_timeout = 0
	end
	local is_plain = descriptor ~= nil and conn.sends_plainly ~= nil and conn:sends_plainly()
	-- Without a descriptor of its own for instance, the link does not write.
	plain[conn] = client._link:attach(descriptor, is_plain) or nil
	return true
end

-- A connector is open when `open` returns.
function bridge.await_open() end

function bridge.opened(client)
	local conn = client.connection
	client._connected = conn
	-- Where threads can be had, a thread takes care of keep alive.
	client._check_soon = host.repeatedly(function()
		local seconds = client.connection == conn and client:check_keep_alive()
		-- The call may have ended the connection.
		return client.connection == conn and seconds
	end)
end

function bridge.direct(client)
	local conn = client.connection
	return conn and plain[conn] and not broken[conn] and not client._keeping and client._handle or nil
end

bridge.hand_over = native.hand_over

-- The threads that call `send` of a connector, by client. The table holds no thread: nobody will resume a collected
-- thread.
local senders = setmetatable({}, { __mode = "kv" })

-- Sends bytes, and whatever else the session has to send, as long as the connection takes it. Returns true, or false
-- and an error message. `is_at_work` looks for this function on the stack, with its first argument.
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

-- Whether the thread that began to send for a client is still sending, and will be resumed.
local function is_at_work(client)
	local thread = senders[client]
	return thread ~= nil and host.is_at_work(thread, send_all, client) and not host.is_removed(thread)
end

-- Whether a thread is sending: it sends bytes that are added meanwhile, too.
local function is_sending(client)
	local conn = client.connection
	return conn ~= nil and client._sending == conn and is_at_work(client)
end

function bridge.settle(client)
	while is_sending(client) and host.pause(DRAIN_PAUSE) do -- luacheck: ignore 542
		-- until the sending thread has come to the end
	end
end

-- Bytes already sent on the connection still reach the broker. The connection is read in the background until the
-- broker closes it, too, or for two seconds: closing a socket while received data is unread would reset the connection,
-- and could destroy data that the broker has not read yet.
function bridge.close(client, conn)
	client._check_soon()
	shut_down(client, conn)
	if client._connected == conn then
		client._link:detach()
	end
end

-- Notes that a connection takes no more bytes. Returns false and the error message.
local function give_up(client, conn, err)
	broken[conn] = "connector.send failed: " .. err
	client._direct = nil
	return false, broken[conn]
end

-- Whether bytes wait until the store has been synced that nobody but the connector's `send` will write.
local function waits_for_store(client)
	return client._keeping and not plain[client.connection] and client._link:waits_for_store()
end

-- Writes the bytes that the session has to send. Returns true, or false and an error message. A sending thread also
-- writes the bytes that other threads add. It is no error if the connection is closed meanwhile.
local function flush(client)
	-- Without threads, the next step looks again.
	while client.connection and waits_for_store(client) and host.pause(DRAIN_PAUSE) do -- luacheck: ignore 542
	end
	local conn, link = client.connection, client._link
	if client._sending ~= conn then -- luacheck: ignore 542
		-- no thread is sending
	elseif is_at_work(client) then
		return true
	elseif conn and not broken[conn] then
		return give_up(client, conn, "the thread that sent has been ended")
	end
	if not conn or broken[conn] then
		return not conn, conn and broken[conn]
	elseif plain[conn] and link:write() then
		return true
	end
	local data = link:take()
	if not data then
		return true
	end
	local thread = running_thread()
	if loaded.copas then
		host.note_thread(thread)
	end
	client._sending, senders[client] = conn, thread
	local ok, err = send_all(client, conn, data)
	if client._sending == conn then
		client._sending = false
	end
	if ok or client.connection ~= conn then
		return true
	end
	return give_up(client, conn, err)
end

-- Likewise, for `next`: no thread of the program can keep this function from returning.
local function flush_outside(client)
	if client._copas then
		return outside(client, flush, client)
	end
	return flush(client)
end

function bridge.send(client, again, what)
	local conn = client.connection
	if conn and conn.hand_over and not is_sending(client) and conn:hand_over(again, client, what) then
		return true
	elseif what == "DISCONNECT" and conn and waits_for_store(client) then
		-- No step comes after it.
		client._link:wait_for_store(SYNC_TIME)
	end
	return flush(client)
end

-- Receives everything that has arrived, if the connector can tell, else one packet in pieces, and feeds it to the link.
-- Returns true, or nil and an error or signal.
local function take_bytes(client, conn, link)
	local data, err
	if conn.receive_some and conn.receive == conn.receive_in_full and conn.read_ahead ~= 1 then
		data, err = conn:receive_some(GULP)
		if data and client.connection == conn then
			conn:buffer_clear()
			link:feed(data)
		end
		return data ~= nil, err
	end
	local lacking = SHORTEST_PACKET
	repeat
		data, err = conn:receive(lacking)
		if client.connection ~= conn then
			return nil
		elseif not data then
			if err == conn.signal_idle then
				-- The connector begins with the packet's first byte again.
				link:begin_anew()
			else
				conn:buffer_clear()
			end
			return nil, err
		end
		lacking = link:feed(data)
	until lacking == 0
	conn:buffer_clear()
	return true
end

-- Likewise, but returns an error that the connector raises.
local function receive(client, conn, link)
	client._receiving = conn
	local called, received, err = protected(take_bytes, client, conn, link)
	client._receiving = false
	if not called then
		return nil, "connector.receive failed: " .. tostring(received)
	end
	return received, err
end

-- Receives a packet, which may let the session send more, unless another thread receives or will. The program's part of
-- the packet stays in the link until the next step. Everything else waits where nobody can yield.
function bridge.wait_until_sent(client)
	local link, conn = client._link, client.connection
	if not conn or host.has_company(client) then
		return false
	elseif client._copas or client._receiving == conn then
		return host.pause(DRAIN_PAUSE)
	end
	local received, err = receive(client, conn, link)
	if received and client.connection == conn then
		return flush(client)
	elseif err ~= conn.signal_idle then
		return false
	end
	client:_pause()
	return true
end

function bridge.wait_for_room()
	return host.pause(DRAIN_PAUSE)
end

function bridge.may_block()
	return false
end

function bridge.next(client)
	local link, conn = client._link, client.connection
	local kind, what, more = pop(client)
	if not conn then
		-- Perhaps an answer that came by the last connection.
		return kind, what, more
	elseif not kind and broken[conn] then
		-- The answer to the last packet could not be sent: nothing more may come.
		return "failed", broken[conn]
	elseif not kind then
		-- What the handlers have sent goes out before this waits.
		local received, err
		if plain[conn] and not link:write() or client._keeping and not plain[conn] then
			received, err = flush_outside(client)
			if client.connection ~= conn then
				return nil, 0
			elseif not received then
				return "failed", err
			end
		end
		-- No thread of the program can keep these functions from returning.
		if client._copas then
			received, err = outside(client, receive, client, conn, link)
		else
			received, err = receive(client, conn, link)
		end
		if client.connection ~= conn then
			-- closed by another thread meanwhile
			return nil, 0
		end
		client._may_have_more = received
		if received then
			kind, what, more = pop(client)
		elseif err == conn.signal_idle then
			return nil
		elseif err == conn.signal_closed or link:is_failed() then
			-- Once DISCONNECT has been sent it does not matter how the connection ends.
			kind = "closed"
		else
			kind, what = "failed", tostring(err)
		end
	end
	-- Send the answers to the packet, such as a PUBREL, or the DISCONNECT after a broken rule.
	local ok, err = flush_outside(client)
	if kind then
		return kind, what, more
	elseif ok then
		return nil, 0
	end
	return "failed", err
end

-- There is nothing to await: the connector waits by itself, or cannot wait.
function bridge.await()
	return false
end

function bridge.keep_alive(client)
	local link, conn = client._link, client.connection
	local left, is_for_broker = link:deadline()
	if left == 0 and is_for_broker and (client._may_have_more or link:has_events()) then
		-- The broker may have answered in time: the program may have been busy with the packets before the answer. It is
		-- read after the last of these.
		client._may_have_more = link:has_events()
		return SECOND_LOOK
	end
	if left == 0 and is_for_broker and conn.arriving then
		link:arriving(conn:arriving())
	end
	link:handle_timeout()
	local ok, err = flush(client)
	return nil, not ok and err or nil
end

function bridge.look_soon(client)
	if client.connection then
		client._check_soon()
	end
end

-- Only the connector can tell when there is something to receive.
function bridge.wait(client, seconds)
	if not client.connection then
		native.wait(client, seconds)
	end
end

function bridge.iterate(client, longest, own)
	bridge.wait(client, longest)
	local conn = client.connection
	if conn and waits_for_store(client) then
		client._link:wait_for_store(SYNC_TIME)
	end
	if conn then
		-- For connectors that can wait: until keep alive is due, or the program's limit is reached.
		local deadline = client._link:deadline()
		conn.receive_timeout = client:_at_most(own and math_min(own, deadline or own) or deadline) or false
	end
	local wait, err = client:step()
	if conn then
		conn.receive_timeout = nil
	end
	if wait == -1 then
		client:_pause()
		err = select(2, client:check_keep_alive())
		if err then
			return nil, err
		end
	end
	return wait, err
end

function bridge.token() end

function bridge.getfd()
	return nil, "a client with a connector has no descriptor: wait for the connector's socket"
end

return bridge

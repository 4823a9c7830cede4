--- Moves bytes between a connector and the session.
-- Internal to `mqtt.client`. Connector calls may yield, so they are made from Lua, and nothing here holds on to state
-- across one that another thread could have changed.

local str_byte = string.byte
local tostring, type = tostring, type

local bridge = {}

--- Checks a connector class.
-- @tparam table connector the class
-- @return nil, or what is wrong with it
function bridge.check(connector)
	for _, method in ipairs({ "validate", "connect", "shutdown", "send", "receive" }) do
		if type(connector[method]) ~= "function" then
			return "expecting connector." .. method .. " to be a function"
		end
	end
	for _, signal in ipairs({ "signal_closed", "signal_idle" }) do
		if not connector[signal] then
			return "missing connector." .. signal .. " signal value"
		end
	end
end

--- Opens a connection.
-- @tparam Client client the client, which has none
-- @tparam table conn its new connection table
-- @return true, or false and an error message
function bridge.open(client, conn)
	local ok, err = conn:connect()
	if not ok then
		return false, tostring(err)
	end
	client._link:attach()
	client.connection = conn
	return true
end

--- Writes what the session has to send. While one thread is at it, what others add is written by that one.
-- @tparam Client client the client
-- @return true, or false and an error message
function bridge.flush(client)
	local conn, link = client.connection, client._link
	if client._sending == conn then
		return true
	end
	client._sending = conn
	local ok, err = true, nil
	while ok and client.connection == conn do
		local data = link:take()
		if not data then
			break
		end
		ok, err = conn:send(data)
	end
	if client._sending == conn then
		client._sending = nil
	end
	if ok then
		return true
	end
	return false, "connector.send failed: " .. tostring(err)
end

-- Reads one packet. Returns its fixed header and its body, or nil and an error or signal. After an idle signal the next
-- call starts with the same bytes again, if the connector keeps them (`buffer_clear` says when it need not).
local function receive_packet(conn)
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
	local body
	if length > 0 and #header <= 5 then
		body, err = conn:receive(length)
		if not body then
			return nil, err
		end
	end
	return header, body
end

--- One step of a client with a connector.
-- @tparam Client client the client
-- @tparam function connect what to do without a connection, returns what `step` returns
-- @tparam function handle_event what to do with an event of the link, returns what `step` returns
-- @return what `Client:step` returns
function bridge.step(client, connect, handle_event)
	local link, conn = client._link, client.connection
	if not conn then
		return connect(client)
	end
	local kind, a, b, c, d, e, f, g, h, i = client._pop()
	if not kind then
		local header, body = receive_packet(conn)
		if client.connection ~= conn then
			-- closed by another thread meanwhile
			return 0
		elseif not header and body == conn.signal_idle then
			return -1
		end
		conn:buffer_clear()
		if header then
			link:feed(header, body)
			kind, a, b, c, d, e, f, g, h, i = client._pop()
		elseif body == conn.signal_closed then
			kind = "closed"
		else
			kind, a = "broken", tostring(body)
		end
	end
	-- The answers to it, such as a PUBREL or the DISCONNECT after a broken rule.
	local ok, err = bridge.flush(client)
	if kind then
		return handle_event(client, kind, a, b, c, d, e, f, g, h, i)
	elseif ok then
		return 0
	end
	return handle_event(client, "broken", err)
end

--- Does what keep alive wants now.
-- @tparam Client client the client, connected
-- @tparam function handle_event as for `step`
-- @return nil, or an error message if the connection was given up
function bridge.check_keep_alive(client, handle_event)
	local link = client._link
	link:handle_timeout()
	local ok, err = bridge.flush(client)
	if not ok then
		return select(2, handle_event(client, "broken", err))
	elseif link:is_failed() then
		return select(2, handle_event(client, client._pop()))
	end
end

return bridge

--- Connector on the cosockets of OpenResty, under its name in luamqtt 3.x. New programs need no connector there.
-- A function table, see `mqtt.connector.v3`. As the `connector` option of a client it stands for
-- `mqtt.connector.nginx`. Outside of nginx it can be loaded, but not used.
--
-- A program's own connector that calls these functions works only in the timer or request that has connected, since a
-- cosocket belongs to its timer or request. Other timers and requests cannot use the client, and it is not shut down
-- when the worker exits. If the client shares an ioloop with others, nginx logs an error each time the loop looks for
-- received bytes, unless `lua_socket_log_errors` is off.
-- @module mqtt.ngxsocket

local sslhandshake = require("mqtt.connector.base.sslhandshake")
local verifies = require("mqtt.connector.base.verifies")

local globals, rawget = _G, rawget

-- The time limit that means "for ever" to a cosocket, and the time limit for connecting, in milliseconds.
local FOR_EVER = 0x7FFFFFFF
local CONNECT_TIMEOUT = 30000

local ngxsocket = {
	class = "mqtt.connector.nginx",
	returns_partial = true,
}

function ngxsocket.connect(conn)
	local sock = rawget(globals, "ngx").socket.tcp()
	sock:settimeout(CONNECT_TIMEOUT)
	local ok, err = sock:connect(conn.host, conn.port)
	if ok and conn.secure then
		local params = conn.secure_params or {}
		ok, err = sslhandshake(sock, params.server_name or conn.host, verifies(params))
	end
	if not ok then
		sock:close()
		return false, ("connection to '%s:%s' failed: %s"):format(conn.host, conn.port, err)
	end
	conn.sock = sock
	return true
end

function ngxsocket.shutdown(conn)
	conn.sock:close()
end

function ngxsocket.send(conn, data, i, j)
	i = i or 1
	local count, err = conn.sock:send(data:sub(i, j or -1))
	return count and i - 1 + count, err
end

function ngxsocket.receive(conn, size)
	return conn.sock:receive(size)
end

function ngxsocket.settimeout(conn, seconds)
	conn.sock:settimeout(seconds and seconds * 1000 or FOR_EVER)
end

return ngxsocket

--- Connector on LuaSocket, under its name in luamqtt 3.x. New programs use `mqtt.connector.luasocket`.
-- A function table, see `mqtt.connector.v3`. Its `connect` has no TLS; `mqtt.luasocket_ssl` has. As the `connector`
-- option of a client it stands for `mqtt.connector.luasocket`, with or without TLS.
-- @module mqtt.luasocket

local class = require("mqtt.connector.luasocket")

local luasocket = {
	class = "mqtt.connector.luasocket",
	returns_partial = true,
	connect = class.connect_tcp,
	shutdown = class.shutdown,
}

function luasocket.send(conn, data, i, j)
	return conn.sock:send(data, i, j)
end

function luasocket.receive(conn, size)
	return conn.sock:receive(size)
end

function luasocket.settimeout(conn, seconds)
	-- The limit holds for each wait, and for the call as a whole.
	conn.sock:settimeout(seconds)
	conn.sock:settimeout(seconds, "t")
end

return luasocket

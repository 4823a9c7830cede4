--- Connector on Copas, under its name in luamqtt 3.x. New programs use `mqtt.connector.copas`, or no connector.
-- A function table, see `mqtt.connector.v3`. Its functions wait by yielding to Copas, and have no TLS. As the
-- `connector` option of a client it stands for `mqtt.connector.copas`, with or without TLS.
-- @module mqtt.luasocket-copas

local copas = require("copas")

local class = require("mqtt.connector.copas")

local connector = {
	class = "mqtt.connector.copas",
	returns_partial = true,
	shutdown = class.shutdown,
}

function connector.connect(conn)
	local ok, err = class.connect_tcp(conn)
	if ok then
		conn.sock = copas.wrap(conn.sock)
	end
	return ok, err
end

function connector.send(conn, data, i, j)
	return conn.sock:send(data, i, j)
end

function connector.receive(conn, size)
	return conn.sock:receive(size)
end

--- Does nothing: a thread that waits holds up no other thread, however long it waits.
function connector.settimeout() end

return connector

--- Connector on LuaSocket and LuaSec, under its name in luamqtt 3.x. New programs use `mqtt.connector.luasocket`.
-- A function table, see `mqtt.connector.v3`. The server's certificate and name are verified unless the option `secure`
-- switches verification off.
-- @module mqtt.luasocket_ssl

local class = require("mqtt.connector.luasocket")
local luasocket = require("mqtt.luasocket")

local luasocket_ssl = {
	class = "mqtt.connector.luasocket",
	returns_partial = true,
	shutdown = luasocket.shutdown,
	send = luasocket.send,
	receive = luasocket.receive,
	settimeout = luasocket.settimeout,
}

function luasocket_ssl.connect(conn)
	class.validate(conn)
	local ok, err = luasocket.connect(conn)
	if ok then
		ok, err = class.start_tls(conn)
	end
	return ok, err
end

return luasocket_ssl

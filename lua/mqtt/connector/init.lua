--- The connector that clients use unless told otherwise: the native connection.
-- The `connector` option of `Client:__init` takes a class table that opens, reads and writes the network connection in
-- Lua: `mqtt.connector.luasocket`, `mqtt.connector.copas`, or a subclass of theirs. With this table, or without the
-- option, the connection lives in Rust and none of these methods is called.
-- @module mqtt.connector

local native = {
	--- What kind of connector this is.
	type = "native",
	--- Returned by `receive` when nothing has arrived.
	signal_idle = {},
	--- Returned by `receive` when the peer has closed the connection.
	signal_closed = {},
}
native.__index = native

for _, method in ipairs({ "validate", "connect", "shutdown", "send", "receive", "buffer_clear" }) do
	native[method] = function()
		error("the native connection has no '" .. method .. "': derive your connector from mqtt.connector.luasocket or"
			.. " mqtt.connector.copas", 2)
	end
end

return native

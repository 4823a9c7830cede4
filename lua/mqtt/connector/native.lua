--- The native connection, as a value of the `connector` option of `Client:__init`.
-- With it the connection lives in Rust and none of these methods is called. That is the default except inside nginx,
-- where a client with this connector has to be polled; see `mqtt.connector`.
-- @module mqtt.connector.native

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

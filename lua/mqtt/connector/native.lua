--- The native connection, as a value of the `connector` option of `Client:__init`.
-- The connection lives in Rust then, and the library calls none of these methods. The native connection is the default,
-- except inside nginx, where a client with this connector has to be polled; see `mqtt.connector`.
--
-- Programs for luamqtt 3.x call functions of a connector themselves. Of these functions `settimeout` works. The others
-- raise an error that names the replacement.
-- @module mqtt.connector.native

local host = require("mqtt.host")
local super = require("mqtt.connector.base.non_buffered_base")

local each, error = pairs, error

local native = {
	--- The kind of connector.
	type = "native",
	-- The library recognises the native connector by this field, since this file may be loaded more than once.
	is_native = true,
	--- Returned by `receive` when nothing has arrived.
	signal_idle = {},
	--- Returned by `receive` when the peer has closed the connection.
	signal_closed = {},
	--- Limits how long a waiting step waits.
	-- @function settimeout
	-- @tparam table conn the connection: `client.connection`
	-- @tparam[opt] number seconds the limit; nil removes it
	settimeout = super.settimeout,
}
native.__index = native

if host.openresty() then
	--- Has a function called where `mqtt.loop.nginx` serves the client, if the caller runs elsewhere: handlers of the
	-- close event run there too.
	-- @tparam function func the function
	-- @tparam Client client the client
	-- @param ... its further arguments
	-- @treturn boolean whether it will be called
	function native:hand_over(func, client, ...) -- luacheck: no unused args
		return host.hand_over(func, client, ...)
	end
end

-- The methods that a connector needs, and what a program may call instead.
local INSTEAD = {
	connect = "call client:start_connecting()",
	shutdown = "call client:close_connection()",
	send = "call the methods of the client, such as client:publish{...}",
	receive = "call client:step(), or add the client to a loop",
	validate = "create the client",
	buffer_clear = "call client:step(), or add the client to a loop",
}

for method, instead in each(INSTEAD) do
	native[method] = function()
		error("the native connection has no '" .. method .. "': " .. instead .. "; or derive your connector from"
			.. " mqtt.connector.luasocket or mqtt.connector.copas", 2)
	end
end

return native

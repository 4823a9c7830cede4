--- Base class of connectors whose sockets yield, and the interface of every connector.
-- A connector is a class table, which becomes the metatable of the connection table (`client.connection`). The
-- connection table has the fields `host`, `port`, `secure`, `secure_params` and `ssl_module`.
--
-- Methods may yield. Two threads never send at the same time, and never receive at the same time, but a thread may send
-- while another receives.
-- @module mqtt.connector.base.non_buffered_base
-- @usage
-- local super = require("mqtt.connector.base.non_buffered_base")
-- local mine = setmetatable({ super = super, type = "my sockets" }, super)
-- mine.__index = mine

local error, tostring, type = error, tostring, type

local non_buffered = {
	--- The kind of connector, in words.
	type = "non-buffered, yielding i/o",
	--- How long connecting or sending may make no progress before it fails, in seconds. While the client connects, the
	-- option `connect_timeout` replaces it.
	timeout = 30,
	--- Returned by `receive` in place of an error: nothing has arrived.
	signal_idle = {},
	--- Returned by `receive` in place of an error: the peer has closed the connection.
	signal_closed = {},
}
non_buffered.__index = non_buffered

-- Defines a method that a derived class has to replace.
local function missing(name)
	non_buffered[name] = function()
		error("method '" .. name .. "' of the connector is not implemented", 2)
	end
end

--- Checks the connection's settings, when a client is created and before it connects. Raises an error if they are not
-- usable.
function non_buffered:validate() -- luacheck: no unused args
end

--- Opens the network connection to `self.host` and `self.port`.
-- @function connect
-- @return `true`, or `false` and an error message
missing("connect")

--- Closes the network connection.
-- @function shutdown
missing("shutdown")

--- Sends all of the data.
-- @function send
-- @tparam string data the bytes
-- @return `true`, or `false` and an error message
missing("send")

--- Receives bytes: waits, by yielding, until all have arrived.
-- After `signal_idle` the client starts again at the packet's first byte. So a class may return `signal_idle` only
-- before the packet's first byte has arrived, unless it keeps the bytes until `buffer_clear`, as
-- `mqtt.connector.base.buffered_base` does.
-- @function receive
-- @tparam number size the number of bytes, at least 1
-- @return exactly `size` bytes; or `nil` and `signal_idle`, `signal_closed` or an error message
missing("receive")

--- Called when the packet of the received bytes has been handled.
function non_buffered:buffer_clear() -- luacheck: no unused args
end

--- Limits how long `Client:_sync_iteration` waits for bytes, for programs for luamqtt 3.x:
-- `client.args.connector.settimeout(client.connection, 0.05)`. The client itself never calls this method.
-- @tparam[opt] number seconds the limit; nil restores the default
function non_buffered:settimeout(seconds)
	if type(self) ~= "table" then
		error("expecting a connection, got: " .. type(self), 2)
	elseif seconds ~= nil and not (type(seconds) == "number" and seconds >= 0) then
		error("expecting a number of seconds from 0, or nil, got: " .. tostring(seconds), 2)
	end
	self.longest_wait = seconds
end

--- A connector should have this method if it knows how many bytes of an incomplete packet have arrived. The client then
-- goes on waiting for a PINGRESP that comes behind a large packet.
-- @function arriving
-- @treturn number bytes

--- A connector that can return all the bytes that have arrived should have this method: then a message costs no call of
-- the connector of its own. The class also has the field `receive_in_full`, which is its `receive`: for a
-- derived class with another `receive`, the client calls `receive` instead.
-- @function receive_some
-- @tparam number most the greatest number of bytes
-- @return at least one byte; or `nil` and `signal_idle` if there is none, `signal_closed`, or an error message

--- A connector whose connections are sockets should have this method. The library then ends each connection in order,
-- when it is closed or the program ends: sent data reaches the broker, even if received data is still unread. The
-- library holds a duplicate of the descriptor, so `shutdown` may close the socket in any way.
-- @function getfd
-- @treturn number the descriptor of the open connection; or nil: the connection ends as `shutdown` ends it

--- A connector should have this method if its `send` does nothing but write to the descriptor that `getfd` returns.
-- Then the library writes to the descriptor too, and calls `send` only if the descriptor takes no more, or fails. The
-- method is called once, when the connection is open. For a derived class with another `send`, or another socket, it
-- has to return false. On Windows a true value makes the socket one that does not wait, as those of LuaSocket are.
-- @function sends_plainly
-- @treturn boolean

--- A connector may have this method if it ends its connections in order by itself, after `shutdown` has returned. The
-- client's next connection waits until this method returns false, for half a second at most.
-- @function is_parting
-- @treturn boolean whether the broker may still be reading sent data

--- A connector may have this method if its connections belong to contexts, such as the requests of OpenResty. The
-- method has a function called in the connection's context, if the caller runs in another context.
-- @function hand_over
-- @tparam function func the function; its results are lost
-- @param ... its arguments
-- @treturn boolean whether the function will be called; if not, the caller goes on by itself

return non_buffered

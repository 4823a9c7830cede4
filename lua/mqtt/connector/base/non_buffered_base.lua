--- Base class of connectors whose sockets yield, and what every connector has.
-- A connector is a class table, which becomes the metatable of the connection table (`client.connection`). Its methods
-- find there the fields `host`, `port`, `secure`, `secure_params` and `ssl_module`.
--
-- Methods may yield. No two threads send at the same time, and no two receive, but one may send while another receives.
-- @module mqtt.connector.base.non_buffered_base
-- @usage
-- local super = require("mqtt.connector.base.non_buffered_base")
-- local mine = setmetatable({ super = super, type = "my sockets" }, super)
-- mine.__index = mine

local error, tostring, type = error, tostring, type

local non_buffered = {
	--- What kind of connector this is, in words.
	type = "non-buffered, yielding i/o",
	--- How long connecting or sending may get nowhere before it fails, in seconds. While the client connects, the option
	-- `connect_timeout` takes its place.
	timeout = 30,
	--- Returned by `receive` in place of an error: nothing has arrived.
	signal_idle = {},
	--- Returned by `receive` in place of an error: the peer has closed the connection.
	signal_closed = {},
}
non_buffered.__index = non_buffered

-- A method that a derived class has to bring along.
local function missing(name)
	non_buffered[name] = function()
		error("method '" .. name .. "' of the connector is not implemented", 2)
	end
end

--- Checks the connection's settings, when a client is created and before it connects. Raises if they are of no use.
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

--- Receives bytes: waits, by yielding, until all are there.
-- After `signal_idle` the client starts again at the packet's first byte. So that may be returned only while there is
-- none of it, unless the class keeps the bytes until `buffer_clear`, as `mqtt.connector.base.buffered_base` does.
-- @function receive
-- @tparam number size how many, at least 1
-- @return exactly that many bytes; or `nil` and `signal_idle`, `signal_closed` or an error message
missing("receive")

--- Called when the packet to which the received bytes belong has been dealt with.
function non_buffered:buffer_clear() -- luacheck: no unused args
end

--- Limits how long `Client:_sync_iteration` waits for something to receive, as programs for luamqtt 3.x do:
-- `client.args.connector.settimeout(client.connection, 0.05)`. Nothing that a client does calls this.
-- @tparam[opt] number seconds how long; nil is what it is without this
function non_buffered:settimeout(seconds)
	if type(self) ~= "table" then
		error("expecting a connection, got: " .. type(self), 2)
	elseif seconds ~= nil and not (type(seconds) == "number" and seconds >= 0) then
		error("expecting a number of seconds from 0, or nil, got: " .. tostring(seconds), 2)
	end
	self.longest_wait = seconds
end

--- A connector that can tell how much has arrived of the packet that is being received should have this method. A
-- broker whose large packet is still arriving is then not given up for the PINGRESP that comes behind it.
-- @function arriving
-- @treturn number bytes

--- A connector whose connections are sockets should have this method. When a connection is closed, or the program ends,
-- the library then ends it in order: what was sent reaches the broker, also where the broker has sent something that
-- was not received. The library holds a descriptor of its own for that, so `shutdown` may close the socket as it likes.
-- @function getfd
-- @treturn number the descriptor of the open connection; or nil: the connection ends as `shutdown` ends it

--- A connector that ends its connections in order by itself, after `shutdown` has returned, may have this method. The
-- client's next connection waits for it, for half a second at most.
-- @function is_parting
-- @treturn boolean whether the broker may still be reading what was sent

--- A connector whose connections belong to one of several contexts, such as the requests of OpenResty, may have this
-- method: it has a function called in the connection's context if the caller runs in another one.
-- @function hand_over
-- @tparam function func the function; its results are lost
-- @param ... its arguments
-- @treturn boolean whether it will be called; if not, the caller goes on by itself

return non_buffered

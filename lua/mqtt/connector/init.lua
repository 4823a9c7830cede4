--- The connector that clients use unless told otherwise: `mqtt.connector.nginx` inside nginx, elsewhere
-- `mqtt.connector.native`.
-- The `connector` option of `Client:__init` takes a class table that opens, reads and writes the network connection in
-- Lua: `mqtt.connector.luasocket`, `mqtt.connector.copas`, `mqtt.connector.nginx`, or a subclass of theirs.
-- @module mqtt.connector

local ngx = require("mqtt.host").openresty()
local has_cosockets = ngx and type(ngx.socket) == "table" and ngx.socket.tcp ~= nil

return require(has_cosockets and "mqtt.connector.nginx" or "mqtt.connector.native")

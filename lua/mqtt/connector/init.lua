--- The default connector: `mqtt.connector.nginx` inside nginx, elsewhere `mqtt.connector.native`.
-- The `connector` option of `Client:__init` takes a class table that opens, reads and writes the network connection in
-- Lua: `mqtt.connector.luasocket`, `mqtt.connector.copas`, `mqtt.connector.nginx`, or a class derived from these.
-- @module mqtt.connector

return require(require("mqtt.host").has_cosockets() and "mqtt.connector.nginx" or "mqtt.connector.native")

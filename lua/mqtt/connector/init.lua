--- The connector that clients use unless told otherwise: `mqtt.connector.native`.
-- The `connector` option of `Client:__init` takes a class table that opens, reads and writes the network connection in
-- Lua: `mqtt.connector.luasocket`, `mqtt.connector.copas`, `mqtt.connector.nginx`, or a class derived from these.
-- @module mqtt.connector

return require("mqtt.connector.native")

-- The packets of MQTT 5.0, by `for_version` of mqtt.protocol.

--- Packets of MQTT 5.0.
-- @module mqtt.protocol5
local packet = require("mqtt.packet")
local protocol5 = require("mqtt.protocol").for_version(require("mqtt.const").v50)

--- Makes a packet. Raises an error if a field is missing or wrong.
-- @function make_packet
-- @tparam table args fields of the packet, including `type`
-- @treturn table the packet: `tostring` gives its bytes, `:len()` their number
-- @usage local bytes = tostring(protocol5.make_packet{ type = protocol.packet_type.PUBACK, packet_id = 1, rc = 0 })

--- Reads a packet.
-- @function parse_packet
-- @tparam function read_func source of bytes, see `mqtt.protocol`
-- @treturn[1] table packet
-- @treturn[2] boolean false
-- @return[2] error

--- Names of the reason codes of SUBACK, by code (3.9.3).
protocol5.suback_rc = packet.suback5_rc
--- Metatable of SUBACK packets, with `reason_strings()`.
protocol5.suback_packet_mt = packet.suback5_mt
--- Names of the reason codes of UNSUBACK, by code (3.11.3).
protocol5.unsuback_rc = packet.unsuback5_rc
--- Metatable of UNSUBACK packets, with `reason_strings()`.
protocol5.unsuback_packet_mt = packet.unsuback5_mt
--- Names of the reason codes of DISCONNECT, by code (3.14.2.1).
protocol5.disconnect_rc = packet.disconnect5_rc
--- Metatable of DISCONNECT packets, with `reason_string()`.
protocol5.disconnect_packet_mt = packet.disconnect5_mt

return protocol5

-- The packets of MQTT 3.1.1, by `for_version` of mqtt.protocol.

--- Packets of MQTT 3.1.1.
-- @module mqtt.protocol4
local packet = require("mqtt.packet")
local protocol4 = require("mqtt.protocol").for_version(require("mqtt.const").v311)

--- Makes a packet. Raises an error if a field is missing or wrong.
-- @function make_packet
-- @tparam table args fields of the packet, including `type`
-- @treturn table the packet: `tostring` gives its bytes, `:len()` their number
-- @usage local bytes = tostring(protocol4.make_packet{ type = protocol.packet_type.PUBACK, packet_id = 1 })

--- Reads a packet.
-- @function parse_packet
-- @tparam function read_func source of bytes, see `mqtt.protocol`
-- @treturn[1] table packet
-- @treturn[2] boolean false
-- @return[2] error

--- Names of the return codes of SUBACK, by code (3.9.3).
protocol4.suback_rc = packet.suback4_rc
--- Metatable of SUBACK packets, with `reason_strings()`.
protocol4.suback_packet_mt = packet.suback4_mt

return protocol4

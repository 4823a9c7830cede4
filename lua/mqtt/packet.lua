-- Packets as the tables that programs get: their fields, their metatables, their text. This file knows no bytes.

--- Received packets.
-- @module mqtt.packet
local packet = {}

local each, ipairs, setmetatable, tostring, type = pairs, ipairs, setmetatable, tostring, type
local format = string.format
local concat = table.concat

local const = require("mqtt.const")
local codec = require("mqtt.core").codec
local sortedpairs = require("mqtt.tools").sortedpairs

local v311, v50 = const.v311, const.v50

--- Packet types by name, and their names by number (2.1.2).
packet.types = {
	"CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "SUBACK", "UNSUBSCRIBE",
	"UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH",
}
local types = packet.types
for number, name in ipairs(types) do
	types[name] = number
end

-- Fields that are not shown.
local secrets = { password = true, authentication_data = true }

-- A value as in Lua source, keys of tables sorted.
local function value_tostring(value)
	if type(value) == "string" then
		return format("%q", value)
	elseif type(value) ~= "table" then
		return tostring(value)
	end
	local items = {}
	for key, item in sortedpairs(value) do
		local text = secrets[key] and "(hidden)" or value_tostring(item)
		if type(key) == "string" then
			text = format(key:find("^[%a_][%w_]*$") and "%s=%s" or "[%q]=%s", key, text)
		end
		items[#items + 1] = text
	end
	return "{" .. concat(items, ", ") .. "}"
end

--- A packet for people to read: `NAME{key=value, ...}`, keys sorted. `password` and `authentication_data` are hidden.
-- @tparam table self packet
-- @treturn string text
function packet.tostring(self)
	return tostring(types[self.type]) .. value_tostring(self)
end

-- Metatables ---------------------------------------------------------------------------------------------------------

--- Metatable of packets without methods.
packet.mt = { __tostring = packet.tostring }
local mt = packet.mt

local function reason(names, code)
	return names[code] or "Unknown: " .. tostring(code)
end

-- A metatable with a method that names the reason code of the packet.
local function reason_mt(names)
	local self_mt = { __tostring = packet.tostring }
	self_mt.__index = self_mt
	function self_mt.reason_string(self)
		return reason(names, self.rc)
	end
	return self_mt
end

-- A metatable with methods that name the reason codes of the packet, as a list and as one string.
local function reasons_mt(names)
	local self_mt = { __tostring = packet.tostring }
	self_mt.__index = self_mt
	function self_mt.reason_strings(self)
		local strings = {}
		for i, code in ipairs(self.rc) do
			strings[i] = reason(names, code)
		end
		return strings
	end
	-- Handlers of `error` get a CONNACK, a DISCONNECT or a SUBACK, and call this method of any of them.
	function self_mt.reason_string(self)
		return concat(self:reason_strings(), ", ")
	end
	return self_mt
end

--- Names of CONNACK codes: the return codes of 3.1.1 (3.2.2.3) and the reason codes of 5.0 (3.2.2.2).
packet.connack_rc = codec[v50].reason_names(types.CONNACK)
for code, name in each(codec[v311].reason_names(types.CONNACK)) do
	packet.connack_rc[code] = name
end

--- Names of the return codes of a 3.1.1 SUBACK (3.9.3).
packet.suback4_rc = codec[v311].reason_names(types.SUBACK)
--- Names of the reason codes of a 5.0 SUBACK (3.9.3).
packet.suback5_rc = codec[v50].reason_names(types.SUBACK)
--- Names of the reason codes of a 5.0 UNSUBACK (3.11.3).
packet.unsuback5_rc = codec[v50].reason_names(types.UNSUBACK)
--- Names of the reason codes of a 5.0 DISCONNECT (3.14.2.1).
packet.disconnect5_rc = codec[v50].reason_names(types.DISCONNECT)

--- Metatable of CONNACK packets, with `reason_string()`.
packet.connack_mt = reason_mt(packet.connack_rc)
--- Metatable of 3.1.1 SUBACK packets, with `reason_strings()`.
packet.suback4_mt = reasons_mt(packet.suback4_rc)
--- Metatable of 5.0 SUBACK packets, with `reason_strings()`.
packet.suback5_mt = reasons_mt(packet.suback5_rc)
--- Metatable of 5.0 UNSUBACK packets, with `reason_strings()`.
packet.unsuback5_mt = reasons_mt(packet.unsuback5_rc)
--- Metatable of 5.0 DISCONNECT packets, with `reason_string()`.
packet.disconnect5_mt = reason_mt(packet.disconnect5_rc)

-- Shapes -------------------------------------------------------------------------------------------------------------

-- Functions that build a packet from the values of mqtt.core, by protocol version and packet type.
-- mqtt.core leaves out empty tables of properties; 5.0 packets always have these tables.
local shapes = { [v311] = {}, [v50] = {} }
local v4, v5 = shapes[v311], shapes[v50]

v4[types.CONNECT] = function(ptype, version, clean, keep_alive, id, username, password, will)
	return setmetatable({
		type = ptype, version = version, clean = clean, keep_alive = keep_alive, id = id,
		username = username, password = password, will = will,
	}, mt)
end

v5[types.CONNECT] = function(ptype, version, clean, keep_alive, id, username, password, will, props, user_props)
	return setmetatable({
		type = ptype, version = version, clean = clean, keep_alive = keep_alive, id = id,
		username = username, password = password, will = will,
		properties = props or {}, user_properties = user_props or {},
	}, mt)
end

v4[types.CONNACK] = function(ptype, sp, rc)
	return setmetatable({ type = ptype, sp = sp, rc = rc }, packet.connack_mt)
end

v5[types.CONNACK] = function(ptype, sp, rc, props, user_props)
	return setmetatable({
		type = ptype, sp = sp, rc = rc, properties = props or {}, user_properties = user_props or {},
	}, packet.connack_mt)
end

v4[types.PUBLISH] = function(ptype, dup, qos, retain, topic, packet_id, payload)
	return setmetatable({
		type = ptype, dup = dup, qos = qos, retain = retain, topic = topic, packet_id = packet_id, payload = payload,
	}, mt)
end

v5[types.PUBLISH] = function(ptype, dup, qos, retain, topic, packet_id, payload, props, user_props)
	return setmetatable({
		type = ptype, dup = dup, qos = qos, retain = retain, topic = topic, packet_id = packet_id, payload = payload,
		properties = props or {}, user_properties = user_props or {},
	}, mt)
end

local function ack4(ptype, packet_id)
	return setmetatable({ type = ptype, packet_id = packet_id }, mt)
end

local function ack5(ptype, packet_id, rc, props, user_props)
	return setmetatable({
		type = ptype, packet_id = packet_id, rc = rc, properties = props or {}, user_properties = user_props or {},
	}, mt)
end

for _, name in ipairs({ "PUBACK", "PUBREC", "PUBREL", "PUBCOMP" }) do
	v4[types[name]], v5[types[name]] = ack4, ack5
end
v4[types.UNSUBACK] = ack4

local function subscriptions4(ptype, packet_id, subscriptions)
	return setmetatable({ type = ptype, packet_id = packet_id, subscriptions = subscriptions }, mt)
end

local function subscriptions5(ptype, packet_id, subscriptions, props, user_props)
	return setmetatable({
		type = ptype, packet_id = packet_id, subscriptions = subscriptions,
		properties = props or {}, user_properties = user_props or {},
	}, mt)
end

for _, name in ipairs({ "SUBSCRIBE", "UNSUBSCRIBE" }) do
	v4[types[name]], v5[types[name]] = subscriptions4, subscriptions5
end

v4[types.SUBACK] = function(ptype, packet_id, rc)
	return setmetatable({ type = ptype, packet_id = packet_id, rc = rc }, packet.suback4_mt)
end

v5[types.SUBACK] = function(...)
	return setmetatable(ack5(...), packet.suback5_mt)
end

v5[types.UNSUBACK] = function(...)
	return setmetatable(ack5(...), packet.unsuback5_mt)
end

local function empty4(ptype)
	return setmetatable({ type = ptype }, mt)
end

local function empty5(ptype)
	return setmetatable({ type = ptype, properties = {}, user_properties = {} }, mt)
end

for _, name in ipairs({ "PINGREQ", "PINGRESP" }) do
	v4[types[name]], v5[types[name]] = empty4, empty5
end
v4[types.DISCONNECT] = empty4

v5[types.AUTH] = function(ptype, rc, props, user_props)
	return setmetatable({
		type = ptype, rc = rc, properties = props or {}, user_properties = user_props or {},
	}, mt)
end

v5[types.DISCONNECT] = function(...)
	return setmetatable(v5[types.AUTH](...), packet.disconnect5_mt)
end

-- A function of its own for the metatables of received messages: `is_session_mt` recognises them by it.
local function session_tostring(self)
	return packet.tostring(self)
end

--- Returns a new metatable for received messages. Each session of the server has a metatable of its own, so a message's
-- metatable identifies its session. It prints packets as the other metatables do.
function packet.new_session_mt()
	return { __tostring = session_tostring }
end

--- Whether a metatable comes from `new_session_mt`.
function packet.is_session_mt(metatable)
	return type(metatable) == "table" and metatable.__tostring == session_tostring
end

--- The functions that build a PUBLISH as `shape` does, by protocol version.
packet.shape_publish = { [v311] = v4[types.PUBLISH], [v50] = v5[types.PUBLISH] }

--- The functions that build a PUBACK or PUBREC as `shape` does, by protocol version.
packet.shape_ack = { [v311] = ack4, [v50] = ack5 }

--- Builds a packet from the values of mqtt.core.
-- @tparam number version protocol version
-- @tparam ?number ptype packet type, or nil if there is no packet
-- @param ... fields in the order of the packet type's shape; or an error if there is no packet
-- @treturn[1] table packet
-- @treturn[2] boolean false
-- @return[2] the error
function packet.shape(version, ptype, ...)
	if not ptype then
		return false, (...)
	end
	return shapes[version][ptype](ptype, ...)
end

return packet

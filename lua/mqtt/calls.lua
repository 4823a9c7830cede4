--- Calls of the core: the tables as it reads them, and the fastest `publish` and `acknowledge` for this Lua.
-- Internal.

local core = require("mqtt.core")

local math_floor = math.floor
local each, getmetatable, ipairs, type = pairs, getmetatable, ipairs, type

local calls = {}

-- The fields of packets, wills and subscriptions.
local FIELDS = {
	"type", "version", "clean", "keep_alive", "id", "username", "password", "will", "sp", "rc", "packet_id", "dup", "qos",
	"retain", "topic", "payload", "subscriptions", "no_local", "retain_as_published", "retain_handling", "properties",
	"user_properties",
}

local function plain_fields(fields)
	if type(fields) ~= "table" or getmetatable(fields) == nil then
		return fields
	end
	local copy = {}
	for _, key in ipairs(FIELDS) do
		copy[key] = fields[key]
	end
	return copy
end

--- Returns a packet, a will or a subscription as the core reads it. The core runs no Lua and so ignores metatables. A
-- table with a metatable is copied, with the fields that `__index` gives; lists and properties are read without
-- metatables.
-- @param fields the table, or any other value
-- @return a table with the same fields; the table itself if nothing had to be copied
function calls.plain(fields)
	local copy = plain_fields(fields)
	if type(copy) ~= "table" or copy.will == nil and copy.subscriptions == nil then
		return copy
	end
	local whole = {}
	for _, key in ipairs(FIELDS) do
		whole[key] = copy[key]
	end
	whole.will = plain_fields(whole.will)
	if type(whole.subscriptions) == "table" then
		whole.subscriptions = {}
		for i, subscription in ipairs(copy.subscriptions) do
			whole.subscriptions[i] = plain_fields(subscription)
		end
	end
	return whole
end

--- Acknowledges a message of QoS 1 or 2 without properties, on a connection.
-- @function calls.acknowledge
-- @param handle the link's handle
-- @param message what the program gave
-- @tparam table session_mt the metatable of messages that belong to the present session
-- @treturn ?number the time as of `os.time`; nil if nothing has been done
calls.acknowledge = core.acknowledge_message

if core.builds_messages then
	--- Publishes a message that has no properties, on a connection.
	-- @function calls.publish
	-- @param handle the link's handle
	-- @tparam table opts the options of `Client:publish`
	-- @tparam table ignored names of further fields that `opts` may have: true for each
	-- @treturn[1] number the packet identifier, 0 for QoS 0
	-- @treturn[1] number the time as of `os.time`
	-- @treturn[1] boolean whether the program should wait before it sends more
	-- @return[1] a list of the messages that were dropped for it, see `mqtt.client.dropped`, or nil
	-- @return[1] `opts.callback`
	-- @return[2] nil: nothing has been done. The message needs the general way, which does more and returns errors; so
	-- does a table with a field that is not known
	calls.publish = core.publish_table
	return calls
end

-- LuaJIT compiles calls through its FFI. Some builds of LuaJIT have no FFI.
local has_ffi, ffi = pcall(require, "ffi")
if not has_ffi then
	return calls
end

local address, publish_number = core.publish_address, core.publish_number
if not address then
	return calls
end
local acknowledge_plain = ffi.cast([[double (*)(uint32_t link, uint32_t packet_id, uint32_t qos)]],
	ffi.cast("uintptr_t", core.acknowledge_address))
-- No other code may have the addresses. If this file is loaded again, that copy calls the functions of the core.
core.publish_address, core.acknowledge_address = nil, nil
local publish_plain = ffi.cast(
	"double (*)(uint32_t link, const char *topic, uint32_t, const char *payload, uint32_t, uint32_t flags)",
	ffi.cast("uintptr_t", address))
local LARGE_PAYLOAD = core.large_payload

-- The numbers of links, by handle. The FFI does not check pointers; a wrong number does no harm.
local numbers = setmetatable({}, {
	__mode = "k",
	__index = function(self, handle)
		local number = publish_number(handle)
		if number then
			self[handle] = number
		end
		return number
	end,
})

local FAST_FIELDS = { topic = true, payload = true, qos = true, retain = true, dup = true, callback = true }

-- How many more messages to look through for misspelt fields, if they have a payload. To look through all costs 1,100
-- instructions a message, more than anything else here: LuaJIT then has to make the table that it could leave out.
local unsure = 1000

local function is_plain(opts, ignored)
	for name in each(opts) do
		if not (FAST_FIELDS[name] or ignored[name]) then
			return false
		end
	end
	return true
end

function calls.publish(handle, opts, ignored)
	if type(opts) ~= "table" or getmetatable(opts) ~= nil or opts.packet_id ~= nil or opts.properties ~= nil
		or opts.user_properties ~= nil or opts.expire ~= nil then
		return nil
	end
	if unsure > 0 or opts.payload == nil then
		unsure = unsure - 1
		if not is_plain(opts, ignored) then
			return nil
		end
	end
	local number = numbers[handle]
	if not number then
		return nil
	end
	local topic, payload, qos = opts.topic, opts.payload, opts.qos
	local retain, dup, callback = opts.retain or false, opts.dup or false, opts.callback
	if payload == nil then
		payload = ""
	end
	if qos == nil then
		qos = 0
	end
	if type(topic) ~= "string" or type(payload) ~= "string" or #payload >= LARGE_PAYLOAD
		or qos ~= 0 and qos ~= 1 and qos ~= 2 or type(retain) ~= "boolean" or type(dup) ~= "boolean"
		or callback ~= nil and type(callback) ~= "function" then
		return nil
	end
	local flags = (dup and 8 or 0) + qos * 2 + (retain and 1 or 0)
	local result = publish_plain(number, topic, #topic, payload, #payload, flags)
	if result < 0 then
		return nil
	end
	local time = math_floor(result / 131072)
	local packet_id = result - time * 131072
	local full = packet_id >= 65536
	return full and packet_id - 65536 or packet_id, time, full, nil, callback
end

function calls.acknowledge(handle, message, session_mt)
	if type(message) ~= "table" or getmetatable(message) ~= session_mt then
		return nil
	end
	local number, packet_id, qos = numbers[handle], message.packet_id, message.qos
	if not number or qos ~= 1 and qos ~= 2 or type(packet_id) ~= "number" or packet_id ~= math_floor(packet_id)
		or packet_id < 1 or packet_id > 65535 then
		return nil
	end
	local time = acknowledge_plain(number, packet_id, qos)
	return time >= 0 and time or nil
end

return calls

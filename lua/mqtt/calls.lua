--- Calls of the core that run once for each message, as fast as this Lua makes them.
-- Internal.

local core = require("mqtt.core")

local math_floor = math.floor
local type = type

local calls = {}

if core.builds_messages then
	--- Publishes a message that has no properties, on a connection.
	-- @function calls.publish
	-- @param handle what stands for the link
	-- @tparam table opts as `Client:publish` takes them
	-- @treturn[1] number the packet identifier, 0 for QoS 0
	-- @treturn[1] number the time as of `os.time`
	-- @treturn[1] boolean whether the program should wait before it sends more
	-- @return[1] a list of the packet identifiers of messages that had to make room for it, or nil
	-- @return[1] `opts.callback`
	-- @return[2] nil: nothing has been done, since something else is to be done, or is wrong
	calls.publish = core.publish_table
	return calls
end

-- LuaJIT compiles what goes through its FFI, as long as that has not been left out.
local has_ffi, ffi = pcall(require, "ffi")
if not has_ffi then
	return calls
end

local publish_plain = ffi.cast(
	"double (*)(const void *handle, const char *topic, uint32_t, const char *payload, uint32_t, uint32_t flags)",
	ffi.cast("uintptr_t", core.publish_address))
local LARGE_PAYLOAD = core.large_payload

function calls.publish(handle, opts)
	if type(opts) ~= "table" or opts.packet_id ~= nil or opts.properties ~= nil or opts.user_properties ~= nil then
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
	local result = publish_plain(handle, topic, #topic, payload, #payload, flags)
	if result < 0 then
		return nil
	end
	local time = math_floor(result / 131072)
	local packet_id = result - time * 131072
	local full = packet_id >= 65536
	return full and packet_id - 65536 or packet_id, time, full, nil, callback
end

return calls

--- Checks the arguments of a client's methods.
-- Internal. Each function returns an error message, which the method raises in the name of its caller, or nil. Checks
-- come in the order of the documentation.

local codec = require("mqtt.core").codec
local types = require("mqtt.packet").types

local math_huge = math.huge
local tostring, type = tostring, type
local str_format = string.format

local arguments = {}

-- One field of a table of options, which may be missing.
local function field(opts, name, expected)
	local value = opts[name]
	if value ~= nil and type(value) ~= expected then
		local hint = expected == "string" and type(value) == "number" and ", got a number: use tostring" or ""
		return str_format("expecting opts.%s to be a %s%s", name, expected, hint)
	end
end

-- The table of options of a request with a topic.
local function topic(opts)
	if type(opts) ~= "table" then
		return "expecting opts to be a table"
	elseif type(opts.topic) ~= "string" then
		return "expecting opts.topic to be a string"
	end
end

-- The fields that all requests have.
local function common(opts)
	return field(opts, "properties", "table")
		or field(opts, "user_properties", "table")
		or field(opts, "callback", "function")
end

--- The argument of `Client:publish`.
function arguments.publish(opts)
	local problem = topic(opts) or field(opts, "payload", "string") or field(opts, "qos", "number")
	if problem then
		return problem
	end
	local qos = opts.qos
	if qos ~= nil and not (qos == 0 or qos == 1 or qos == 2) then
		return "expecting qos to be a valid QoS value"
	end
	return field(opts, "retain", "boolean") or field(opts, "dup", "boolean") or common(opts)
end

--- The argument of `Client:subscribe`.
function arguments.subscribe(opts)
	local problem = topic(opts) or common(opts)
	if problem then
		return problem
	end
	local qos, retain_handling = opts.qos, opts.retain_handling
	if qos ~= nil and not (qos == 0 or qos == 1 or qos == 2) then
		return "expecting valid opts.qos value"
	elseif not (retain_handling == nil or type(retain_handling) == "boolean"
		or retain_handling == 0 or retain_handling == 1 or retain_handling == 2) then
		return "expecting opts.retain_handling to be 0, 1, 2 or a boolean"
	end
	return field(opts, "no_local", "boolean") or field(opts, "retain_as_published", "boolean")
end

--- The argument of `Client:unsubscribe`.
function arguments.unsubscribe(opts)
	return topic(opts) or common(opts)
end

--- A reason code and properties.
function arguments.reason(rc, properties, user_properties)
	if rc ~= nil and type(rc) ~= "number" then
		return "expecting rc to be a number"
	elseif properties ~= nil and type(properties) ~= "table" then
		return "expecting properties to be a table"
	elseif user_properties ~= nil and type(user_properties) ~= "table" then
		return "expecting user_properties to be a table"
	end
end

--- The field `timeout` of methods that wait.
function arguments.timeout(timeout)
	if timeout ~= nil and not (type(timeout) == "number" and timeout > 0 and timeout < math_huge) then
		return "expecting opts.timeout to be a number of seconds above 0, got: " .. tostring(timeout)
	end
end

--- The second argument of `Client:publish`, `Client:subscribe` and `Client:unsubscribe`. The originals ignore it.
function arguments.no_callback(value)
	if type(value) == "function" then
		return "expecting the callback as the field callback of opts, not as a second argument"
	end
end

-- Makes the packet of a request, as `codec` takes it, so that `codec` checks the fields.
local PACKETS = {
	publish = function(opts)
		return { type = types.PUBLISH, topic = opts.topic }
	end,
	subscribe = function(opts)
		return { type = types.SUBSCRIBE, packet_id = 1, subscriptions = { { topic = opts.topic, qos = 0 } } }
	end,
	unsubscribe = function(opts)
		return { type = types.UNSUBSCRIBE, packet_id = 1, subscriptions = { opts.topic } }
	end,
}

--- The argument of a request, and its packet: the whole check of the request, before it is made.
-- @tparam string method "publish", "subscribe" or "unsubscribe"
-- @tparam table opts its argument
-- @tparam number version the protocol version of the client
-- @treturn string the error message, or nil
function arguments.request(method, opts, version)
	local problem = arguments[method](opts)
	if problem then
		return problem
	end
	local pck = PACKETS[method](opts)
	pck.properties, pck.user_properties = opts.properties, opts.user_properties
	local ok, err = codec[version].encode(pck)
	return not ok and err or nil
end

return arguments

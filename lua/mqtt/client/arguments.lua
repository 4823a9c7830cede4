--- Checks the arguments of a client's methods.
-- Internal. Each function returns an error message, which the method raises in the name of its caller, or nil. Checks
-- come in the order of the documentation.

local codec = require("mqtt.core").codec
local const = require("mqtt.const")
local types = require("mqtt.packet").types

local math_huge = math.huge
local each, tostring, type = pairs, tostring, type
local str_format = string.format

local arguments = {}

-- A copy of a table; any other value itself.
local function copy(value)
	if type(value) ~= "table" then
		return value
	end
	local own = {}
	for key, field in each(value) do
		own[key] = field
	end
	return own
end

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
	local tag, expire = opts.tag, opts.expire
	if tag ~= nil and (type(tag) ~= "string" or #tag > 0xFFFF) then
		return "expecting opts.tag to be a string of at most 65535 bytes"
	elseif expire ~= nil and not (type(expire) == "number" and expire > 0 and expire < math_huge) then
		return "expecting opts.expire to be a number of seconds above 0"
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

-- Makes the packet of a request, as `codec` takes it, so that `codec` checks the fields. A payload may be anything, and
-- is not copied for that.
local PACKETS = {
	publish = function(opts)
		return { type = types.PUBLISH, topic = opts.topic, qos = opts.qos, retain = opts.retain, dup = opts.dup,
			packet_id = opts.packet_id or 1 }
	end,
	subscribe = function(opts)
		return { type = types.SUBSCRIBE, packet_id = 1, subscriptions = { {
			topic = opts.topic, qos = opts.qos or 0, no_local = opts.no_local,
			retain_as_published = opts.retain_as_published, retain_handling = opts.retain_handling,
		} } }
	end,
	unsubscribe = function(opts)
		return { type = types.UNSUBSCRIBE, packet_id = 1, subscriptions = { opts.topic } }
	end,
}

-- What only clients must not do with a PUBLISH, and what `codec` does not look at with QoS 0.
local function explain_publish(opts, version)
	if version == const.v50 and opts.properties and opts.properties.subscription_identifiers ~= nil then
		return "PUBLISH: a client must not send subscription_identifiers"
	elseif opts.packet_id ~= nil then
		local ok, err = codec[version].encode { type = types.PUBACK, packet_id = opts.packet_id, rc = 0 }
		return not ok and err or nil
	end
end

--- The argument of a request, and its packet: the whole check of the request, before it is made. A request that is made
-- later must find nothing to blame its caller for.
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
	if not ok then
		return err
	end
	return method == "publish" and explain_publish(opts, version) or nil
end

--- Returns the argument of a request that is made later: a copy, since the program may change its table meanwhile.
-- @tparam table opts the argument
-- @treturn table the copy
function arguments.keep(opts)
	local own = copy(opts)
	own.properties, own.user_properties = copy(opts.properties), copy(opts.user_properties)
	return own
end

return arguments

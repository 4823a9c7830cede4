--- The options of a client: their names, their allowed values, and the settings that a session and a CONNECT take from
-- them.
-- Internal to `mqtt.client`. Nothing here connects, and no other file checks options.

local brokers = require("mqtt.brokers")
local calls = require("mqtt.calls")
local const = require("mqtt.const")
local core = require("mqtt.core")
local fields = require("mqtt.client.fields")
local packet_type = require("mqtt.packet").types

local each, ipairs, require, tostring, type = pairs, ipairs, require, tostring, type
local math_huge = math.huge
local str_format = string.format

local codec = core.codec

local options = {}

-- In place of a missing table. Not to be changed.
local NOTHING = {}

local function is_whole(value, min, max)
	return type(value) == "number" and value >= min and value <= max and value % 1 == 0
end

-- Returns a check for a whole number.
local function whole(name, min, max, unit)
	return function(value)
		if not is_whole(value, min, max) then
			return str_format("expecting %s to be a whole number%s from %d to %d, got: %s", name, unit, min, max,
				tostring(value))
		end
	end
end

local function check_clean(value)
	if value ~= "first" then
		return "expecting clean to be a boolean, or 'first'"
	end
end

local function check_version(value)
	if value ~= const.v311 and value ~= const.v50 then
		return "expecting version to be a value either 4 or 5: mqtt.v311 or mqtt.v50"
	end
end

local function check_connect_timeout(value)
	if not (value > 0 and value < math_huge) then
		return "expecting connect_timeout to be a number of seconds above 0, got: " .. tostring(value)
	end
end

local function check_ping_timeout(value)
	if value <= 0 or value ~= value then
		return "expecting ping_timeout to be a positive number of seconds, got: " .. tostring(value)
	end
end

local function check_reconnect(value)
	if not (value >= 0 and value < math_huge) then
		return "expecting reconnect to be a number of seconds, not below 0, got: " .. tostring(value)
	end
end

-- Checks the options queue and store, which few programs have.
local function check_queue(queue)
	return require("mqtt.client.backlog").check_queue(queue)
end

local function check_store(store)
	return require("mqtt.client.backlog").check_store(store)
end

local DEFAULT_QUEUE = { max_messages = 1000, max_bytes = 2 ^ 20 }

-- By name: for each Lua type of the option, true or a check. The check returns an error message or nil. `words` names
-- the types in the error message, where there is more than one.
local SCHEMA = {
	uri = { string = true, table = brokers.check_uris, words = "a string" },
	clean = { boolean = true, string = check_clean, words = "a boolean, or 'first'" },
	version = { number = check_version, default = const.v311, words = "a number: mqtt.v311 or mqtt.v50" },
	id = { string = true },
	protocol = { string = true },
	host = { string = true },
	port = { number = true },
	username = { string = true },
	password = { string = true },
	secure = { boolean = true, table = true, words = "a boolean or table" },
	ssl_module = { string = true },
	proxy = { string = true },
	ws_headers = { table = true },
	connector = { table = true },
	will = { table = true },
	keep_alive = { number = whole("keep_alive", 0, 0xFFFF, " of seconds"), default = 60 },
	ping_timeout = { number = check_ping_timeout },
	connect_timeout = { number = check_connect_timeout, default = 30 },
	reconnect = {
		boolean = true, number = check_reconnect, table = brokers.check_reconnect, words = "a boolean or number",
	},
	follow_server_reference = { boolean = true },
	properties = { table = true },
	user_properties = { table = true },
	max_packet_size = { number = whole("max_packet_size", 16, 268435460, " of bytes") },
	server_receive_maximum = { number = whole("server_receive_maximum", 1, 0xFFFF, "") },
	topic_aliases = { boolean = true },
	resubscribe = { boolean = true },
	queue = { table = check_queue },
	store = { string = check_store, table = check_store, words = "a string or table" },
	auto_ack = { boolean = true },
	on = { table = true, words = "a table with events and callbacks" },
}

--- The allowed types of each option, for the spec that compares them with the documentation.
options.schema = SCHEMA

-- The type of an option without `words`: it has only one.
local function type_of(option)
	for name in each(option) do
		if name ~= "default" then
			return name
		end
	end
end

--- Checks one option. Returns an error message, or nil.
-- @param key the name of the option
-- @param value its value
-- @treturn string the error message
function options.check(key, value)
	if type(key) ~= "string" then
		return "expecting string key in opts, got: " .. type(key)
	end
	local option = SCHEMA[key]
	if not option then
		return "unexpected key in client opts: " .. key .. " = " .. tostring(value) .. fields.hint(key, SCHEMA)
	end
	local check = option[type(value)]
	if not check then
		return "expecting " .. (key == "on" and "'on'" or key) .. " to be "
			.. (option.words or "a " .. type_of(option))
	elseif check ~= true then
		return check(value)
	end
end

local check = options.check

-- Checks a will. Returns an error message, or nil. Encoding the CONNECT checks the other fields.
local function check_will(will)
	local unknown = fields.lenient("will", will)
	if unknown then
		return unknown
	elseif type(will.topic) ~= "string" then
		return "expecting will.topic to be a string"
	end
	local broken = core.check_topic_name(will.topic)
	if broken then
		return "will.topic: " .. broken
	elseif type(will.payload) ~= "string" then
		return "expecting will.payload to be a string" .. (type(will.payload) == "number" and ", got a number: use tostring"
			or will.message and fields.hint("message", fields.will) or "")
	elseif will.qos ~= nil and type(will.qos) ~= "number" then
		return "expecting will.qos to be a number"
	elseif will.qos ~= nil and not is_whole(will.qos, 0, 2) then
		return "expecting will.qos to be a valid QoS value"
	elseif will.retain ~= nil and type(will.retain) ~= "boolean" then
		return "expecting will.retain to be a boolean"
	end
end

--- Copies the program's options, and adds the defaults except for `id` and `connector`.
-- @param given the program's value
-- @treturn[1] table the client's own options
-- @return[2] nil and an error message
function options.copy(given)
	if type(given) ~= "table" then
		return nil, "expecting a table of options to create MQTT client, got: " .. type(given)
	end
	local own = {}
	for key, value in each(given) do
		local err = check(key, value)
		if err then
			return nil, err
		end
		own[key] = value
	end
	if own.uri == nil then
		return nil, 'expecting uri="..." to create MQTT client'
	elseif own.clean == nil then
		return nil, "expecting clean=true, clean=false, or clean='first' to create MQTT client"
	end
	local err = own.will and check_will(own.will)
	if err then
		return nil, err
	end
	own.version = own.version or SCHEMA.version.default
	own.keep_alive = own.keep_alive or SCHEMA.keep_alive.default
	if own.id == "" and own.version == const.v311 and own.clean ~= true then
		-- [MQTT-3.1.3-7]: such a CONNECT could never be sent.
		return nil, "expecting clean=true with an empty id in MQTT 3.1.1"
	end
	if own.reconnect == true then
		own.reconnect = brokers.DELAY
	end
	return own
end

-- The options that a client always has. `clean` is none of them: it may have become nil.
local REQUIRED = { "uri", "connector", "keep_alive", "id" }

--- Checks the client's options, since the program may have changed them. Returns an error message, or nil. Other fields
-- in the table do not matter.
-- @tparam table opts the client's options
-- @tparam number version the protocol version that the client was created with
-- @treturn string the error message
function options.check_changed(opts, version)
	for key, value in each(opts) do
		local err = SCHEMA[key] and check(key, value)
		if err then
			return err
		end
	end
	for _, key in ipairs(REQUIRED) do
		if opts[key] == nil then
			return "expecting the option " .. key
		end
	end
	if opts.version ~= version then
		return "expecting version to stay what it was when the client was created"
	end
	return opts.will and check_will(opts.will)
end

--- How long connecting may take, in seconds.
-- @tparam table opts the client's options
-- @treturn number seconds
function options.connect_timeout(opts)
	return opts.connect_timeout or SCHEMA.connect_timeout.default
end

--- Whether the next connection takes up the exchanges that the end of a connection has interrupted.
-- @tparam table opts the client's options
-- @treturn boolean whether so
function options.keeps_exchanges(opts)
	return not not (opts.reconnect or opts.queue or opts.store or opts.resubscribe or not opts.clean)
end

--- Whether a SUBSCRIBE made without a connection waits for the next connection.
-- @tparam table opts the client's options
-- @treturn boolean whether so
function options.keeps_subscriptions(opts)
	return not not (opts.queue or opts.store or opts.resubscribe)
end

-- The table that `options.session` returns each time: a new table for each client would be garbage.
local settings = {}

--- The settings that a session takes from the options.
-- @tparam table opts the client's options
-- @tparam[opt] number connack_timeout how long the broker may take to answer CONNECT, in seconds; by default all of the
-- time for connecting
-- @tparam[opt] string requests the beginning of the correlation data of the client's requests
-- @treturn table the settings, until the next call
function options.session(opts, connack_timeout, requests)
	local queue = opts.queue
	-- The store takes the place of the queue.
	local waiting = type(opts.store) == "table" and opts.store or not opts.store and queue or NOTHING
	settings.max_packet_size = opts.max_packet_size
	settings.connack_timeout = connack_timeout or options.connect_timeout(opts)
	settings.pingresp_timeout = opts.ping_timeout
	settings.keep_exchanges = options.keeps_exchanges(opts)
	settings.max_messages = queue and (queue.max_messages or DEFAULT_QUEUE.max_messages)
	settings.max_bytes = queue and (queue.max_bytes or DEFAULT_QUEUE.max_bytes)
	settings.drop_oldest = queue and queue.when_full == "drop_oldest"
	settings.expire, settings.latest, settings.rate = waiting.expire, waiting.keep == "latest", waiting.rate
	settings.resubscribe = opts.resubscribe
	settings.server_receive_maximum = opts.server_receive_maximum
	settings.topic_aliases = opts.topic_aliases
	settings.requests = requests
	return settings
end

-- The properties of CONNECT: the program's, and the maximum packet size.
local function connect_properties(opts)
	local size, properties = opts.max_packet_size, opts.properties
	if not size or opts.version ~= const.v50 or properties and properties.maximum_packet_size then
		return properties
	end
	local all = { maximum_packet_size = size }
	for name, value in each(properties or NOTHING) do
		all[name] = value
	end
	return all
end

--- The fields of a CONNECT (3.1).
-- @tparam table opts the client's options
-- @treturn table the fields
function options.connect_fields(opts)
	return {
		id = opts.id,
		-- "first" counts as true for now.
		clean = not not opts.clean,
		username = opts.username,
		password = opts.password,
		will = calls.plain(opts.will),
		keep_alive = opts.keep_alive,
		properties = connect_properties(opts),
		user_properties = opts.user_properties,
	}
end

-- The options that become fields of CONNECT, and may be unfit for it.
local CONNECT_OPTIONS = { "id", "username", "password", "will", "properties", "user_properties" }

--- Checks the CONNECT that the options make, before the program connects. Returns an error message, or nil.
-- @tparam table opts the client's options
-- @tparam table given the options that the program gave
-- @treturn string the error message
function options.check_connect(opts, given)
	for _, key in ipairs(CONNECT_OPTIONS) do
		if given[key] ~= nil then
			local connect = options.connect_fields(opts)
			connect.type = packet_type.CONNECT
			local ok, err = codec[opts.version].encode(connect)
			return not ok and err or nil
		end
	end
end

return options

--- MQTT 3.1.1 and 5.0 client for Lua.
--
-- Conventions of the whole library: arguments of a wrong type, and values that MQTT does not allow, raise an error; all
-- other failures are returned as `false` and an error message.
-- @module mqtt
-- @usage
-- local mqtt = require "mqtt"
-- local client = mqtt.client {
-- 	uri = "mqtts://aladdin:soopersecret@mqttbroker.com",
-- 	clean = true,
-- 	version = mqtt.v50,
-- }
-- client:on("message", function(msg) print(msg.topic, msg.payload) end)
-- mqtt.run_ioloop(client)

local client = require("mqtt.client")
local const = require("mqtt.const")
local core = require("mqtt.core")
local expect = require("mqtt.loop.expect")
local log = require("mqtt.log")
local topics = require("mqtt.topics")

require("mqtt.later") { "mqtt.ioloop", "mqtt.loop.timer" }

local error, require, select, type = error, require, select, type

local mqtt = {
	--- MQTT 3.1.1, for `version` of `Client:__init`.
	v311 = const.v311,
	--- MQTT 5.0, for `version` of `Client:__init`.
	v50 = const.v50,
	--- Version of this library, as in `"1.2.3"`. For bug reports `require("mqtt.core").build` has more.
	VERSION = core.build.version,
	--- Version of luamqttt whose API this library reproduces, for programs that look at it.
	_VERSION = const._VERSION,

	--- The library's log, `mqtt.log`: `log.set` chooses the logger.
	log = log,

	--- Creates a client. See `Client:__init` for the options.
	-- @function client
	-- @tparam table opts client creation options
	-- @treturn Client client
	client = client.create,

	validate_subscribe_topic = topics.validate_subscribe_topic,
	validate_publish_topic = topics.validate_publish_topic,
	compile_topic_pattern = topics.compile_topic_pattern,
	topic_match = topics.topic_match,
}

--- Returns the default ioloop. See `Ioloop.get`.
-- @function get_ioloop
-- @tparam[opt=true] boolean autocreate create it if there is none
-- @tparam[opt] table opts see `Ioloop:__init`
-- @treturn Ioloop the default ioloop, or nil
function mqtt.get_ioloop(...)
	-- Loaded now: programs in Copas or nginx, or with a loop of their own, do without the ioloop, 8 % of the library.
	mqtt.get_ioloop = require("mqtt.ioloop").get
	return mqtt.get_ioloop(...)
end

--- Runs the default ioloop until all its clients and functions are gone. Clients without a connection start to connect
-- at once, also clients that have been connected before.
-- @param ... clients and functions, added to the loop first: see `Ioloop:add`
-- @treturn[1] boolean true
-- @return[2] nil: a client that has no `error` handler has ended with an error
-- @treturn[2] string error message, the last if several clients have ended so
-- @usage assert(mqtt.run_ioloop(client1, client2, func))
function mqtt.run_ioloop(...)
	for i = 1, select("#", ...) do
		local item = select(i, ...)
		local problem = expect.explain_item(item)
		if problem then
			local is_list = type(item) == "table" and item[1] ~= nil and not expect.explain_item(item[1])
			error(problem .. (is_list and ": give the items of a list one by one, run_ioloop(first, second)" or ""), 2)
		end
	end
	local loop = mqtt.get_ioloop()
	for i = 1, select("#", ...) do
		local item = select(i, ...)
		loop:add(item)
		if type(item) == "table" and not item.connection then
			item.first_connect = true
		end
	end
	return loop:run_until_clients()
end

--- Connects a client and serves it until its connection is gone, without reconnecting.
-- @tparam Client cl the client
-- @return nothing after a connection that has ended in order; or `false` and an error message
function mqtt.run_sync(cl)
	local ok, err
	repeat
		ok, err = cl:start_connecting()
		while ok and cl.connection do
			ok, err = cl:_sync_iteration()
		end
	until not cl:_is_first_pass()
	if not ok then
		return false, err
	end
end

return mqtt

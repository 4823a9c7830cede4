--- This class contains the MQTT client implementation.
-- @classmod Client

local await = require("mqtt.client.await")
local brokers = require("mqtt.brokers")
local const = require("mqtt.const")
local core = require("mqtt.core")
local ending = require("mqtt.client.ending")
local incoming = require("mqtt.client.incoming")
local lifecycle = require("mqtt.client.lifecycle")
local log = require("mqtt.log")
local native_connector = require("mqtt.connector.native")
local native = require("mqtt.transport.native")
local options = require("mqtt.client.options")
local packet = require("mqtt.packet")
local requests = require("mqtt.client.requests")
local steps = require("mqtt.client.steps")
local target = require("mqtt.client.target")
local Topics = require("mqtt.client.topics")
local v3 = require("mqtt.client.v3")

require("mqtt.later") { "mqtt.client.backlog", "mqtt.client.dropped", "mqtt.client.keeping", "mqtt.client.rpc" }

local each, error, ipairs, pcall, rawset = pairs, error, ipairs, pcall, rawset
local require, select, setmetatable, tostring, type = require, select, setmetatable, tostring, type
local str_format = string.format

-- The methods of MQTT 5.0 until there is a client of it.
local function only_v50()
	error("allowed only in MQTT v5.0 protocol", 2)
end

-- An empty table, in place of a missing argument.
local NOTHING = {}

-- The events that have handlers. False: a list of them is there when it is needed first.
local EVENTS = {
	connect = true, subscribe = true, unsubscribe = true, message = true, acknowledge = true, error = true, close = true,
	auth = true, shutdown = true, dropped = false,
}

-- A list of handlers that the program has taken away is empty when it is needed again.
local handlers_mt = {}
function handlers_mt:__index(event)
	if EVENTS[event] ~= nil then
		self[event] = {}
		return self[event]
	end
end

-- An empty list of handlers for each event.
local function new_handlers()
	local handlers = setmetatable({}, handlers_mt)
	for event, is_listed in each(EVENTS) do
		handlers[event] = is_listed and {} or nil
	end
	return handlers
end

-- The fields of a client that no program touches; `Client:__init` documents the others. A file that needs a further
-- field adds it here. There may be tens of thousands of clients: a field is set when it is needed first. Most clients
-- have 15 fields, and a table with 17 takes twice the memory.
local Client = {
	-- The protocol version. It never changes.
	_version = const.v311,
	-- The core's link (session and connection), and its handle for the calls made once a message.
	_link = nil,
	_handle = nil,
	-- The transport, which carries the bytes: see `mqtt.transport`.
	_transport = native,
	-- The handle for the short way of `publish` and `acknowledge`: `_handle` while nothing else is to be done, else
	-- nil. A client with a store has none.
	_direct = nil,
	-- The metatable of received messages. It tells the session of the broker that a message belongs to.
	_session_mt = nil,

	-- The choice of the next broker, and its time.
	_brokers = nil,
	-- The options that the last uri has given, and the TLS settings made of the option `secure`.
	_from_uri = nil,
	_tls = nil,
	_tls_params = nil,
	-- The connection table while the connection is being opened. From then on the table is in `connection`.
	_opening = nil,
	-- Set while `fail` ends the connection: the reason, the error message, and the packet that gives it.
	_closing = nil,
	_failure = nil,
	_ended_by = nil,
	-- How many bytes waited when a publish gave up waiting for a connection that takes nothing.
	_stuck = nil,
	-- Whether Lua has collected the client.
	_is_collected = nil,
	-- How often the client has left a connection or a loop. A handler called by `_serve` may leave either: then
	-- `_serve` stops.
	_moves = 0,
	-- How often the program has ended a connection or an attempt to open one, or has shut the client down.
	_endings = 0,
	-- Steps since other threads last had their turn.
	_steps = 0,
	-- The packet that `_receive_packet` is to return.
	_received = nil,

	-- Of `mqtt.transport.bridge`: the connection table of the last connector; the connection table that a thread sends
	-- through, or false; the connection table that it receives from, or false; a function that has keep alive looked at
	-- soon; whether the connector may have received more.
	_connected = nil,
	_sending = nil,
	_receiving = nil,
	_check_soon = nil,
	_may_have_more = nil,

	-- The callbacks of requests by packet identifier, and what the library itself wants to know of their end.
	_callbacks = requests.NO_CALLBACKS,
	_asked = nil,
	-- With the option `store`: `mqtt.client.keeping`; the store, as long as it is not open; the callbacks of messages that
	-- have no packet identifier yet; the tags of messages under way; whether QoS 0 messages are kept.
	_keeping = nil,
	_store = nil,
	_kept = nil,
	_tags = nil,
	_keeps_qos0 = nil,
	-- The time at which the link wakes the client.
	_wake_at = nil,
	-- Objects made when the client needs them first: see `mqtt.client.waits`, `mqtt.client.topics` and
	-- `mqtt.client.rpc`.
	_waits = nil,
	_topics = nil,
	_rpc = nil,
	-- Of `mqtt.loop.copas`: the record of how the client is served.
	_copas = nil,
}
Client.__index = Client

-- Called when the program sets a field that the client's table lacks. A replaced method is called from the next step
-- on.
function Client:__newindex(name, value)
	rawset(self, name, value)
	if Client[name] ~= nil then
		rawset(self, "_moves", self._moves + 1)
	end
end

function Client:__tostring()
	return str_format("mqtt.client{id=%q}", tostring(self.opts.id))
end

--- Create and initialize MQTT client instance. Typically this is not called directly, but through `Client.create`.
-- @tparam table opts client creation options; copied, so one table may serve several clients
-- @tparam string|table opts.uri MQTT broker uri to connect, `[mqtt[s]://][username[:password]@]hostname[:port]`; for
-- WebSocket `ws[s]://[username[:password]@]hostname[:port][/path]`, the path being `/mqtt` unless given; for a Unix
-- socket `unix:///path`. An option given explicitly takes precedence over the same part of the uri. A list of uris
-- names several brokers: the client tries them in turn without delay, each with the credentials of its own uri. After
-- all have failed, the client waits for the delay of `reconnect`, or ends if `reconnect` is not set. After a lost
-- connection, the client tries the same broker first. With a list, a table of TLS settings (`secure`) counts for each
-- uri that is `mqtts://` or `wss://`, or has no scheme
-- @tparam boolean|string opts.clean clean session start flag, use "first" to start clean only on first connect
-- @tparam[opt] string opts.protocol "mqtt", "mqtts", "ws" or "wss": the scheme of a uri that has none. If the uri has a
-- scheme, this option may only add TLS
-- @tparam[opt] string opts.username username for authorization on MQTT broker
-- @tparam[opt] string opts.password password for authorization on MQTT broker; with MQTT 3.1.1 not without username
-- @tparam[opt] string opts.host hostname or address of the MQTT broker
-- @tparam[opt] int opts.port port number, defaults to 1883 for plain and 8883 for secure connections, 80 and 443 for
-- WebSocket
-- @tparam[opt=4] number opts.version MQTT protocol version, `mqtt.v311` or `mqtt.v50`
-- @tparam[opt] string opts.id MQTT client identifier, by default 31 characters of which 64 bits are random (a broker
-- need not take more than 23 characters); with MQTT 5.0, "" lets the broker assign an identifier. The assigned
-- identifier then takes the place of this option, so the next connect finds the same session
-- @tparam[opt=false] boolean|table opts.secure use TLS: true for the defaults, or a table as LuaSec takes it, see the
-- guide on TLS
-- @tparam[opt] string opts.proxy connect through this proxy, `http://[username[:password]@]hostname[:port]` (CONNECT
-- with basic authorization, port 80 unless given) or the same with `socks5://` (port 1080). The proxy looks the
-- broker's name up. Without effect on Unix sockets. A proxy takes a native connection, as WebSocket and Unix sockets do
-- @tparam[opt] table opts.ws_headers header fields to send with the request for a WebSocket, such as
-- `{ Authorization="Bearer ..." }`
-- @tparam[opt] table opts.will will message `{ topic="...", payload="..." }` with the optional fields qos, retain and,
-- for MQTT 5.0, properties and user_properties
-- @tparam[opt=60] number opts.keep_alive seconds without traffic after which a PINGREQ is sent; 0 sends none
-- @tparam[opt] table opts.properties for MQTT 5.0 only: CONNECT properties
-- @tparam[opt] table opts.user_properties for MQTT 5.0 only: CONNECT user properties
-- @tparam[opt=false] boolean|number|table opts.reconnect reconnect after the connection has been lost, not before this
-- many seconds have passed since the last attempt; true means 30. A table lets the delay grow. Its optional fields are
-- `min` (1 second by default), `max` (60) and `jitter` (0.5). The delay begins with `min` seconds, and doubles after
-- each further attempt that fails, up to `max`. A random part of up to `jitter` (0 to 1) of the delay is taken off. The
-- delay is `min` again after a connection that held for longer than the next delay, and 5 seconds at least, or that the
-- program ended. See also `Client:shutdown`.
-- @tparam[opt=30] number opts.connect_timeout seconds that connecting may take: name, TCP, proxy, TLS, WebSocket and
-- CONNACK together; the CONNACK has a tenth of the time in any case. Unless this option is given, a connector's
-- `timeout` limits opening. Connectors look names up without a limit, and the connector on LuaSocket tries each address
-- of a name for the whole time. Where hundreds of clients connect at once they take turns, and the time of a client
-- begins with its turn
-- @tparam[opt=false] boolean opts.follow_server_reference for MQTT 5.0 only: connect to the server that the broker
-- refers to in a CONNACK or DISCONNECT: at once, or after the delay of `reconnect` if that server refers further. After
-- "Use another server" the client uses the server until it fails. After "Server moved" the client tries the server
-- later too, before the brokers of `uri`, until one of these brokers accepts again. The server gets the credentials
-- meant for the broker, by TLS if the broker is reached by TLS
-- @tparam[opt=false] boolean opts.auto_ack acknowledge each message when all its handlers have returned, unless a
-- handler has acknowledged it. If a handler raises an error, the message is not acknowledged
-- @tparam[opt] number opts.ping_timeout seconds that the broker may take to answer a PINGREQ, `keep_alive` by default
-- @tparam[opt] number opts.max_packet_size largest packet accepted from the broker, in bytes; MQTT 5.0 tells the broker
-- @tparam[opt] table opts.queue accept publishes without a connection, and send them in order when there is one: a
-- table with the optional fields `max_messages` (1000 by default), `max_bytes` (1 MiB), `when_full`, "reject" (the
-- default: `publish` returns false and an error message) or "drop_oldest" (among the messages that were never sent),
-- `expire` (seconds after which a waiting message is not sent any more), `keep` ("latest": a waiting message gives way
-- to a newer one of its topic) and `rate` (how many messages that have waited for a connection are sent in a second)
-- @tparam[opt] string|table opts.store a directory in which messages of QoS 1 and 2 are kept until they are
-- acknowledged, also if the process ends; with or without a connection, and in place of `queue`. Needs `id` and a
-- session that lasts (`clean = false` or "first", in MQTT 5.0 also the property `session_expiry_interval`). One client
-- at a time has the directory. Or a table with the field `path`, and the optional fields `sync` ("process", the
-- default, or "power": the messages survive the end of the machine too, once they are on the disk), `max_messages`,
-- `max_bytes`, `when_full`, `expire`, `keep` and `rate` (as for `queue`), `qos0` (true: messages of QoS 0 too while
-- there is no connection) and `recover` ("skip": go on without what is damaged)
-- @tparam[opt=false] boolean opts.resubscribe renew subscriptions when the broker has lost them with its session. With
-- this option, `queue` or `store`, `Client:subscribe` needs no connection: the SUBSCRIBE waits for the next one
-- @tparam[opt=20] number opts.server_receive_maximum for MQTT 3.1.1 only: how many QoS 2 messages the broker takes at a
-- time; a broker of MQTT 5.0 says so itself. A larger number makes publishing faster, but the broker may lose messages
-- beyond its own limit: mosquitto does above its `max_inflight_messages`
-- @tparam[opt=false] boolean opts.topic_aliases for MQTT 5.0 only: send aliases in place of topics, as many as the
-- broker takes
-- @tparam[opt] table opts.connector the class that opens, reads and writes the network connection, see
-- `mqtt.connector`, or a function table of luamqtt 3.x, see `mqtt.connector.v3`
-- @tparam[opt="ssl"] string opts.ssl_module name of the LuaSec-compatible module to do TLS with. A module other than
-- "ssl" takes a connector: without the option `connector`, the connection goes through `mqtt.connector.luasocket`, in
-- Copas threads `mqtt.connector.copas`
-- @tparam[opt] table opts.on event handlers, see `Client:on`
-- @treturn Client MQTT client instance table
-- @usage
-- local Client = require "mqtt.client"
--
-- local my_client = Client.create {
-- 	uri = "mqtts://broker.host.com",
-- 	clean = "first",
-- 	version = mqtt.v50,
-- }
function Client:__init(opts)
	local own, err = options.copy(opts)
	if not own then
		error(err, 3)
	end
	-- The module `mqtt.connector` returns the same table.
	own.connector = own.connector or native_connector
	own.id = own.id or str_format("luamqtt-v%s-%s", const._VERSION:gsub("%D", "-"), core.random_hex(16))

	self.opts = own
	if own.version ~= Client._version then
		self._version = own.version
		-- Programs for MQTT 3.1.1 do without them: they are 6 % of the library.
		for _, method in ipairs({ "request", "respond" }) do
			if Client[method] == only_v50 then
				Client[method] = require("mqtt.client.rpc")[method]
			end
		end
	end
	-- the same under the name that luamqtt 3.x gives it
	self.args = own
	--- The handlers of each event: nine lists, in the order in which they are called. The program may change them.
	self.handlers = new_handlers()
	--- Time of the last packet sent by a method of the client, in seconds as of `os.time`.
	self.send_time = 0
	--- True until the first connection attempt has succeeded or failed; with a list of brokers, until one attempt has
	-- succeeded or all have failed.
	self.first_connect = true
	self._brokers = brokers.new()
	self._steps = 0
	local link, handle = core.link(own.version)
	if not link then
		error("no client can be made: " .. handle, 3)
	end
	self._link, self._handle = link, handle
	lifecycle.configure(self)
	self._session_mt = packet.new_session_mt()
	local ok
	ok, err = pcall(lifecycle.check_brokers, self)
	if not ok then
		error(err, 3)
	end
	-- After the connector has loaded its libraries: Lua 5.1 unloads libraries in C by their finalizers, the last one
	-- loaded first.
	self._brokers.guard = ending.guard(self)
	err = options.check_connect(own, opts)
	if err then
		error(err, 3)
	end
	-- Fields of its own: each message looks at them.
	self._keeping, self._tags = false, false
	if own.store then
		self._keeping = require("mqtt.client.keeping")
		ok, err = pcall(self._keeping.open, self, opts)
		if not ok then
			error(err, 3)
		end
	end
	if own.on then
		ok, err = pcall(self.on, self, own.on)
		if not ok then
			error(err, 3)
		end
	end
	log:info("[LuaMQTT] client '%s' created", own.id)
	return self
end

--- Add functions as handlers of given events.
-- Handlers of one event are called in the order in which they were added. The first argument may also be the name of
-- one event, and the second its handler.
-- @tparam table events event handlers by event name
-- @tparam function events.connect `function(connack_packet, client)`: after the CONNACK of a connection attempt; the
-- connection is established if `connack_packet.rc == 0`
-- @tparam function events.error `function(errmsg, client [, packet])`: on errors; the packet is the CONNACK that
-- refused the connection, the DISCONNECT that ended it, or the SUBACK that refused a subscription of `Client:on_topic`
-- @tparam function events.close `function(connection, client)`: after the connection has been closed;
-- `connection.close_reason` (string) gives the reason
-- @tparam function events.shutdown `function(client)`: upon `Client:shutdown`
-- @tparam function events.subscribe `function(suback_packet, client)`: on a SUBACK
-- @tparam function events.unsubscribe `function(unsuback_packet, client)`: on an UNSUBACK
-- @tparam function events.message `function(publish_packet, client)`: on a PUBLISH, which carries a message
-- @tparam function events.acknowledge `function(ack_packet, client)`: on a PUBACK or PUBREC
-- @tparam function events.dropped `function(message, client)`: a message that was accepted and never sent is given up,
-- as the options `queue` or `store` say. The table has its `topic`, `qos`, `packet_id` and `tag`, where there are any,
-- and the `reason`: "full", "expired" or "replaced"
-- @tparam function events.auth `function(auth_packet, client)`: on an AUTH
-- @usage
-- client:on {
-- 	connect = function(pck, self)
-- 		if pck.rc ~= 0 then
-- 			return -- connection failed
-- 		end
-- 		-- succesfully connected
-- 	end,
-- 	message = function(pck, self)
-- 		-- handle received message
-- 	end,
-- }
--
-- -- an alternative way to add individual handlers
-- client:on("message", function(pck, self)
-- 	-- handle received message
-- end)
function Client:on(events, ...)
	local count, func = select("#", ...), (...)
	if count == 1 then
		-- A table holds no nil: an empty table stands for it, and is refused below.
		events = { [events == nil and NOTHING or events] = func == nil and NOTHING or func }
	elseif count > 1 or type(events) ~= "table" then
		error("invalid arguments: expected a table of handlers, or an event name and a handler", 2)
	end
	for event, handler in each(events) do
		if type(event) ~= "string" then
			error("expecting event to be a string", 2)
		elseif type(handler) ~= "function" then
			error("expecting func to be a function", 2)
		elseif not self.handlers[event] then
			error("invalid event '" .. event .. "' to handle", 2)
		end
	end
	for event, handler in each(events) do
		local handlers = self.handlers[event]
		handlers[#handlers + 1] = handler
	end
end

--- Remove given function handler for specified event. A call inside a handler of the event takes effect after all of
-- its handlers have been called.
-- @tparam string event event name to remove handler
-- @tparam function func handler function to remove
-- @return `true`
-- @usage
-- local handler = function(pck, self)
-- 	-- handle received message
-- end
--
-- client:on { message = handler }
-- client:off("message", handler)
function Client:off(event, func)
	local handlers = self.handlers[event]
	if not handlers then
		error("invalid event '" .. tostring(event) .. "' to handle", 2)
	end
	-- A new list: the old list may be the list that handlers are being called from.
	local rest, found = {}, false
	for _, handler in ipairs(handlers) do
		if handler == func and not found then
			found = true
		else
			rest[#rest + 1] = handler
		end
	end
	self.handlers[event] = rest
	return true
end

--- Subscribe to specified topic. Returns the SUBSCRIBE packet id and calls optional callback when subscription will be
-- created on broker. Without a connection this fails, with a warning in the log, unless the option `queue` or
-- `resubscribe` is set
-- @tparam table opts subscription options
-- @tparam string opts.topic topic filter to subscribe
-- @tparam[opt=0] number opts.qos QoS level for subscription
-- @tparam[opt=false] boolean opts.no_local for MQTT v5.0 only: do not send messages back that this client published
-- @tparam[opt=false] boolean opts.retain_as_published for MQTT v5.0 only: keep the retain flag of forwarded messages
-- @tparam[opt=0] number|boolean opts.retain_handling for MQTT v5.0 only: when retained messages are sent: 0 at each
-- subscribe, 1 only for a new subscription, 2 not at all; true means 1
-- @tparam[opt] table opts.properties for MQTT v5.0 only: properties for subscribe operation
-- @tparam[opt] table opts.user_properties for MQTT v5.0 only: user properties for subscribe operation
-- @tparam[opt] function opts.callback `function(suback_packet, client)` called when the broker has answered
-- @return packet id on success or false and error message on failure
-- @function Client:subscribe
Client.subscribe = requests.subscribe

--- Unsubscribe from specified topic, and calls optional callback when subscription will be removed on broker
-- @tparam table opts subscription options
-- @tparam string opts.topic topic filter to unsubscribe
-- @tparam[opt] table opts.properties for MQTT v5.0 only: properties for unsubscribe operation
-- @tparam[opt] table opts.user_properties for MQTT v5.0 only: user properties for unsubscribe operation
-- @tparam[opt] function opts.callback `function(unsuback_packet, client)` called when the broker has answered
-- @return packet id on success or false and error message on failure
-- @function Client:unsubscribe
Client.unsubscribe = requests.unsubscribe

--- Publish message to broker.
-- The native connection gathers messages that are published at once, and sends them together; it sends a message of QoS
-- 0 with 128 KiB or more at once. A full socket makes it refuse no message. While more than 1 MiB waits to be written,
-- `publish` waits, for as long as the connection takes something at least every 30 seconds. It waits only where that
-- holds up nobody else: in a Copas thread, inside nginx, or if the client is the only one in its loop. A message is
-- refused when the connection takes nothing, when 16 MiB wait to be written or acknowledged, and when all 65535 packet
-- identifiers are in use; an identifier is in use until the answer has been handled. A message accepted with QoS 1 or 2
-- is sent again on the next connection if this connection is lost (with `reconnect`, `queue`, `resubscribe`, or without
-- a clean start).
--
-- A field of `opts` close to a known field raises an error, as does a callback as the second argument. Any other
-- unknown field is said once in the log. `Client:subscribe`, `Client:unsubscribe` and the option `will` do the same.
-- @tparam table opts publish operation options table
-- @tparam string opts.topic topic to publish message
-- @tparam[opt] string opts.payload publish message payload
-- @tparam[opt=0] number opts.qos QoS level for message publication
-- @tparam[opt=false] boolean opts.retain retain message publication flag
-- @tparam[opt=false] boolean opts.dup dup message publication flag
-- @tparam[opt] table opts.properties for MQTT v5.0 only: properties for publishing message
-- @tparam[opt] table opts.user_properties for MQTT v5.0 only: user properties for publishing message
-- @tparam[opt] function opts.callback `function(ack_packet, client)` called when the message has been acknowledged:
-- with the PUBACK for QoS 1, the PUBREC for QoS 2; for QoS 0 at once, with a string in place of the packet
-- @tparam[opt] string opts.tag with `store` only: a name that comes back as the field `tag` of the PUBACK or PUBREC, in
-- another process too
-- @tparam[opt] number opts.expire a message that has waited for so many seconds to be sent is given up
-- @return true or packet id on success or false and error message on failure; with `store` true also for a message of
-- QoS 1 or 2 that gets its packet identifier when it is sent
-- @function Client:publish
Client.publish = requests.publish

--- Acknowledge given received message.
-- Unless the option `auto_ack` is set, the library itself acknowledges no messages of QoS 1 and 2. So the broker sends
-- a message again after a reconnect if the program could not handle it.
-- @tparam packet_mt msg PUBLISH message to acknowledge
-- @tparam[opt=0] number rc for MQTT v5.0 only: the reason code of the PUBACK or PUBREC packet
-- @tparam[opt] table properties for MQTT v5.0 only: properties for PUBACK/PUBREC packets
-- @tparam[opt] table user_properties for MQTT v5.0 only: user properties for PUBACK/PUBREC packets
-- @return true on success or false and error message on failure
-- @function Client:acknowledge
Client.acknowledge = requests.acknowledge

--- Send DISCONNECT packet to the broker and close the connection. When this returns, everything published before and
-- the DISCONNECT are on their way. The receive maximum of the broker may keep messages back: this waits a few seconds
-- for them, where waiting holds up nobody else. An attempt to connect that is under way is given up. Note: if the
-- client is set to automatically reconnect, it will do so. If you want to disconnect and NOT reconnect, use
-- `Client:shutdown`.
-- @tparam[opt=0] number rc for MQTT v5.0 only: the Disconnect Reason Code value
-- @tparam[opt] table properties for MQTT v5.0 only: properties for the DISCONNECT packet
-- @tparam[opt] table user_properties for MQTT v5.0 only: user properties for the DISCONNECT packet
-- @return true on success or false and error message on failure
-- @function Client:disconnect
Client.disconnect = requests.disconnect

--- Shuts the client down. Disconnects if still connected, and disables reconnecting. If the client is added to an
-- ioloop, this will prevent an automatic reconnect. Raises the "shutdown" event.
-- @param ... see `Client:disconnect`
-- @return `true`
-- @function Client:shutdown
Client.shutdown = lifecycle.shutdown

--- Send AUTH packet to authenticate client on broker, in MQTT v5.0 protocol
-- @tparam[opt=0] number rc Authenticate Reason Code
-- @tparam[opt] table properties properties for the AUTH packet
-- @tparam[opt] table user_properties user properties for the AUTH packet
-- @return true on success or false and error message on failure
-- @function Client:auth
Client.auth = requests.auth

--- Immediately close established network connection, without graceful session finishing with DISCONNECT packet.
-- Also ends an attempt to connect.
-- @tparam[opt] string reason the reason string of connection close
-- @return `true`
-- @function Client:close_connection
Client.close_connection = lifecycle.close_connection

--- Start connecting to broker: opens the network connection and sends CONNECT. This waits until the connection is open,
-- for `connect_timeout` at most; in a Copas thread only the thread waits. The `connect` event tells whether the broker
-- accepts. With a list of brokers each call tries the next broker.
-- @return true on success or false and error message on failure
-- @function Client:start_connecting
Client.start_connecting = lifecycle.start_connecting

--- Makes a request and returns when it has been answered.
--
-- In a thread of Copas, in nginx and in any other coroutine this yields, so a loop has to serve the client. A coroutine
-- that belongs to nobody else is resumed by the client; see the guide on waiting. Outside of coroutines this call
-- serves the client meanwhile, and nothing else: in a handler, further packets are handled before this returns.
--
-- The wait goes on over a lost connection if the client reconnects. It fails if there will be no other connection, or
-- at `Client:disconnect`.
-- @tparam string what "connect", "subscribe", "unsubscribe" or "publish". With "connect", a client that has no
-- connection, and would not open one, begins to connect; a client that has been accepted already waits for nothing
-- @tparam[opt] table opts options of the method of that name; also:
-- @tparam[opt] number opts.timeout how many seconds the answer may take; a timeout does not take the request back
-- @treturn[1] table the answer: CONNACK, SUBACK, UNSUBACK, PUBACK or PUBREC; true for a message of QoS 0
-- @return[2] nil
-- @treturn[2] string error message; "timeout"
-- @treturn[2] table the packet that gives the reason, if there is one: a CONNACK that refuses, an answer with a reason
-- code of 0x80 or above, the broker's DISCONNECT
-- @usage
-- assert(client:await("connect"))
-- assert(client:await("subscribe", { topic = "jobs/#", qos = 1 }))
-- local puback, err = client:await("publish", { topic = "hello", qos = 1, timeout = 5 })
-- @function Client:await
Client.await = await.await

--- Adds a handler of the messages whose topic matches a topic filter.
-- It is called after the handlers of the `message` event, which go on seeing every message. Handlers of topics are
-- called in the order in which they were added, whatever their filters are. A handler removed meanwhile is not called
-- any more; a handler added meanwhile by another handler of a topic is called from the next message on. As to errors,
-- waiting and `auto_ack` they are handlers of `message` like others.
--
-- With `subscribe` the client also takes care of the subscription: it subscribes at once if it is connected, and on
-- each later connection that does not have the subscription. If it cannot subscribe, there is an `error` event, with
-- the SUBACK if that refused. Of several handlers of one filter the last `subscribe` and its options count, as they do
-- for the broker.
--
-- All arguments may also be in one table, see the second example.
-- @tparam string filter topic filter; a shared subscription's, `$share/GROUP/FILTER`, matches without `$share/GROUP/`
-- @tparam function handler `function(publish_packet, captures, client)`: `captures` lists the parts of the topic that
-- the wildcards matched, in their order: a level for each `+`, all the rest for `#`, which may be empty
-- @tparam[opt] table opts options; with `subscribe` also the options of `Client:subscribe`
-- @tparam[opt] table opts.keys names of the wildcards, in their order: captures also have these as keys
-- @tparam[opt=false] boolean opts.subscribe subscribe to the filter
-- @return true on success or false and error message when the SUBSCRIBE could not be sent: then nothing was added
-- @usage
-- client:on_topic("sensors/+/temperature", function(msg, captures)
-- 	print(captures[1], msg.payload)
-- end)
--
-- client:on_topic {
-- 	topic = "homes/+/+/#", keys = { "home", "room", "device" },
-- 	subscribe = true, qos = 1,
-- 	handler = function(msg, captures, client)
-- 		print(captures.home, captures.room, captures.device)
-- 		client:acknowledge(msg)
-- 	end,
-- }
-- @function Client:on_topic
Client.on_topic = Topics.on_topic

--- Removes handlers of a topic filter. With the last handler of a filter that `Client:on_topic` has subscribed to, the
-- subscription ends too; without a connection, on the next connection.
-- @tparam string filter the topic filter, as it was given
-- @tparam[opt] function handler the handler to remove, else all are removed
-- @return true on success or false and error message: there is no such handler, or the UNSUBSCRIBE could not be sent
-- @function Client:off_topic
Client.off_topic = Topics.off_topic

--- Publishes a request and takes the response to it, for MQTT 5.0 only.
-- The properties `response_topic` and `correlation_data` tell the other side where to send the response. The client
-- subscribes to the response topic when it is first needed: `responses/RANDOM`, or a topic below the response
-- information of the CONNACK if the broker gives any (ask for it by the CONNECT property
-- `request_response_information = 1`). Responses are acknowledged by the library; handlers of `message` see them too.
--
-- With a callback this returns at once. Without a callback it returns the response, and waits as `Client:await` does.
--
-- Requests wait on over a lost connection. They fail if there will be no other connection, and at `Client:disconnect`.
-- No request is sent, or repeated, before the broker has granted the topic for its response in the present session. If
-- the broker has lost the session, unanswered requests of QoS 1 are sent once more.
-- @tparam table opts options of `Client:publish`, but for `callback`, `tag` and `expire`; also:
-- @tparam[opt] table opts.properties may have a `response_topic` of your own
-- @tparam[opt=10] number opts.timeout how many seconds the response may take
-- @tparam[opt] function opts.callback `function(response)`, or `function(nil, errmsg [, packet])` when there will be no
-- response: "timeout" or another reason, with the packet that gives the reason
-- @treturn[1] table the response, a PUBLISH packet; with a callback true
-- @return[2] nil
-- @treturn[2] string error message; a callback is not called then
-- @treturn[2] table the packet that gives the reason, if there is one
-- @usage
-- client:request {
-- 	topic = "clock/now", payload = "UTC", timeout = 2,
-- 	callback = function(response, err)
-- 		print(response and response.payload or err)
-- 	end,
-- }
--
-- -- in a coroutine
-- local response, err = client:request { topic = "clock/now" }
-- @function Client:request
Client.request = only_v50

--- Publishes the response to a request, for MQTT 5.0 only: to its response topic, with its correlation data.
-- @tparam packet_mt request the message that asks for a response
-- @tparam table opts options of `Client:publish`, but for the topic; `qos` is the request's by default
-- @return what `Client:publish` returns; also false and an error message when the message wants no response
-- @usage
-- client:on_topic("clock/now", function(msg)
-- 	client:respond(msg, { payload = os.date("!%c") })
-- 	client:acknowledge(msg)
-- end, { subscribe = true, qos = 1 })
-- @function Client:respond
Client.respond = only_v50

--- Returns counts of the client's work so far, on all its connections.
-- @treturn table `messages_sent` and `messages_received` (repetitions not counted), `bytes_sent` and `bytes_received`
-- (without TLS and WebSocket), `in_flight` (QoS 1 and 2 messages sent and not acknowledged to the end), `queued` and
-- `queued_bytes` (packets accepted and not sent yet), `dropped` (messages accepted and never sent), `reconnects`,
-- `ping_round_trip` (seconds that the last PINGRESP took, or nil), `tls_version` (such as "TLSv1.3", or nil)
-- @usage
-- print(client:stats().in_flight)
function Client:stats()
	local stats = self._link:stats()
	local conn = self.connection
	if conn and not stats.tls_version then
		stats.tls_version = conn.tls_version
	end
	return stats
end

--- Goes through the messages that the client's store keeps: those under way first, then those that wait, each in the
-- order in which they were accepted. A client without a store has none.
-- @treturn function an iterator over tables with the fields `topic`, `qos`, `tag` if it has one, `since` (the time when
-- it was accepted, in seconds as of `os.time`), and `packet_id` if it is under way
-- @usage
-- for message in client:stored() do
-- 	print(message.tag, message.topic, os.date("%c", message.since))
-- end
function Client:stored()
	if not self._keeping then
		return function() end
	end
	return self._keeping.stored(self)
end

--- Low-level methods
-- @section low-level

--- Send PINGREQ packet. The library does so by itself, see `keep_alive` in `Client:__init`.
-- @return true on success or false and error message on failure
-- @function Client:send_pingreq
Client.send_pingreq = requests.send_pingreq

--- Open network connection to the broker, and wait until it is open, for `connect_timeout` at most; in a Copas thread
-- only the thread waits.
-- @return true on success or false and error message on failure
-- @function Client:open_connection
Client.open_connection = lifecycle.open_connection

--- Send CONNECT packet into opened network connection
-- @return true on success or false and error message on failure
-- @function Client:send_connect
Client.send_connect = lifecycle.send_connect

--- Checks last message send, and sends a PINGREQ if necessary. The native connection does so by itself, with or without
-- this call. With a connector in an external event loop this method must be called. When using the included modules to
-- add clients (see `mqtt.loop`), this will be taken care of automatically.
-- @treturn[1] number time till next keep_alive (in seconds)
-- @treturn[2] number time till next keep_alive (in seconds)
-- @treturn[2] string in case of errors (eg. not connected) the second return value is an error string
-- @usage
-- -- example using a Copas event loop to send and check keep-alives
-- copas.addthread(function()
--     while true do
--         if not my_client then
--             return -- exiting, client was destroyed
--         end
--         copas.pause(my_client:check_keep_alive())
--     end
-- end)
-- @function Client:check_keep_alive
Client.check_keep_alive = steps.check_keep_alive

--- Performs a single IO loop step. It will connect if not connected, will re-connect if set to. This should be called
-- repeatedly in a loop. When using the included modules to add clients (see `mqtt.loop`), this will be taken care of
-- automatically.
--
-- It never blocks: name resolution, connecting and the TLS handshake go on in the background over several steps. In a
-- Copas thread it waits, by yielding, for something to do.
--
-- The return value is the time after which this method must be called again. It can be called sooner, but shouldn't be
-- called later. A loop may also call it when the descriptor that `Client:getfd` returns becomes readable.
-- @return[1] `-1`: idle, nothing was received.
-- @return[2] `0`: a packet was successfully handled, so retry immediately, in case additional data is waiting.
-- @return[3] `>0`: The reconnect timer needs a delay before it can retry (calling sooner is not a problem, it will only
-- reconnect when the delay has actually passed)
-- @return[4] nil
-- @return[4] error message
-- @function Client:step
Client.step = steps.step

--- Returns a file descriptor for an external event loop, on Windows a SOCKET: it is readable when `Client:step` has
-- something to do. It stays the same as long as the client lives. Do not read from it, write to it or close it.
-- @treturn[1] number file descriptor
-- @return[2] nil and an error message: with a connector, or if the process has no more descriptors
function Client:getfd()
	local fd, err = self._transport.getfd(self)
	if err then
		return fd, err
	end
	return fd
end

--- Transport of the program's own
-- For clients whose connector is `mqtt.connector.bytes` or derived from it; that module says how to use these methods.
-- @section transport

-- The connection of a client whose bytes the program moves, or the last connection if it has been closed. Raises, in
-- the name of the caller's caller, for any other client.
local function fed_connection(self)
	local conn = self._connected
	if type(conn and conn.feed or self.opts.connector.feed) ~= "function" then
		error("expecting a client whose connector is mqtt.connector.bytes", 3)
	end
	return conn
end

--- Takes bytes that have arrived, in whatever portions, and handles the packets that they complete. An error that a
-- handler raises comes out of this call; the next call handles the packets behind.
-- @tparam string bytes the bytes; may be empty
-- @return true on success or false and error message when the connection was given up, or is not open
function Client:feed(bytes)
	local conn = fed_connection(self)
	if type(bytes) ~= "string" then
		error("expecting bytes to be a string", 2)
	elseif not self.connection then
		return false, ending.NOT_OPENED
	end
	conn:feed(bytes)
	local wait, err
	repeat
		wait, err = self:step()
	until wait ~= 0 or self.connection ~= conn
	if err then
		return false, err
	end
	return true
end

--- Returns the bytes to be sent. The caller has to send them. After a close event they may be the last bytes of the
-- closed connection.
-- @treturn string the bytes, or nil when there are none
function Client:take()
	local conn = fed_connection(self)
	return conn and conn:take()
end

-- Methods for loops, other files, and programs for luamqtt 3.x: not documented.
-- @section internal

Client.handle = incoming.handle
Client._is_first_pass = ending.is_first_pass
for _, room in ipairs({ steps, v3 }) do
	for name, method in each(room) do
		Client[name] = method
	end
end

--- Exported functions
-- @section exported

local _M = {}

--- Create, initialize and return new MQTT client instance
-- @function client.create
-- @param ... see arguments of `Client:__init`
-- @see Client:__init
-- @treturn Client MQTT client instance
function _M.create(opts)
	if type(opts) == "table" and (opts == _M or opts.client == _M.create) then
		error("expecting mqtt.client { ... } with a dot, not mqtt:client { ... } with a colon", 2)
	end
	local client = setmetatable({}, Client)
	-- Not a tail call: `__init` raises errors in the caller's name.
	client:__init(opts)
	return client
end

if _G._TEST then
	_M.__parse_connection_opts = target.parse
end

return _M

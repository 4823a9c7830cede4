--- This class contains the MQTT client implementation.
-- @classmod Client

local arguments = require("mqtt.client.arguments")
local bridge = require("mqtt.bridge")
local brokers = require("mqtt.brokers")
local calls = require("mqtt.calls")
local const = require("mqtt.const")
local core = require("mqtt.core")
local host = require("mqtt.host")
local log = require("mqtt.log")
local native = require("mqtt.connector.native")
local options = require("mqtt.client.options")
local packet = require("mqtt.packet")
local protect = require("mqtt.protect")
local target = require("mqtt.client.target")

local error, getmetatable, ipairs, next, pairs, pcall = error, getmetatable, ipairs, next, pairs, pcall
local rawset, require, select, setmetatable = rawset, require, select, setmetatable
local tostring, type = tostring, type
local coroutine_running, coroutine_status = coroutine.running, coroutine.status
local math_ceil, math_max, math_min = math.ceil, math.max, math.min
local os_time = os.time
local str_format = string.format

local LARGE_PAYLOAD = core.large_payload
-- What is done for each message does not go through the link's methods.
local core_step, core_publish, publish_plain = core.step, core.publish, calls.publish
local core_pop = core.pop
local core_acknowledge, core_acknowledge_message = core.acknowledge, core.acknowledge_message
local BUILDS_MESSAGES = core.builds_messages
local shape, shape_publish, shape_ack = packet.shape, packet.shape_publish, packet.shape_ack
local connect_timeout, keeps_exchanges = options.connect_timeout, options.keeps_exchanges
local call_all, raise, try = protect.call_all, protect.raise, protect.try
local packet_type = packet.types
local PUBLISH, PUBACK, PUBREC = packet_type.PUBLISH, packet_type.PUBACK, packet_type.PUBREC

local NOT_OPENED = "network connection is not opened"
local COLLECTED = "nobody holds this client any more: it has been collected"
local CLOSED_BY_CLIENT = "connection closed by client"
local GIVEN_UP = "connection attempt was given up"
local CLOSED_BY_BROKER = "connection closed by broker"
local STUCK = "the connection takes nothing"

-- What `check_keep_alive` returns where there is no keep alive, and how long one wait for anything takes, in seconds.
local KEEP_ALIVE_OFF = 60
local IDLE_WAIT = 1
-- The part of the time for connecting that the broker has for its CONNACK in any case.
local CONNACK_PART = 0.1
-- How long publishing waits for a connection that takes nothing, and how often a Copas thread looks, in seconds.
local SEND_TIMEOUT = 30
local ROOM_PAUSE = 0.005
-- How long disconnecting waits for a broker that has to acknowledge before it takes more, in seconds.
local DRAIN_TIMEOUT = 5
-- How long it waits until everything has been handed to the kernel, alone and with others who would be held up, in
-- seconds. Whatever is left is sent in the background, and the end of the process waits for that.
local FLUSH_TIME = 1
local FLUSH_TURN = 0.01
-- How many steps of a client in a Copas thread there are before other threads have their turn.
local STEPS_PER_TURN = 16
-- After how many answers to messages the loop has its turn, which sends what has been published upon them: so the
-- broker has something to do meanwhile.
local ANSWERS_PER_TURN = 50
-- How often a thread looks whether a connection that it waits for is open, in seconds.
local OPEN_PAUSE = 0.002
-- How often a connector that does not wait by itself is asked for bytes, in seconds.
local POLL_PAUSE = 0.01

-- For tables that may be missing. Not to be changed.
local NOTHING = {}

-- A list for each event, without a handler.
local function new_handlers()
	return {
		connect = {}, subscribe = {}, unsubscribe = {}, message = {}, acknowledge = {}, error = {}, close = {}, auth = {},
		shutdown = {},
	}
end

-- Messages that nobody has acknowledged yet, for the option `auto_ack`.
local unacknowledged = setmetatable({}, { __mode = "k" })

-- The fields of a client that no program touches; `Client:__init` documents the others. A file that needs one more adds
-- it here. There may be tens of thousands of clients: a field is set when it is needed first. Most clients have 15
-- fields, and a table with 17 takes twice the memory.
local Client = {
	-- The protocol version, which stays.
	_version = const.v311,
	-- The core's link: session and connection. And what stands for it in the calls that are made for each message.
	_link = nil,
	_handle = nil,
	-- The link's number in `core.next_ready` if the connection is native; nil with a connector.
	_token = nil,
	-- `_handle` while `publish` and `acknowledge` may pass everything to a native connection, else nil.
	_direct = nil,
	-- The metatable of received messages: which session of the broker they belong to.
	_session_mt = nil,

	-- Which broker is next, and when.
	_brokers = nil,
	-- What the last uri has given to the options, and the TLS settings made of the option `secure`.
	_from_uri = nil,
	_tls = nil,
	_tls_params = nil,
	-- The connection table while the connection is being opened. `connection` has it from then on.
	_opening = nil,
	-- Why `fail` is ending the connection, the error message and the packet that says so.
	_closing = nil,
	_failure = nil,
	_ended_by = nil,
	-- How many bytes waited when a publish had waited in vain for a connection that takes nothing.
	_stuck = nil,
	-- Whether Lua has collected the client.
	_is_collected = nil,
	-- How often the client has left a connection or a loop: `_serve` goes on only where it was, and a handler may call it.
	_moves = 0,
	-- How often the program has ended a connection or an attempt to open one, or has shut the client down.
	_endings = 0,
	-- Steps since other threads had their turn.
	_steps = 0,
	-- The packet that `_receive_packet` returns.
	_received = nil,

	-- Of `mqtt.bridge`: the connection table of the last connector, the one that a thread sends through or false, that it
	-- receives from likewise, how to have keep alive looked at soon, and whether the connector may have received more.
	_connected = nil,
	_sending = nil,
	_receiving = nil,
	_check_soon = nil,
	_may_have_more = nil,

	-- Of `mqtt.pending`: the callbacks of requests by packet identifier, whom to tell that a request is lost, the waits
	-- and how many there were, when the first one is over, when the link wakes the client, and the waits that are over.
	_callbacks = NOTHING,
	_lost_requests = nil,
	_waits = nil,
	_wait_count = nil,
	_next_timeout = nil,
	_wake_at = nil,
	_over = nil,

	-- Of `mqtt.topic_handlers`: the handlers of topics, and their subscriptions. Of `mqtt.request`: the requests.
	_topics = false,
	_subscriptions = nil,
	_responses = nil,
	-- Of `mqtt.loop.copas`: how the client is served.
	_copas = nil,
}
Client.__index = Client

-- Sets a field that the client does not have. A method that is replaced is called from the next step on.
function Client:__newindex(name, value)
	rawset(self, name, value)
	if Client[name] ~= nil then
		rawset(self, "_moves", self._moves + 1)
	end
end

function Client:__tostring()
	return str_format("mqtt.client{id=%q}", tostring(self.opts.id))
end

-- The TLS settings for a connection, made once for each value of the option `secure`. Raises on bad ones.
local function tls_settings(self, conn)
	if not conn.secure then
		return nil
	end
	local params = conn.secure_params or false
	if self._tls_params ~= params then
		self._tls, self._tls_params = target.tls(conn), params
	end
	return self._tls
end

-- Where a native connection goes to, and how, as the core takes it.
local function native_target(self, conn)
	return conn.protocol, conn.host, conn.port, conn.path, tls_settings(self, conn), self.opts.ws_headers,
		self.opts.proxy
end

-- Returns what is wrong with the options, which the program may have changed, or nil.
local function check_options(self)
	if self._is_collected then
		return COLLECTED
	end
	return options.check_changed(self.opts, self._version)
end

-- Tells the session which options count from now on. Returns true, or nil and an error message.
local function configure(self)
	local err = check_options(self)
	if err then
		return nil, err
	end
	local timeout, responses = self.connection and self.connection.connack_timeout, self._responses
	return self._link:configure(options.session(self.opts, timeout, responses and responses.name))
end

-- Lua has collected a client that may still be connected, or have requests under way: those who wait for them are told.
-- Whoever collects garbage is not to be blamed for the error of a handler.
local function collected(client)
	if client.connection or client._waits and next(client._waits) then
		-- Nobody will come back to it: what is kept for the next connection has to go out on this one.
		client._link:leave()
		client._is_collected = true
		client.first_connect, client.opts.reconnect = false, false
		if host.is_nowhere() then
			return
		end
		local ok, err
		if client.connection then
			ok, err = pcall(client.close_connection, client, "garbage")
		else
			ok, err = pcall(client._end_waits, client, nil, nil, COLLECTED)
		end
		if not ok then
			pcall(log.error, log, "[LuaMQTT] client '%s' was collected, and a handler of that raised an error: %s",
				client.opts.id, tostring(err))
		end
	end
end

-- Has `collected` called for a client when Lua collects what this returns, which the client has to hold; that is before
-- anything is collected that was made earlier.
local guard
-- The program may have a global function with the name of a library: only the list of loaded modules is reliable.
local debug_library = package.loaded.debug
if debug_library.setfenv then
	-- Lua 5.1 has no finalizers of tables.
	local newproxy, getfenv, setfenv = newproxy, debug_library.getfenv, debug_library.setfenv
	local first = newproxy(true)
	getmetatable(first).__gc = function(proxy)
		if proxy ~= first then
			collected(getfenv(proxy))
		end
	end
	function guard(client)
		return setfenv(newproxy(first), client)
	end
else
	local mt = {
		__gc = function(held)
			collected(held[1])
		end,
	}
	function guard(client)
		return setmetatable({ client }, mt)
	end
end

-- Gives a connection table the metatable that its connector wants. Raises if there is none.
local function set_connector(self, conn)
	if self._token then
		return setmetatable(conn, self.opts.connector)
	end
	target.check_connector(self.opts, conn)
	local class, err = bridge.class(self.opts.connector)
	if not class then
		error(err, 0)
	end
	return setmetatable(conn, class)
end

-- A new connection table for a broker, which is given as `Brokers:next` returns it. Raises on bad options.
local function new_connection(self, ...)
	local conn
	conn, self._from_uri = target.new(self.opts, self._from_uri, ...)
	return conn
end

-- Checks what the options say of each broker. Raises if that is of no use.
local function check_brokers(self)
	local opts = self.opts
	local uris = type(opts.uri) == "table" and opts.uri or { opts.uri }
	local conns, secure = {}, false
	-- The first one last: what its uri says is what the options show.
	for i = #uris, 1, -1 do
		local ok, conn = pcall(new_connection, self, uris[i])
		if not ok then
			error(uris == opts.uri and str_format("uri[%d]: %s", i, conn) or conn, 0)
		end
		conns[i], secure = conn, secure or conn.secure
	end
	if bridge.is_native(opts.connector) and not (secure and (opts.ssl_module or "ssl") ~= "ssl") then
		-- Tells the ioloop that this client says by itself when it has something to do.
		self._token = self._link:token()
	end
	for _, conn in ipairs(conns) do
		set_connector(self, conn)
		if self._token then
			local ok, err = core.check_target(native_target(self, conn))
			if not ok then
				error(err, 0)
			end
		else
			conn:validate()
		end
	end
end

--- Create and initialize MQTT client instance. Typically this is not called directly, but through `Client.create`.
-- @tparam table opts client creation options; copied, so one table may serve several clients
-- @tparam string|table opts.uri MQTT broker uri to connect, `[mqtt[s]://][username[:password]@]hostname[:port]`; for
-- WebSocket `ws[s]://[username[:password]@]hostname[:port][/path]`, the path being `/mqtt` unless given; for a Unix
-- socket `unix:///path`. Any option given explicitly takes precedence over that part of the uri. Or a list of them: the
-- brokers are tried in turn
-- without delay, each with the credentials of its own uri; after all have failed comes the delay of `reconnect`, or the
-- end if that is not set. When a connection is lost its broker is tried first. A table of TLS settings (`secure`) then
-- counts for those that are `mqtts://` or `wss://`, or have no scheme
-- @tparam boolean|string opts.clean clean session start flag, use "first" to start clean only on first connect
-- @tparam[opt] string opts.protocol "mqtt", "mqtts", "ws" or "wss", the scheme for a uri without; to a scheme it may
-- only add TLS
-- @tparam[opt] string opts.username username for authorization on MQTT broker
-- @tparam[opt] string opts.password password for authorization on MQTT broker; with MQTT 3.1.1 not without username
-- @tparam[opt] string opts.host hostname or address of the MQTT broker
-- @tparam[opt] int opts.port port number, defaults to 1883 for plain and 8883 for secure connections, 80 and 443 for
-- WebSocket
-- @tparam[opt=4] number opts.version MQTT protocol version, `mqtt.v311` or `mqtt.v50`
-- @tparam[opt] string opts.id MQTT client identifier, by default 31 characters of which 64 bits are random (a broker
-- need not take more than 23); with MQTT 5.0, "" lets the broker assign one, which then takes the place of this option:
-- the next connect finds the same session
-- @tparam[opt=false] boolean|table opts.secure use TLS: true for the defaults, or a table as LuaSec takes it, see the
-- guide on TLS
-- @tparam[opt] string opts.proxy connect through this proxy, `http://[username[:password]@]hostname[:port]` (CONNECT
-- with basic authorization, port 80 unless given) or the same with `socks5://` (port 1080). It looks the broker's name
-- up. Without effect on Unix sockets. It takes a native connection, as WebSocket and Unix sockets do
-- @tparam[opt] table opts.ws_headers header fields to send with the request for a WebSocket, such as
-- `{ Authorization="Bearer ..." }`
-- @tparam[opt] table opts.will will message `{ topic="...", payload="..." }` with the optional fields qos, retain and,
-- for MQTT 5.0, properties and user_properties
-- @tparam[opt=60] number opts.keep_alive seconds without traffic after which a PINGREQ is sent; 0 switches that off
-- @tparam[opt] table opts.properties for MQTT 5.0 only: CONNECT properties
-- @tparam[opt] table opts.user_properties for MQTT 5.0 only: CONNECT user properties
-- @tparam[opt=false] boolean|number|table opts.reconnect reconnect after the connection has been lost, not before this
-- many seconds have passed since the last attempt; true means 30. Or a table with the optional fields `min` (1 second
-- by default), `max` (60) and `jitter` (0.5): `min` seconds, twice as long after each further attempt that fails, but
-- not longer than `max`, less a random part of up to `jitter` (0 to 1) of that; `min` again after one that held for
-- longer than the next delay, and 5 seconds at least, or that the program ended. See also `Client:shutdown`.
-- @tparam[opt=30] number opts.connect_timeout seconds that connecting may take: name, TCP, proxy, TLS, WebSocket and
-- CONNACK together; the CONNACK has a tenth of it in any case. A connector's `timeout` counts for opening unless this
-- is given; connectors look names up without a limit, and that on LuaSocket tries each address of a name for so long.
-- Where hundreds of clients connect at once they have their turns, and the time counts from there
-- @tparam[opt=false] boolean opts.follow_server_reference for MQTT 5.0 only: connect to the server that the broker
-- refers to in a CONNACK or DISCONNECT: at once, but after the delay of `reconnect` if that server refers further. With
-- "Use another server" until that fails; with "Server moved" also later, before the brokers of `uri`, until one of
-- those accepts again. That server gets the credentials meant for the broker, by TLS if the broker is reached by TLS
-- @tparam[opt=false] boolean opts.auto_ack acknowledge each message when all its handlers have returned, unless one of
-- them has done so. If one raises an error, the message is not acknowledged
-- @tparam[opt] number opts.ping_timeout seconds that the broker may take to answer a PINGREQ, `keep_alive` by default
-- @tparam[opt] number opts.max_packet_size largest packet accepted from the broker, in bytes; one of MQTT 5.0 is told
-- @tparam[opt] table opts.queue accept publishes without a connection, and send them in order when there is one: a
-- table with the optional fields `max_messages` (1000 by default), `max_bytes` (1 MiB) and `when_full`, "reject" (the
-- default: `publish` returns false and an error message) or "drop_oldest" (of those that were never sent)
-- @tparam[opt=false] boolean opts.resubscribe renew subscriptions when the broker has lost them with its session
-- @tparam[opt=20] number opts.server_receive_maximum for MQTT 3.1.1 only: how many QoS 2 messages the broker takes at a
-- time, which one of MQTT 5.0 says itself. More makes publishing faster, but what is too much for it the broker may
-- lose: mosquitto does above its `max_inflight_messages`
-- @tparam[opt=false] boolean opts.topic_aliases for MQTT 5.0 only: send aliases in place of topics, as many as the
-- broker takes
-- @tparam[opt] table opts.connector what opens, reads and writes the network connection: a class, see `mqtt.connector`,
-- or a function table of luamqtt 3.x, see `mqtt.connector.v3`
-- @tparam[opt="ssl"] string opts.ssl_module name of the LuaSec-compatible module to do TLS with. Another one than "ssl"
-- takes a connector: without one, the connection goes through `mqtt.connector.luasocket`, in Copas threads
-- `mqtt.connector.copas`
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
	-- What the module `mqtt.connector` returns.
	own.connector = own.connector or native
	own.id = own.id or str_format("luamqtt-v%s-%s", const._VERSION:gsub("%D", "-"), core.random_hex(16))

	self.opts = own
	if own.version ~= Client._version then
		self._version = own.version
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
	configure(self)
	self._session_mt = packet.new_session_mt()
	local ok
	ok, err = pcall(check_brokers, self)
	if not ok then
		error(err, 3)
	end
	-- After the connector has loaded what it needs: Lua 5.1 unloads libraries in C with their finalizers, the last first.
	self._brokers.guard = guard(self)
	err = options.check_connect(own, opts)
	if err then
		error(err, 3)
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
-- `connection.close_reason` (string) says why
-- @tparam function events.shutdown `function(client)`: upon `Client:shutdown`
-- @tparam function events.subscribe `function(suback_packet, client)`: on a SUBACK
-- @tparam function events.unsubscribe `function(unsuback_packet, client)`: on an UNSUBACK
-- @tparam function events.message `function(publish_packet, client)`: on a PUBLISH, that is a message
-- @tparam function events.acknowledge `function(ack_packet, client)`: on a PUBACK or PUBREC
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
		-- Of nil no table can be made.
		events = { [events == nil and NOTHING or events] = func == nil and NOTHING or func }
	elseif count > 1 or type(events) ~= "table" then
		error("invalid arguments: expected a table of handlers, or an event name and a handler", 2)
	end
	for event, handler in pairs(events) do
		if type(event) ~= "string" then
			error("expecting event to be a string", 2)
		elseif type(handler) ~= "function" then
			error("expecting func to be a function", 2)
		elseif not self.handlers[event] then
			error("invalid event '" .. event .. "' to handle", 2)
		end
	end
	for event, handler in pairs(events) do
		local handlers = self.handlers[event]
		handlers[#handlers + 1] = handler
	end
end

--- Remove given function handler for specified event. Inside a handler of that event this takes effect after all of its
-- handlers have been called.
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
	-- A new list, because the old one may be the one that is being gone through.
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

-- Calls the handlers of an event, all of them; then raises the first error that one of them has raised.
function Client:handle(event, ...)
	local handlers = self.handlers[event]
	if not handlers then
		error("invalid event '" .. tostring(event) .. "' to handle", 2)
	end
	local handler = handlers[1]
	if handlers[2] then
		call_all(handlers, 1, nil, ...)
	elseif handler then
		-- One handler is the rule: it costs less this way.
		handler(...)
		if handlers[2] then
			-- It has added others.
			call_all(handlers, 2, nil, ...)
		end
	end
end

-- Whether the first connect goes on: there are brokers in the list that have not been tried.
local function is_first_pass(self)
	return self.first_connect and self._brokers:is_midway()
end

-- Tells those who wait for something that a connection has ended, or the attempt to open one.
local function tell_waiting(self, reason)
	local message, pck = self._failure or reason, self._ended_by
	self._failure, self._ended_by = nil, nil
	if self._waits then
		local goes_on = self.connection or self._opening or self.opts.reconnect or is_first_pass(self)
		self:_connection_ended(message, pck, reason == CLOSED_BY_CLIENT or not goes_on)
	end
end

-- The coroutines in which `fail` is at work, by client. One that has been collected nobody will resume.
local closers = setmetatable({}, { __mode = "kv" })

-- Lets each `_serve` that is at work know that the client leaves its connection or its loop.
function Client:_note_move()
	if self.connection then
		self._moves = self._moves + 1
	end
end

-- Ends the connection, or the attempt to open one. With `flush`, in seconds, everything requested before is still sent:
-- so long this waits for it at most, the rest goes on in the background.
local function close(self, reason, flush)
	local conn = self.connection
	if conn or self._opening then
		if not self._closing then
			-- It has not failed, it is over: without `reconnect` only a call connects again.
			self.first_connect = false
			self._endings = self._endings + 1
		end
		self._brokers:ended(reason == CLOSED_BY_CLIENT)
	end
	self:_note_move()
	self.connection, self._direct = nil, nil
	self._opening = nil
	self._closing, closers[self] = nil, nil
	-- First: a connector may yield, and then another thread may connect again.
	self._link:close(flush)
	local failure
	if conn then
		if not self._token then
			failure = try(nil, bridge.close, self, conn)
		end
		log:info("[LuaMQTT] client '%s' connection closed (reason: %s)", self.opts.id, reason)
		conn.close_reason = reason
		failure = try(failure, self.handle, self, "close", conn, self)
	end
	raise(try(failure, tell_waiting, self, reason))
end

-- Reports an error that costs the connection: an error event, with the CONNACK that refused it also a connect event,
-- and the close event. If the thread ends in a handler, the next step closes the connection.
local function fail(self, message, reason, pck)
	log:error("[LuaMQTT] client '%s' %s", self.opts.id, message)
	local conn = self.connection
	self._closing, closers[self] = reason, coroutine_running()
	self._failure, self._ended_by = message, pck
	self._brokers:ended()
	local failure = try(nil, self.handle, self, "error", message, self, pck)
	if pck and pck.type == packet_type.CONNACK then
		failure = try(failure, self.handle, self, "connect", pck, self)
	end
	self.first_connect = is_first_pass(self)
	-- The handlers may have closed it already, and opened another.
	if self.connection == conn then
		failure = try(failure, self.close_connection, self, reason)
	end
	raise(failure)
end

-- Whether `fail` is still at work, in another coroutine.
local function is_closing(self)
	local closer = closers[self]
	return closer and closer ~= coroutine_running() and coroutine_status(closer) ~= "dead"
end

-- Ends a request that is in the session's send buffer already: a connector has to write it. The native connection does
-- so by itself. Returns true, or false and an error message.
local function sent(self, what)
	self.send_time = os_time()
	if self._token or bridge.is_sending(self) or bridge.hand_over(self, sent, what) then
		return true
	end
	local ok, err = bridge.flush(self)
	if ok then
		return true
	end
	err = "failed to send " .. what .. ": " .. tostring(err)
	if not self._closing then
		-- Else it is being told already, and a handler tries to send more.
		fail(self, err, "error")
	end
	return false, err
end

-- Remembers the callback of a request, or that it has none.
local function set_callback(self, packet_id, callback)
	if callback and self._callbacks == NOTHING then
		self._callbacks = {}
	end
	self._callbacks[packet_id] = callback
end

-- Logs what only MQTT 5.0 has and 3.1.1 ignores, so that a program may serve both with one table.
local function note_ignored(self, what, opts, names)
	for _, name in ipairs(names) do
		if opts[name] ~= nil then
			log:debug("[LuaMQTT] client '%s' ignores %s of a %s: only MQTT 5.0 has that", self.opts.id, name, what)
		end
	end
end

-- The fields of requests that only MQTT 5.0 has.
local V50_FIELDS = { "properties", "user_properties" }
local V50_SUBSCRIBE_FIELDS = { "no_local", "retain_as_published", "retain_handling", "properties", "user_properties" }

-- Makes a request of the session: calls the method of the link. Returns what that returned, or false and an error
-- message. Raises where the arguments are to blame, in the name of the caller's caller: not to be used as a tail call.
-- The callback, if any, is for the packet identifier that the method returns, and in place before the answer comes.
local function request(self, callback, what, method, ...)
	if not self.connection then
		return false, NOT_OPENED
	end
	local link = self._link
	local result, err, misuse = link[method](link, ...)
	if not result then
		if misuse then
			error(err, 3)
		end
		return false, "failed to send " .. what .. ": " .. err
	end
	log:debug("[LuaMQTT] client '%s' sending %s", self.opts.id, what)
	if result ~= true then
		set_callback(self, result, callback)
	end
	local ok
	ok, err = sent(self, what)
	-- If not, the connection is gone, which has been told; an exchange that is kept goes on on the next one.
	if not ok and (result == true or not keeps_exchanges(self.opts)) then
		return false, err
	end
	return result
end

--- Subscribe to specified topic. Returns the SUBSCRIBE packet id and calls optional callback when subscription will be
-- created on broker
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
function Client:subscribe(opts)
	local problem = arguments.subscribe(opts)
	if problem then
		error(problem, 2)
	end
	local no_local, retain_as_published, retain_handling = opts.no_local, opts.retain_as_published, opts.retain_handling
	if self._version ~= const.v50 then
		note_ignored(self, "SUBSCRIBE", opts, V50_SUBSCRIBE_FIELDS)
		no_local, retain_as_published, retain_handling = false, false, 0
	elseif type(retain_handling) == "boolean" then
		retain_handling = retain_handling and 1 or 0
	end
	local packet_id, err = request(self, opts.callback, "SUBSCRIBE", "subscribe", opts.topic, opts.qos or 0,
		no_local or false, retain_as_published or false, retain_handling or 0, opts.properties, opts.user_properties)
	if packet_id then
		return packet_id
	end
	return false, err
end

--- Unsubscribe from specified topic, and calls optional callback when subscription will be removed on broker
-- @tparam table opts subscription options
-- @tparam string opts.topic topic filter to unsubscribe
-- @tparam[opt] table opts.properties for MQTT v5.0 only: properties for unsubscribe operation
-- @tparam[opt] table opts.user_properties for MQTT v5.0 only: user properties for unsubscribe operation
-- @tparam[opt] function opts.callback `function(unsuback_packet, client)` called when the broker has answered
-- @return packet id on success or false and error message on failure
function Client:unsubscribe(opts)
	local problem = arguments.unsubscribe(opts)
	if problem then
		error(problem, 2)
	end
	if self._version ~= const.v50 then
		note_ignored(self, "UNSUBSCRIBE", opts, V50_FIELDS)
	end
	local packet_id, err = request(self, opts.callback, "UNSUBSCRIBE", "unsubscribe", opts.topic, opts.properties,
		opts.user_properties)
	if packet_id then
		return packet_id
	end
	return false, err
end

-- Whether there are other clients in the loop.
local function has_company(self)
	for _, item in ipairs(self.ioloop and self.ioloop.clients or {}) do
		if item ~= self and type(item) == "table" then
			return true
		end
	end
	return false
end

-- Whether waiting for the native connection would hold up no other client.
local function may_block(self)
	return self._token and not has_company(self) and not host.in_copas() and not host.openresty()
end

-- Publishes. Returns what the link's function returns.
local function send_publish(self, topic, payload, qos, retain, dup, packet_id, properties, user_properties)
	if properties or user_properties then
		if self._version ~= const.v50 then
			note_ignored(self, "PUBLISH", { properties = properties, user_properties = user_properties }, V50_FIELDS)
		end
		return self._link:publish(topic, payload, qos or 0, retain or false, dup or false, packet_id, properties,
			user_properties)
	end
	local may_wait = type(payload) == "string" and #payload >= LARGE_PAYLOAD and may_block(self)
	return core_publish(self._handle, topic, payload, qos, retain, dup, packet_id, may_wait)
end

-- Whether the connection, for which a publish has waited in vain, has still taken nothing.
local function is_stuck(self)
	if self._link:outgoing_bytes() < self._stuck or not self._link:is_full() then
		self._stuck = nil
		self._direct = self._token and self.connection and self._handle
	end
	return self._stuck ~= nil
end

-- Remembers the callback of a message that has been accepted, and forgets those of the messages that had to make room.
local function await_answer(self, packet_id, callback, dropped)
	for _, other in ipairs(dropped or {}) do
		self:_forget_request(other, "it had to make room in the queue")
	end
	if packet_id ~= 0 then
		set_callback(self, packet_id, callback)
	end
end

-- What is left to do for a message that has been accepted. Returns what `publish` returns.
local function published(self, packet_id, callback, full)
	if full then
		self:_wait_for_room()
	end
	if packet_id == 0 then
		if callback then
			callback("no ack for QoS 0 message", self)
		end
		return true
	end
	return packet_id
end

--- Publish message to broker.
-- The native connection gathers messages that are published at once and sends them together, but for those of QoS 0
-- with 128 KiB or more, which are sent at once. It never refuses one because of a full socket: while more than 1 MiB
-- waits to be written, this waits, for as long as the connection takes something at least every 30 seconds, and only
-- where that holds up nobody else: in a Copas thread, inside nginx, or if the client is the only one in its loop. A
-- message is refused when the connection takes nothing, when 16 MiB wait to be written or acknowledged, and when all
-- 65535 packet identifiers are in use, as they are until the answers have been handled. One accepted with QoS 1 or 2
-- is sent again on the next connection if this one is lost (with `reconnect`, `queue`, or without a clean start).
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
-- @return true or packet id on success or false and error message on failure
function Client:publish(opts)
	local direct = self._direct
	if direct and publish_plain then
		local packet_id, time, full, dropped, callback = publish_plain(direct, opts)
		if packet_id then
			self.send_time = time
			if full or dropped or callback then
				await_answer(self, packet_id, callback, dropped)
				return published(self, packet_id, callback, full)
			end
			return packet_id == 0 or packet_id
		end
	end

	if type(opts) ~= "table" then
		error(arguments.publish(opts), 2)
	end
	local topic, payload, qos, retain, dup = opts.topic, opts.payload, opts.qos, opts.retain, opts.dup
	local properties, user_properties, callback = opts.properties, opts.user_properties, opts.callback
	-- The session looks at the fields of a plain message itself.
	if properties ~= nil or user_properties ~= nil or not self.connection
		or callback ~= nil and type(callback) ~= "function" then
		local problem = arguments.publish(opts)
		if problem then
			error(problem, 2)
		end
	end
	if not (self.connection or self.opts.queue) then
		return false, NOT_OPENED
	elseif self._stuck and is_stuck(self) then
		return false, "failed to send PUBLISH: " .. STUCK
	end

	local packet_id, time, full, dropped = send_publish(self, topic, payload, qos, retain, dup, opts.packet_id, properties,
		user_properties)
	if packet_id == false and self:_wait_for_room() then
		packet_id, time, full, dropped = send_publish(self, topic, payload, qos, retain, dup, opts.packet_id, properties,
			user_properties)
	end
	if not packet_id then
		local err, is_misuse = time, full
		if is_misuse then
			error(arguments.publish(opts) or err, 2)
		end
		return false, "failed to send PUBLISH: " .. err
	end
	-- Before anything that yields: the answer may come meanwhile.
	await_answer(self, packet_id, callback, dropped)
	if direct then
		self.send_time = time
	elseif self.connection then
		local ok, err = sent(self, "PUBLISH")
		-- If not, the connection is gone, which has been told; a message that is kept will be sent on the next one.
		if not ok and (packet_id == 0 or not keeps_exchanges(self.opts)) then
			return false, err
		end
	end
	return published(self, packet_id, callback, full)
end

--- Acknowledge given received message.
-- Messages of QoS 1 and 2 are not acknowledged by the library itself, unless the option `auto_ack` is set, so that one
-- which the program could not handle is sent again by the broker after a reconnect.
-- @tparam packet_mt msg PUBLISH message to acknowledge
-- @tparam[opt=0] number rc for MQTT v5.0 only: the reason code of the PUBACK or PUBREC packet
-- @tparam[opt] table properties for MQTT v5.0 only: properties for PUBACK/PUBREC packets
-- @tparam[opt] table user_properties for MQTT v5.0 only: user properties for PUBACK/PUBREC packets
-- @return true on success or false and error message on failure
function Client:acknowledge(msg, rc, properties, user_properties)
	local direct = self._direct
	if direct and rc == nil and properties == nil and user_properties == nil then
		local time = core_acknowledge_message(direct, msg, self._session_mt)
		if time then
			self.send_time = time
			unacknowledged[msg] = nil
			return true
		end
	end
	if type(msg) ~= "table" or msg.type ~= packet_type.PUBLISH then
		error("expecting msg to be a publish packet", 2)
	end
	local err = arguments.reason(rc, properties, user_properties)
	if err then
		error(err, 2)
	end
	unacknowledged[msg] = nil
	local packet_id, qos, mt = msg.packet_id, msg.qos, getmetatable(msg)
	local is_over = mt ~= self._session_mt and packet.is_session_mt(mt)
	if not self.connection then
		if packet_id and qos == 2 and not is_over then
			-- Counts when the session is resumed.
			core_acknowledge(self._handle, packet_id, qos, rc or 0)
		end
		return false, NOT_OPENED
	elseif not packet_id or qos == 0 then
		return true
	elseif is_over then
		return false, "the session that this message belongs to is over"
	end
	local ok, misuse
	local what = qos == 1 and "PUBACK" or "PUBREC"
	if properties or user_properties then
		ok, err = request(self, nil, what, "acknowledge", packet_id, qos, rc or 0, properties, user_properties)
		if ok then
			return true
		end
		return false, err
	end
	ok, err, misuse = core_acknowledge(self._handle, packet_id, qos, rc or 0)
	if ok then
		return sent(self, what)
	elseif misuse then
		error(err, 2)
	end
	return false, "failed to send " .. what .. ": " .. err
end

-- Lets other threads run, or blocks in a method of the link for so many seconds at most. Returns false where that would
-- hold up another client, or the method says that it is in vain.
local function wait_in(self, method, seconds)
	if host.pause(ROOM_PAUSE) then
		return true
	elseif not may_block(self) then
		return false
	end
	local link = self._link
	return link[method](link, seconds) ~= false
end

-- Waits for a while until the broker has taken what its receive maximum keeps back, where waiting holds up nobody else.
local function drain(self)
	local link, deadline = self._link, core.now() + DRAIN_TIMEOUT
	while link:holds_back() do
		local rest, goes_on = deadline - core.now(), false
		if rest > 0 and self._token then
			goes_on = wait_in(self, "wait_until_sent", rest)
		elseif rest > 0 and not has_company(self) then
			goes_on = bridge.receive_aside(self)
		end
		if not goes_on then
			return
		end
	end
end

--- Send DISCONNECT packet to the broker and close the connection. When this returns, everything published before and
-- the DISCONNECT are on their way; for what the broker's receive maximum keeps back this waits a few seconds, where
-- that holds up nobody else. An attempt to connect that is under way is given up. Note: if the client is set to
-- automatically reconnect, it will do so. If you want to disconnect and NOT reconnect, use `Client:shutdown`.
-- @tparam[opt=0] number rc for MQTT v5.0 only: the Disconnect Reason Code value
-- @tparam[opt] table properties for MQTT v5.0 only: properties for the DISCONNECT packet
-- @tparam[opt] table user_properties for MQTT v5.0 only: user properties for the DISCONNECT packet
-- @return true on success or false and error message on failure
function Client:disconnect(rc, properties, user_properties)
	local err = arguments.reason(rc, properties, user_properties)
	if err then
		error(err, 2)
	end
	if bridge.hand_over(self, Client.disconnect, rc, properties, user_properties) then
		return true
	elseif self._opening then
		self:close_connection(CLOSED_BY_CLIENT)
	end
	local conn = self.connection
	drain(self)
	if self.connection ~= conn then
		return false, NOT_OPENED
	end
	local ok
	ok, err = request(self, nil, "DISCONNECT", "disconnect", rc or 0, properties, user_properties)
	if not ok then
		if not self.connection then
			tell_waiting(self, CLOSED_BY_CLIENT)
		end
		return false, err
	end
	if not self._token then
		bridge.drain(self)
	end
	if self.connection == conn then
		close(self, CLOSED_BY_CLIENT, may_block(self) and FLUSH_TIME or FLUSH_TURN)
	end
	return true
end

--- Shuts the client down. Disconnects if still connected, and disables reconnecting. If the client is added to an
-- ioloop, this will prevent an automatic reconnect. Raises the "shutdown" event.
-- @param ... see `Client:disconnect`
-- @return `true`
function Client:shutdown(...)
	local err = arguments.reason(...)
	if err then
		error(err, 2)
	end
	log:debug("[LuaMQTT] client '%s' shutting down", self.opts.id)
	self.first_connect = false
	self.opts.reconnect = false
	self._endings = self._endings + 1
	if bridge.hand_over(self, Client.shutdown, ...) then
		return true
	end
	local failure, ok = try(nil, self.disconnect, self, ...)
	if not (failure or ok) and self.connection and not self._closing then
		-- It has failed, and nobody may be left to find out.
		failure = try(nil, self.close_connection, self, CLOSED_BY_CLIENT)
	end
	-- A loop that waits until it is time to reconnect is to see that there is no such time any more.
	self._link:wake()
	failure = try(failure, self.handle, self, "shutdown", self)
	raise(failure)
	return true
end

--- Send AUTH packet to authenticate client on broker, in MQTT v5.0 protocol
-- @tparam[opt=0] number rc Authenticate Reason Code
-- @tparam[opt] table properties properties for the AUTH packet
-- @tparam[opt] table user_properties user properties for the AUTH packet
-- @return true on success or false and error message on failure
function Client:auth(rc, properties, user_properties)
	local err = arguments.reason(rc, properties, user_properties)
	if not err and self._version ~= const.v50 then
		err = "allowed only in MQTT v5.0 protocol"
	end
	if err then
		error(err, 2)
	end
	local ok
	ok, err = request(self, nil, "AUTH", "auth", rc or 0, properties, user_properties)
	if ok then
		return true
	end
	return false, err
end

--- Immediately close established network connection, without graceful session finishing with DISCONNECT packet.
-- Also ends an attempt to connect.
-- @tparam[opt] string reason the reason string of connection close
-- @return `true`
function Client:close_connection(reason)
	if reason ~= nil and type(reason) ~= "string" then
		error("expecting reason to be a string", 2)
	end
	if not bridge.hand_over(self, Client.close_connection, reason) then
		close(self, reason or "unspecified")
	end
	return true
end

-- A new connection table for the broker whose turn it is. Raises if the options have become bad.
local function next_connection(self)
	local err = check_options(self)
	if err then
		error(err, 0)
	end
	return set_connector(self, new_connection(self, self._brokers:next(self.opts.uri)))
end

-- Deals with what the link has, defined below.
local handle_event

-- Deals with what the last connection has left: the answers that it has brought and nobody has taken.
local function take_rest(self)
	local function take(kind, ...)
		if kind == "woken" then
			self:_woken()
		elseif kind == "broken" then
			-- The link belongs to the parent of a fork, and says so each time.
			return false
		elseif kind then
			handle_event(self, kind, ...)
		end
		return kind and not (self.connection or self._opening)
	end
	while take(core_pop(self._handle, self._session_mt)) do -- luacheck: ignore 542
		-- until there is none
	end
end

-- Starts to open a native connection. Raises if the options have become bad.
local function begin_open(self)
	local conn = next_connection(self)
	local ok, err = self._link:open(connect_timeout(self.opts), native_target(self, conn))
	if not ok then
		error(err, 0)
	end
	log:info("[LuaMQTT] client '%s' connecting to %s%s%s", self.opts.id, target.place(conn))
	self._brokers.last_attempt = core.now()
	self._opening = conn
end

-- The connection is open: what is left of the time for connecting is for the CONNACK.
local function leave_rest_to_connack(self)
	local whole = connect_timeout(self.opts)
	local rest = math_max(self._brokers.last_attempt + whole - core.now(), whole * CONNACK_PART)
	-- In milliseconds: an error message will show it.
	self.connection.connack_timeout = math_ceil(rest * 1000) / 1000
end

-- The native connection is open.
local function opened(self)
	self.connection, self._opening = self._opening, nil
	-- What stands for the link, while the native connection takes what is sent.
	self._direct = self._token and self._handle
	if self._stuck then
		self._stuck = nil
	end
	leave_rest_to_connack(self)
end

-- The connection could not be opened. Returns the error message.
local function open_failed(self, reason)
	self._link:close()
	self._opening = nil
	self._brokers:ended()
	self.first_connect = is_first_pass(self)
	local message = "failed to open network connection: " .. reason
	log:error("[LuaMQTT] client '%s' %s", self.opts.id, message)
	raise(try(try(nil, self.handle, self, "error", message, self), tell_waiting, self, message))
	return message
end

--- Start connecting to broker: opens the network connection and sends CONNECT. Waits for the former, for
-- `connect_timeout` at most; in a Copas thread only the thread waits. Whether the broker accepts is told by the
-- `connect` event. Of a list of brokers each call tries the next one.
-- @return true on success or false and error message on failure
function Client:start_connecting()
	local ok, err = self:open_connection()
	if ok and not (self.connection and self.connection.connect_sent) then
		ok, err = self:send_connect()
	end
	if not ok then
		self.first_connect = is_first_pass(self)
		return false, err
	end
	return true
end

--- Tells what the client has done so far, on all its connections.
-- @treturn table `messages_sent` and `messages_received` (repetitions not counted), `bytes_sent` and `bytes_received`
-- (without TLS and WebSocket), `in_flight` (QoS 1 and 2 messages sent and not acknowledged to the end), `queued` and
-- `queued_bytes` (what was accepted and not sent yet), `dropped` (messages accepted and never sent), `reconnects`,
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

--- Low-level methods
-- @section low-level

--- Send PINGREQ packet. The library does so by itself, see `keep_alive` in `Client:__init`.
-- @return true on success or false and error message on failure
function Client:send_pingreq()
	local ok, err = request(self, nil, "PINGREQ", "ping")
	if ok then
		return true
	end
	return false, err
end

--- Open network connection to the broker, and wait until it is open, for `connect_timeout` at most; in a Copas thread
-- only the thread waits.
-- @return true on success or false and error message on failure
function Client:open_connection()
	if not (self.connection or self._opening) then
		local endings = self._endings
		take_rest(self)
		if self._endings ~= endings and not (self.connection or self._opening) then
			-- By a handler of an answer, or by another thread while that handler waited.
			return false, GIVEN_UP
		end
	end
	if self.connection then
		return true
	elseif self._is_collected then
		-- In its `close` handler, perhaps at the end of the program, which is not to be held up.
		return false, COLLECTED
	elseif not self._token then
		self._brokers.last_attempt = core.now()
		local ok, err = bridge.open(self, next_connection(self), open_failed)
		if ok then
			leave_rest_to_connack(self)
			return true
		end
		return false, err
	end
	if not self._opening then
		begin_open(self)
	end
	local link, conn = self._link, self._opening
	while self._opening == conn do
		-- A thread that looks now and then, rather than one that waits for the link: another may take what it waits for.
		if not (host.pause(OPEN_PAUSE) or host.wait(link)) then
			link:wait(IDLE_WAIT)
		end
		if self._opening == conn then
			local kind, message = core_pop(self._handle, self._session_mt)
			if kind == "opened" then
				opened(self)
			elseif kind == "open_failed" or kind == "broken" then
				return false, open_failed(self, message)
			elseif kind == "woken" then
				self:_woken()
			end
		end
	end
	if self.connection then
		return true
	end
	return false, GIVEN_UP
end

--- Send CONNECT packet into opened network connection
-- @return true on success or false and error message on failure
function Client:send_connect()
	local conn, opts = self.connection, self.opts
	if not conn then
		return false, NOT_OPENED
	end
	log:info("[LuaMQTT] client '%s' sending CONNECT (user '%s')", opts.id, opts.username or "not specified")
	local ok, err = configure(self)
	if ok and opts.clean and not keeps_exchanges(opts) then
		-- The broker starts anew, and so do the packet identifiers.
		self._callbacks, self._lost_requests = nil, nil
	end
	if self._version ~= const.v50 then
		note_ignored(self, "CONNECT", opts, V50_FIELDS)
	end
	if ok then
		ok, err = self._link:connect(options.connect_fields(opts))
	end
	if not ok then
		err = "failed to send CONNECT: " .. err
		fail(self, err, "error")
		return false, err
	end
	ok, err = sent(self, "CONNECT")
	if not ok then
		return false, err
	end
	conn.connect_sent = true
	if not self._token then
		-- The CONNACK is due.
		self._check_soon()
	end
	return true
end

-- The events of the packets that answer a request.
local ANSWER_EVENTS = {
	[packet_type.SUBACK] = "subscribe",
	[packet_type.UNSUBACK] = "unsubscribe",
	[packet_type.PUBACK] = "acknowledge",
	[packet_type.PUBREC] = "acknowledge",
}

-- The broker's answer to CONNECT. Returns true, or false and an error message.
local function connack_received(self, connack)
	local conn, opts = self.connection, self.opts
	if not conn then
		-- closed before its thread came to this
		return false, NOT_OPENED
	end
	conn.connack = connack
	if connack.rc ~= 0 then
		local err = str_format("CONNECT failed with CONNACK [rc=%d]: %s", connack.rc, connack:reason_string())
		fail(self, err, "connection failed", connack)
		return false, err
	end
	if self._responses then
		self:_revise_requests(connack)
	end
	log:info("[LuaMQTT] client '%s' connected successfully to '%s%s%s'", opts.id, target.place(conn))
	if opts.clean == "first" then
		opts.clean = false
		-- What this connection leaves is taken up on the next one.
		configure(self)
	end
	if not self._token then
		-- The broker may want another keep alive.
		self._check_soon()
	end
	local failure
	if self._subscriptions then
		failure = try(nil, self._renew_subscriptions, self, connack)
		if self.connection ~= conn then
			raise(failure)
			return false, NOT_OPENED
		end
	end
	if self._responses then
		failure = try(failure, self._renew_requests, self)
		if self.connection ~= conn then
			raise(failure)
			return false, NOT_OPENED
		end
	end
	failure = try(failure, self.handle, self, "connect", connack, self)
	self.first_connect = false
	if self._waits then
		failure = try(failure, self._end_waits, self, "connect", connack)
	end
	raise(failure)
	return true
end

-- Returns a result and an error message, or the result alone if there is no error.
local function outcome(result, err)
	if err == nil then
		return result
	end
	return result, err
end

-- What `step` returns when a connection, or the attempt to open one, has come to its end. A handler may have opened
-- another.
local function gone(self, err)
	local goes_on = self.connection or self._opening or self.opts.reconnect or is_first_pass(self)
	return outcome(goes_on and 0 or nil, err)
end

-- The reason codes with which a server refers to others (4.11).
local USE_ANOTHER_SERVER, SERVER_MOVED = 0x9C, 0x9D
-- The reason code when another client has connected with the same client identifier (3.14.2.1).
local SESSION_TAKEN_OVER = 0x8E

-- Follows the server reference of a CONNACK or DISCONNECT of 5.0, if there is one and that is allowed.
local function follow_reference(self, pck)
	local reference = pck.properties and pck.properties.server_reference
	if not (reference and self.opts.follow_server_reference)
		or pck.rc ~= USE_ANOTHER_SERVER and pck.rc ~= SERVER_MOVED then
		return
	end
	for _, ignored in ipairs(self._brokers:refer(reference, pck.rc == SERVER_MOVED)) do
		log:warn("[LuaMQTT] client '%s' ignores server reference %q: expecting host[:port]", self.opts.id, ignored)
	end
end

-- What a CONNACK means for the next connection. At once: its handlers may run in another thread, later.
local function note_connack(self, connack)
	if connack.rc ~= 0 then
		return follow_reference(self, connack)
	end
	self._brokers:succeeded()
	local assigned = connack.properties and connack.properties.assigned_client_identifier
	if assigned and self.opts.id == "" then
		-- The session is known by it (3.2.2.3.7).
		self.opts.id = assigned
	end
end

-- The broker ends the connection. Returns what `step` returns.
local function disconnect_received(self, disconnect)
	local reason = "disconnect received from broker"
	if (disconnect.rc or 0) == 0 then
		self:close_connection(reason)
		return 0
	end
	follow_reference(self, disconnect)
	reason = str_format("%s: %s [0x%02X]", reason, disconnect:reason_string(), disconnect.rc)
	local text = disconnect.properties.reason_string
	if text then
		reason = reason .. ": " .. text
	end
	local message = reason
	if disconnect.rc == SESSION_TAKEN_OVER then
		message = message .. ": another client uses this client identifier"
	end
	fail(self, message, reason, disconnect)
	return gone(self, reason)
end

-- A message that had to wait will not be sent: the broker does not take it, as the message says. Its callback is not
-- called.
local function dropped(self, packet_id, message)
	local failure = try(nil, self._forget_request, self, packet_id, message)
	message = str_format("failed to send what had to wait, packet id %d: %s", packet_id, message)
	log:error("[LuaMQTT] client '%s' %s", self.opts.id, message)
	raise(try(failure, self.handle, self, "error", message, self))
end

-- A received message, from what the link gives for it.
local function to_message(self, kind, a, b, c, d, e, f, g, h)
	local message = a
	if not BUILDS_MESSAGES then
		message = setmetatable(shape_publish[self._version](kind, a, b, c, d, e, f, g, h), self._session_mt)
	end
	if self.opts.auto_ack and message.qos ~= 0 then
		unacknowledged[message] = true
	end
	return message
end

-- Deals with a received packet. Returns what `step` returns.
local function received(self, pck)
	if self._receive_packet ~= Client._receive_packet then
		-- The program wants to see what is received, or to change it.
		local err
		self._received = pck
		pck, err = self:_receive_packet()
		self._received = nil
		if not pck then
			local conn = self.connection
			if not conn or err == nil or err == conn.signal_idle then
				-- There may be more behind what the program keeps to itself.
				return conn and 0 or -1
			end
			err = "failed to receive next packet: " .. tostring(err)
			fail(self, err, "error")
			return gone(self, err)
		end
	end
	local ok, err = self:handle_received_packet(pck)
	if ok then
		return 0
	end
	return gone(self, err)
end

-- Deals with what the link has. Returns what `step` returns.
function handle_event(self, kind, a, b, c, d, e, f, g, h, i)
	if kind == PUBLISH then
		local message = to_message(self, kind, a, b, c, d, e, f, g, h)
		if self._receive_packet ~= Client._receive_packet then
			return received(self, message)
		end
		local ok, err = self:handle_received_packet(message)
		if ok then
			return 0
		end
		return gone(self, err)
	elseif kind == "opened" then
		opened(self)
		local ok, err = self:send_connect()
		if ok then
			return 0
		end
		self.first_connect = is_first_pass(self)
		return gone(self, err)
	elseif kind == "open_failed" then
		return gone(self, open_failed(self, a))
	elseif kind == "closed" then
		-- After a DISCONNECT of ours the broker closes, perhaps before the thread that sent it comes to that.
		if self._link:is_failed() then
			self:close_connection(CLOSED_BY_CLIENT)
			return gone(self, CLOSED_BY_CLIENT)
		end
		local conn = self.connection
		fail(self, conn and conn.connack and CLOSED_BY_BROKER or CLOSED_BY_BROKER .. " before its CONNACK", CLOSED_BY_BROKER)
		return gone(self, CLOSED_BY_BROKER)
	elseif kind == "failed" or kind == "broken" then
		if kind == "broken" then
			-- For good.
			self.opts.reconnect = false
		end
		fail(self, a, "error")
		return gone(self, a)
	elseif kind == "dropped" then
		dropped(self, a, b)
		return 0
	elseif kind == "withdrawn" then
		self:_request_withdrawn(a, b)
		return 0
	elseif kind == "unrenewed" then
		log:error("[LuaMQTT] client '%s' %s", self.opts.id, a)
		self:handle("error", a, self)
		return 0
	end
	local pck = shape(self._version, kind, a, b, c, d, e, f, g, h, i)
	if kind == packet_type.CONNACK then
		if not a then
			self._session_mt = packet.new_session_mt()
		end
		note_connack(self, pck)
	elseif kind == packet_type.DISCONNECT then
		-- Here, since a thread that handles it later may find another connection.
		return disconnect_received(self, pck)
	end
	return received(self, pck)
end

-- Connects when this is the first time, or when it is time to reconnect. Returns what `step` returns.
local function implicit_connect(self)
	local reconnect = self.opts.reconnect
	if self._is_collected then
		return nil, COLLECTED
	elseif not self.first_connect and not reconnect then
		return nil, NOT_OPENED
	end
	local bad = options.check("reconnect", reconnect or false)
	if bad then
		error(bad, 0)
	end
	local now = core.now()
	local last = self._brokers.last_attempt
	local due = last and reconnect and last + self._brokers:delay(reconnect) or now
	if due > now then
		local at = math_min(due, self._next_timeout or due)
		local left = math_max(at - now, 0)
		if self._wake_at ~= at then
			-- Whoever waits for the link is woken when it is time.
			self._wake_at = at
			self._link:wake_after(left)
		end
		return left
	elseif self._token then
		begin_open(self)
		return -1
	end
	self._brokers.last_attempt = now
	local ok, err = self:start_connecting()
	if ok then
		return 0
	end
	return gone(self, err)
end

-- Deals with what the native connection has received if the session has given the connection up, for a PINGRESP that is
-- missing, say. Returns the error message, or nil.
local function check_failed(self)
	local conn = self.connection
	if not self._link:is_failed() then
		return nil
	end
	local wait, err
	repeat
		wait, err = self:step()
	until wait ~= 0 or err or self.connection ~= conn
	return err
end

--- Checks last message send, and sends a PINGREQ if necessary. The native connection does so by itself, whoever calls
-- this or not; with a connector in an external event loop it must be called. When using the included modules to add
-- clients (see `mqtt.loop`), this will be taken care of automatically.
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
function Client:check_keep_alive()
	local interval = self.opts.keep_alive
	if type(interval) ~= "number" or interval <= 0 then
		interval = KEEP_ALIVE_OFF
	end
	if not self.connection then
		return interval, NOT_OPENED
	end
	local err, soon
	if self._token then
		err = check_failed(self)
	elseif not self._closing and not bridge.hand_over(self, Client.check_keep_alive) then
		err, soon = bridge.check_keep_alive(self, handle_event)
		if self._next_timeout then
			self:_check_waits()
		end
	end
	local left = self:_at_most(soon or self._link:deadline() or interval)
	if err then
		return left, err
	end
	return left
end

-- Acknowledges a message that all handlers have dealt with, for the option `auto_ack`, unless the program has done so.
-- If that fails, the broker sends it once more.
local function acknowledge_handled(self, pck)
	if not unacknowledged[pck] then
		return
	end
	local ok, err = self:acknowledge(pck)
	if not ok then
		log:warn("[LuaMQTT] client '%s' could not acknowledge a message: %s", self.opts.id, err)
	end
end

-- What `step` does with the event that it has got from the link, or without one.
local function finish_step(self, kind, a, b, c, d, e, f, g, h, i)
	local link = self._link
	while not kind or kind == "woken" do
		if kind then
			self:_woken()
		elseif not (self.connection or self._opening) then
			local wait, err = implicit_connect(self)
			if wait ~= -1 then
				return outcome(wait, err)
			end
		elseif not host.wait(link) then
			return -1
		end
		kind, a, b, c, d, e, f, g, h, i = core_step(self._handle, self._session_mt)
	end
	return handle_event(self, kind, a, b, c, d, e, f, g, h, i)
end

--- Performs a single IO loop step. It will connect if not connected, will re-connect if set to. This should be called
-- repeatedly in a loop. When using the included modules to add clients (see `mqtt.loop`), this will be taken care of
-- automatically.
--
-- It never blocks: name resolution, connecting and the TLS handshake go on in the background over several steps. In a
-- Copas thread it waits, by yielding, for something to do.
--
-- The return value is the time after which this method must be called again. It can be called sooner, but shouldn't be
-- called later; or it is called when the descriptor that `Client:getfd` returns becomes readable.
-- @return[1] `-1`: idle, nothing was received.
-- @return[2] `0`: a packet was succesfully handled, so retry immediately, in case additional data is waiting.
-- @return[3] `>0`: The reconnect timer needs a delay before it can retry (calling sooner is not a problem, it will only
-- reconnect when the delay has actually passed)
-- @return[4] nil
-- @return[4] error message
function Client:step()
	local steps = self._steps
	if steps == STEPS_PER_TURN then
		steps = 0
		host.give_way(self._link)
	end
	self._steps = steps + 1
	local reason = self._closing
	if reason and not is_closing(self) then
		self.first_connect = is_first_pass(self)
		self:close_connection(reason)
		return gone(self, reason)
	elseif reason then
		-- A handler waits that is told of the failure. The connection has nothing more to tell.
		if self._next_timeout then
			self:_check_waits()
		end
		return -1
	elseif not self._token then
		if self._next_timeout then
			self:_check_waits()
		end
		return bridge.step(self, implicit_connect, handle_event)
	end
	return finish_step(self, core_step(self._handle, self._session_mt))
end

-- The program may replace `step` on the instance: the loops ask.
Client._own_step = Client.step

-- Calls the handlers of a message: those of the event and those of topics.
local function deliver_message(self, message)
	local failure, passed
	if not self._topics then
		passed = self:handle("message", message, self)
	else
		if self.handlers.message[1] or self.handle ~= Client.handle then
			failure, passed = try(nil, self.handle, self, "message", message, self)
		end
		self:_handle_topics(message, failure)
	end
	-- False where an error that a handler has raised was caught.
	if passed ~= false then
		acknowledge_handled(self, message)
	end
end

-- The broker has answered a message: calls handlers and callback, as `Client:handle_received_packet` does.
local function answered(self, kind, packet_id, rc, properties, user_properties)
	local callbacks, handlers = self._callbacks, self.handlers.acknowledge
	local callback = callbacks[packet_id]
	if not (callback or handlers[1]) then
		return
	end
	callbacks[packet_id] = nil
	local ack = shape_ack[self._version](kind, packet_id, rc, properties, user_properties)
	if not handlers[1] then
		callback(ack, self)
	elseif callback or handlers[2] then
		call_all(handlers, 1, callback, ack, self)
	else
		handlers[1](ack, self)
		if handlers[2] then
			call_all(handlers, 2, nil, ack, self)
		end
	end
end

-- Whether the program has replaced a method that the shortest way of a message does not call.
local function is_changed(self)
	return self.step ~= Client.step or self.handle ~= Client.handle or self._receive_packet ~= Client._receive_packet
end

-- Takes up to `most` steps, as long as there is something to do and the client stays where it is: on its connection and
-- in its loop. Returns what the last one returned.
-- In a thread of `mqtt.loop.copas`, which `thread` is about, handlers may wait meanwhile: then another one has taken
-- the next step. `thread.handling` becomes false before a step that is not for a packet.
function Client:_serve(most, thread)
	if not (self.connection and self._token) or self._closing or is_changed(self) or not thread
		and (host.in_copas() or self.handle_received_packet ~= Client.handle_received_packet) then
		if thread then
			thread.handling = false
		end
		return self:step()
	end
	-- What there is most of, messages, takes the shortest way.
	local handle, session_mt, auto_ack = self._handle, self._session_mt, self.opts.auto_ack
	-- The loop that comes with the library drives the runtime when all its clients have been served.
	local next_event = thread and core_step or core_pop
	local worker, timeouts, error_handler, gettimeouts, geterrorhandler, removed
	if thread then
		worker, timeouts, error_handler, removed = thread.worker, thread.timeouts, thread.error_handler, thread.removed
		gettimeouts, geterrorhandler = thread.gettimeouts, thread.geterrorhandler
	end
	local answers, moves = 0, self._moves
	for _ = 1, most do
		local kind, a, b, c, d, e, f, g, h, i = next_event(handle, session_mt)
		if kind == PUBLISH then
			local message = a
			if auto_ack or not BUILDS_MESSAGES then
				message = to_message(self, kind, a, b, c, d, e, f, g, h)
			end
			local handlers = self.handlers.message
			local handler = handlers[1]
			if self._topics or handlers[2] then
				deliver_message(self, message)
			else
				if handler then
					handler(message, self)
					if handlers[2] then
						-- It has added others.
						call_all(handlers, 2, nil, message, self)
					end
				end
				if auto_ack then
					acknowledge_handled(self, message)
				end
			end
		elseif kind == PUBACK or kind == PUBREC then
			answered(self, kind, a, b, c, d)
			answers = answers + 1
			if answers == ANSWERS_PER_TURN and not thread then
				break
			end
		elseif not kind and not thread then
			return -1
		else
			if thread then
				thread.handling = false
			end
			local wait, err = finish_step(self, kind, a, b, c, d, e, f, g, h, i)
			if wait ~= 0 or thread then
				return wait, err
			end
			session_mt = self._session_mt
		end
		-- For a thread of Copas, what `mqtt.loop.copas` asks in may_go_on, without a call.
		if self._moves ~= moves or thread and (thread.worker ~= worker or gettimeouts() ~= timeouts
			or geterrorhandler(worker) ~= error_handler or removed[worker] ~= nil) then
			break
		end
	end
	return 0
end

--- Returns a file descriptor for an external event loop: it is readable when `Client:step` has something to do. It
-- stays the same as long as the client lives. Not to be read from, written to or closed.
-- @treturn[1] number file descriptor
-- @return[2] nil and an error message: with a connector, or where there are no such descriptors
function Client:getfd()
	if not self._token then
		return nil, "a client with a connector has no descriptor: wait for the connector's socket"
	end
	return outcome(self._link:getfd())
end

--- Transport of the program's own
-- For clients whose connector is `mqtt.connector.bytes`, which says how to use these, or derived from it.
-- @section transport

-- The connection of a client that the program moves the bytes for, the last one if it has been closed. Raises, in the
-- name of the caller's caller, for any other client.
local function fed_connection(self)
	local conn = self._connected
	if type(conn and conn.feed or self.opts.connector.feed) ~= "function" then
		error("expecting a client whose connector is mqtt.connector.bytes", 3)
	end
	return conn
end

--- Takes bytes that have arrived, in whatever portions, and handles the packets that they complete. When a handler
-- raises an error, that comes out of this call; the packets behind are handled by the next one.
-- @tparam string bytes the bytes; may be empty
-- @return true on success or false and error message when the connection was given up, or is not open
function Client:feed(bytes)
	local conn = fed_connection(self)
	if type(bytes) ~= "string" then
		error("expecting bytes to be a string", 2)
	elseif not self.connection then
		return false, NOT_OPENED
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

--- Returns the bytes that are to be sent, which are the caller's to send then. After a close event these may be the
-- last ones of that connection.
-- @treturn string the bytes, or nil when there are none
function Client:take()
	local conn = fed_connection(self)
	return conn and conn:take()
end

-- Called by other files
-- @section internal

-- Whether a broker of the list has failed in the first connect, and the next one has not been tried.
Client._is_first_pass = is_first_pass

-- Waits a little before the next step of a client whose connector does not wait by itself.
function Client:_pause()
	if not host.pause(POLL_PAUSE) then
		self._link:wait(POLL_PAUSE)
	end
end

-- Waits until `step` has something to do, or for some seconds; not while a connector has a connection, since only the
-- connector can tell.
function Client:_wait(seconds)
	local link = self._link
	if (self._token or not self.connection) and not (host.wait(link) or host.pause(POLL_PAUSE)) then
		link:wait(seconds)
	end
end

-- Waits until the connection has taken most of what is to be sent, if that holds up nobody else, and unless it waits
-- itself until the program has taken what was received. Returns whether so.
function Client:_wait_for_room()
	local link = self._link
	local least, deadline = link:outgoing_bytes(), core.now() + SEND_TIMEOUT
	while link:is_full() do
		local bytes, now = link:outgoing_bytes(), core.now()
		if bytes < least then
			least, deadline = bytes, now + SEND_TIMEOUT
		end
		if now >= deadline then
			self._stuck, self._direct = bytes, nil
			return false
		elseif not wait_in(self, "wait_for_room", deadline - now) then
			return false
		end
	end
	return true
end

-- Deals with a received packet: calls the handlers and callbacks. The Copas and OpenResty loops replace this on the
-- instance, so that handlers may wait while others read; in its thread the connection may be gone already.
-- Returns true, or false and an error message.
function Client:handle_received_packet(pck)
	local ptype = pck.type
	if ptype == PUBLISH then
		deliver_message(self, pck)
	elseif ptype == packet_type.CONNACK then
		return connack_received(self, pck)
	elseif ptype == packet_type.AUTH then
		self:handle("auth", pck, self)
	else
		local callbacks, packet_id = self._callbacks, pck.packet_id
		local callback = callbacks[packet_id]
		callbacks[packet_id] = nil
		local event = ANSWER_EVENTS[ptype]
		if not callback then
			self:handle(event, pck, self)
		elseif self.handle == Client.handle then
			call_all(self.handlers[event], 1, callback, pck, self)
		else
			raise(try(try(nil, self.handle, self, event, pck, self), callback, pck, self))
		end
	end
	return true
end

-- Returns the packet that `step` is about to handle. Programs replace this on the instance to see or to change what is
-- received; in place of the packet theirs may return false and an error message, or the connection's `signal_idle`.
function Client:_receive_packet()
	local pck = self._received
	if pck then
		return pck
	end
	return false, self.connection and self.connection.signal_idle or NOT_OPENED
end

-- The methods that are in files of their own.
for _, name in ipairs({ "mqtt.client.v3", "mqtt.pending", "mqtt.waiting", "mqtt.topic_handlers", "mqtt.request" }) do
	for key, method in pairs(require(name)) do
		Client[key] = method
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
	local client = setmetatable({}, Client)
	-- Not a tail call: errors are the caller's.
	client:__init(opts)
	return client
end

if _G._TEST then
	_M.__parse_connection_opts = target.parse
end

return _M

---@meta mqtt
-- The types of the library, for editors with the Lua language server (LuaCATS): name the directory of this file in
-- "workspace.library" of its settings. Nothing runs this file. spec/types_spec.lua compares it with the code.
-- luacheck: ignore

--- The module: `local mqtt = require("mqtt")`.
---@class mqtt
---@field v311 4 MQTT 3.1.1, for the option `version`
---@field v50 5 MQTT 5.0, for the option `version`
---@field VERSION string version of this library
---@field _VERSION string version of the luamqtt API that this library reproduces
---@field log mqtt.Log the library's log
local mqtt = {}

--- The table `require("mqtt.core").build`, for reports of bugs.
---@class mqtt.Build
---@field version string version of the module, the same as `mqtt.VERSION`
---@field target string the system it was built for, as Rust calls it
---@field features string what is built in besides plain MQTT: "tls websocket store"
---@field rustc string version of the Rust compiler
---@field profile "release"|"debug"
---@field lua "5.1"|"5.2"|"5.3"|"5.4"|"5.5"|"jit"

--- The options of a client.
---@class mqtt.ClientOptions
---@field uri string|string[] `[mqtt[s]://][username[:password]@]host[:port]`, `ws[s]://host[:port][/path]`, `unix:///path`; or several
---@field clean boolean|"first" start a new session; "first": only on the first connect
---@field protocol? "mqtt"|"mqtts"|"ws"|"wss"|"unix"
---@field host? string name or address of the broker
---@field port? integer 1883 by default, 8883 with TLS, 80 and 443 for WebSocket
---@field username? string
---@field password? string
---@field version? 4|5 `mqtt.v311` (the default) or `mqtt.v50`
---@field id? string client identifier, random by default
---@field secure? boolean|mqtt.Secure use TLS
---@field ssl_module? string name of a LuaSec-compatible module for TLS
---@field proxy? string `http://[username[:password]@]host[:port]`, or with `socks5://`
---@field ws_headers? table<string, string> header fields of the request for a WebSocket
---@field will? mqtt.Will last will
---@field keep_alive? integer seconds without traffic after which a PINGREQ is sent, 60 by default; 0 switches keep alive off
---@field ping_timeout? number seconds that the broker may take to answer a PINGREQ, `keep_alive` by default
---@field connect_timeout? number seconds that connecting may take altogether, 30 by default
---@field reconnect? boolean|number|mqtt.Reconnect seconds until the client reconnects after a lost connection; true means 30
---@field follow_server_reference? boolean MQTT 5.0: connect to the server that the broker refers to
---@field auto_ack? boolean acknowledge messages when all handlers have returned
---@field max_packet_size? integer largest packet accepted, in bytes, 256 MiB by default
---@field queue? mqtt.Queue accept messages while there is no connection
---@field store? string|mqtt.Store keep messages of QoS 1 and 2 in this directory until they are acknowledged
---@field resubscribe? boolean renew subscriptions when the broker has lost them
---@field server_receive_maximum? integer MQTT 3.1.1: how many QoS 2 messages the broker takes at a time, 20 by default
---@field topic_aliases? boolean MQTT 5.0: send aliases in place of topics
---@field properties? mqtt.Properties MQTT 5.0: properties of CONNECT
---@field user_properties? mqtt.UserProperties MQTT 5.0: user properties of CONNECT
---@field connector? table a connector class, or a function table of luamqtt 3.x
---@field on? mqtt.Handlers event handlers

--- TLS settings, by LuaSec's names.
---@class mqtt.Secure
---@field mode? "client"
---@field protocol? "any"|"tlsv1_2"|"tlsv1_3"|"sslv23"
---@field options? string|string[] "no_tlsv1_2", "no_tlsv1_3"
---@field verify? string|string[] "none" trusts anybody
---@field cafile? string file with the certificates to trust
---@field capath? string directory with the certificates to trust
---@field certificate? string file with the client's certificate
---@field key? string file with the client's key
---@field password? string|fun(): string password of an encrypted key
---@field alpn? string|string[] protocols to offer
---@field server_name? string name that is sent as SNI and verified, the host by default

---@class mqtt.Will
---@field topic string
---@field payload? string
---@field qos? mqtt.QoS
---@field retain? boolean
---@field properties? mqtt.Properties MQTT 5.0
---@field user_properties? mqtt.UserProperties MQTT 5.0

---@class mqtt.Reconnect
---@field min? number seconds before the first attempt, 1 by default
---@field max? number seconds at most, 60 by default
---@field jitter? number largest part of a delay that chance takes off, 0 to 1, 0.5 by default

---@class mqtt.Queue
---@field max_messages? integer 1000 by default
---@field max_bytes? integer 1 MiB by default
---@field when_full? "reject"|"drop_oldest" "reject" by default
---@field expire? number seconds after which a waiting message is not sent any more
---@field keep? "latest" a waiting message gives way to a newer one of its topic
---@field rate? integer how many messages that have waited for a connection are sent in a second

---@class mqtt.Store
---@field path string the directory
---@field sync? "process"|"power" what the messages outlive, "process" by default
---@field max_messages? integer no limit by default
---@field max_bytes? integer no limit by default
---@field when_full? "reject"|"drop_oldest" "reject" by default
---@field qos0? boolean keep messages of QoS 0 too while there is no connection
---@field recover? "skip" go on without what is damaged
---@field expire? number seconds after which a waiting message is not sent any more
---@field keep? "latest" a waiting message gives way to a newer one of its topic
---@field rate? integer how many messages that have waited for a connection are sent in a second

---@alias mqtt.QoS 0|1|2
--- Values by name, or a list of `{ name, value }` pairs, in which names may be repeated.
---@alias mqtt.UserProperties table<string, string>|[string, string][]

--- Properties of MQTT 5.0. The standard says which packet may have which property (2.2.2.2).
---@class mqtt.Properties
---@field payload_format_indicator? 0|1
---@field message_expiry_interval? integer seconds
---@field content_type? string
---@field response_topic? string
---@field correlation_data? string
---@field subscription_identifiers? integer[]
---@field session_expiry_interval? integer seconds
---@field assigned_client_identifier? string
---@field server_keep_alive? integer seconds
---@field authentication_method? string
---@field authentication_data? string
---@field request_problem_information? 0|1
---@field will_delay_interval? integer seconds
---@field request_response_information? 0|1
---@field response_information? string
---@field server_reference? string
---@field reason_string? string
---@field receive_maximum? integer
---@field topic_alias_maximum? integer
---@field topic_alias? integer
---@field maximum_qos? 0|1
---@field retain_available? 0|1
---@field maximum_packet_size? integer
---@field wildcard_subscription_available? 0|1
---@field subscription_identifiers_available? 0|1
---@field shared_subscription_available? 0|1

-- Packets ------------------------------------------------------------------------------------------------------------

--- Any packet.
---@class mqtt.Packet
---@field type integer
---@field properties mqtt.Properties MQTT 5.0 only
---@field user_properties mqtt.UserProperties MQTT 5.0 only

--- A message.
---@class mqtt.PUBLISH: mqtt.Packet
---@field topic string
---@field payload? string nil if the payload is empty
---@field qos mqtt.QoS
---@field retain boolean
---@field dup boolean
---@field packet_id? integer with QoS 1 and 2

---@class mqtt.CONNACK: mqtt.Packet
---@field rc integer 0: the broker has accepted
---@field sp boolean session present: the broker has the session that the program knows
local CONNACK = {}

--- Names the reason.
---@return string
function CONNACK:reason_string() end

--- The answer to a message: PUBACK or PUBREC.
---@class mqtt.PUBACK: mqtt.Packet
---@field packet_id integer
---@field rc? integer MQTT 5.0 only

---@class mqtt.SUBACK: mqtt.Packet
---@field packet_id integer
---@field rc integer[]
local SUBACK = {}

--- Names the reasons.
---@return string[]
function SUBACK:reason_strings() end
---@return string all reasons, separated by commas
function SUBACK:reason_string() end

---@class mqtt.UNSUBACK: mqtt.Packet
---@field packet_id integer
---@field rc? integer[] MQTT 5.0 only
local UNSUBACK = {}

--- Names the reasons; MQTT 5.0 only.
---@return string[]
function UNSUBACK:reason_strings() end
---@return string all reasons, separated by commas
function UNSUBACK:reason_string() end

---@class mqtt.DISCONNECT: mqtt.Packet
---@field rc? integer MQTT 5.0 only
local DISCONNECT = {}

--- Names the reason; MQTT 5.0 only.
---@return string
function DISCONNECT:reason_string() end

--- MQTT 5.0 only.
---@class mqtt.AUTH: mqtt.Packet
---@field rc integer

-- The client ---------------------------------------------------------------------------------------------------------

--- Event handlers by event.
---@class mqtt.Handlers
---@field connect? fun(connack: mqtt.CONNACK, client: mqtt.Client) the broker has answered; it accepts if `connack.rc == 0`
---@field error? fun(message: string, client: mqtt.Client, packet?: mqtt.CONNACK|mqtt.DISCONNECT|mqtt.SUBACK)
---@field close? fun(connection: mqtt.Connection, client: mqtt.Client) the connection has been closed
---@field shutdown? fun(client: mqtt.Client)
---@field message? fun(message: mqtt.PUBLISH, client: mqtt.Client)
---@field subscribe? fun(suback: mqtt.SUBACK, client: mqtt.Client)
---@field unsubscribe? fun(unsuback: mqtt.UNSUBACK, client: mqtt.Client)
---@field acknowledge? fun(ack: mqtt.PUBACK, client: mqtt.Client)
---@field dropped? fun(message: mqtt.Dropped, client: mqtt.Client) an accepted message is given up that was never sent
---@field auth? fun(auth: mqtt.AUTH, client: mqtt.Client)

---@alias mqtt.Event "connect"|"error"|"close"|"shutdown"|"message"|"subscribe"|"unsubscribe"|"acknowledge"|"auth"|"dropped"

---@class mqtt.Connection
---@field uri string
---@field host? string
---@field port? integer
---@field secure boolean
---@field connack? mqtt.CONNACK
---@field close_reason? string in the close event

---@class mqtt.SubscribeOptions
---@field topic string topic filter
---@field qos? mqtt.QoS 0 by default
---@field no_local? boolean MQTT 5.0: no messages that this client has published
---@field retain_as_published? boolean MQTT 5.0
---@field retain_handling? 0|1|2|boolean MQTT 5.0: retained messages at each subscribe, only for a new subscription, not at all
---@field properties? mqtt.Properties MQTT 5.0
---@field user_properties? mqtt.UserProperties MQTT 5.0
---@field callback? fun(suback: mqtt.SUBACK, client: mqtt.Client)

---@class mqtt.UnsubscribeOptions
---@field topic string topic filter
---@field properties? mqtt.Properties MQTT 5.0
---@field user_properties? mqtt.UserProperties MQTT 5.0
---@field callback? fun(unsuback: mqtt.UNSUBACK, client: mqtt.Client)

---@class mqtt.Stored
---@field topic string
---@field qos mqtt.QoS
---@field tag? string
---@field since number seconds as of `os.time`
---@field packet_id? integer if it is under way

---@class mqtt.Dropped
---@field topic string
---@field qos mqtt.QoS
---@field packet_id? integer
---@field tag? string
---@field reason "full"|"expired"|"replaced"

---@class mqtt.PublishOptions
---@field topic string
---@field payload? string
---@field qos? mqtt.QoS 0 by default
---@field retain? boolean
---@field dup? boolean
---@field properties? mqtt.Properties MQTT 5.0
---@field user_properties? mqtt.UserProperties MQTT 5.0
---@field callback? fun(ack: mqtt.PUBACK|string, client: mqtt.Client) called at once, with a string, for QoS 0
---@field tag? string with a store: a name that comes back with the acknowledgement
---@field expire? number seconds after which a waiting message is given up

---@class mqtt.RequestOptions
---@field topic string
---@field payload? string
---@field qos? mqtt.QoS 0 by default
---@field retain? boolean
---@field dup? boolean
---@field properties? mqtt.Properties may have a `response_topic` of your own
---@field user_properties? mqtt.UserProperties
---@field timeout? number seconds that the response may take, 10 by default
---@field callback? fun(response?: mqtt.PUBLISH, err?: string, packet?: mqtt.Packet)

---@class mqtt.RespondOptions
---@field payload? string
---@field qos? mqtt.QoS the request's by default
---@field retain? boolean
---@field dup? boolean
---@field properties? mqtt.Properties
---@field user_properties? mqtt.UserProperties
---@field callback? fun(ack: mqtt.PUBACK|string, client: mqtt.Client)
---@field tag? string
---@field expire? number

---@class mqtt.TopicOptions
---@field keys? string[] names of the wildcards, in their order
---@field subscribe? boolean subscribe to the filter, with the options of `Client:subscribe`
---@field qos? mqtt.QoS
---@field no_local? boolean
---@field retain_as_published? boolean
---@field retain_handling? 0|1|2|boolean
---@field properties? mqtt.Properties
---@field user_properties? mqtt.UserProperties

---@class mqtt.TopicTable: mqtt.TopicOptions
---@field topic string topic filter
---@field handler mqtt.TopicHandler

---@alias mqtt.TopicHandler fun(message: mqtt.PUBLISH, captures: table<string|integer, string>, client: mqtt.Client)

---@class mqtt.Stats
---@field messages_sent integer
---@field messages_received integer
---@field bytes_sent integer
---@field bytes_received integer
---@field in_flight integer messages sent and not acknowledged to the end
---@field queued integer messages accepted and not sent yet
---@field queued_bytes integer
---@field dropped integer messages accepted and never sent
---@field reconnects integer
---@field ping_round_trip? number seconds
---@field tls_version? string such as "TLSv1.3"

--- A client.
---@class mqtt.Client
---@field opts mqtt.ClientOptions the client's own copy of the options; changes count from the next connect on
---@field connection? mqtt.Connection nil while the client has no connection
---@field handlers table<mqtt.Event, function[]>
---@field first_connect boolean
---@field send_time integer
local Client = {}

--- Adds handlers of events.
---@param events mqtt.Handlers
---@overload fun(self: mqtt.Client, event: mqtt.Event, handler: function)
function Client:on(events) end

--- Removes a handler of an event.
---@param event mqtt.Event
---@param func function
---@return true
function Client:off(event, func) end

--- Adds a handler of the messages whose topic matches a filter.
---@param filter string
---@param handler mqtt.TopicHandler
---@param opts? mqtt.TopicOptions
---@return boolean ok
---@return string? err
---@overload fun(self: mqtt.Client, opts: mqtt.TopicTable): boolean, string?
function Client:on_topic(filter, handler, opts) end

--- Removes a handler of a topic filter, or all handlers of the filter.
---@param filter string
---@param handler? mqtt.TopicHandler
---@return boolean ok
---@return string? err
function Client:off_topic(filter, handler) end

---@param opts mqtt.SubscribeOptions
---@return integer|false packet_id
---@return string? err
function Client:subscribe(opts) end

---@param opts mqtt.UnsubscribeOptions
---@return integer|false packet_id
---@return string? err
function Client:unsubscribe(opts) end

---@param opts mqtt.PublishOptions
---@return integer|boolean packet_id true for QoS 0
---@return string? err
function Client:publish(opts) end

--- Publishes a request and takes the response, MQTT 5.0 only (4.10). Without a callback it waits.
---@param opts mqtt.RequestOptions
---@return mqtt.PUBLISH|true|nil response true with a callback
---@return string? err
---@return mqtt.Packet? packet with the reason
function Client:request(opts) end

--- Answers a request, MQTT 5.0 only.
---@param request mqtt.PUBLISH
---@param opts mqtt.RespondOptions
---@return integer|boolean packet_id
---@return string? err
function Client:respond(request, opts) end

--- Makes a request and returns when it has been answered.
---@param what "connect"|"subscribe"|"unsubscribe"|"publish"
---@param opts? table options of that method, and `timeout` in seconds
---@return mqtt.Packet|true|nil answer true for a message of QoS 0
---@return string? err
---@return mqtt.Packet? packet with the reason
function Client:await(what, opts) end

--- Acknowledges a received message.
---@param msg mqtt.PUBLISH
---@param rc? integer MQTT 5.0: reason code
---@param properties? mqtt.Properties MQTT 5.0
---@param user_properties? mqtt.UserProperties MQTT 5.0
---@return boolean ok
---@return string? err
function Client:acknowledge(msg, rc, properties, user_properties) end

--- Sends DISCONNECT and closes the connection. With `reconnect` the client connects again; `Client:shutdown` does not.
---@param rc? integer MQTT 5.0: reason code
---@param properties? mqtt.Properties MQTT 5.0
---@param user_properties? mqtt.UserProperties MQTT 5.0
---@return boolean ok
---@return string? err
function Client:disconnect(rc, properties, user_properties) end

--- Disconnects, and does not reconnect.
---@param rc? integer MQTT 5.0: reason code
---@param properties? mqtt.Properties MQTT 5.0
---@param user_properties? mqtt.UserProperties MQTT 5.0
---@return true
function Client:shutdown(rc, properties, user_properties) end

--- Sends AUTH, MQTT 5.0 only.
---@param rc? integer reason code
---@param properties? mqtt.Properties
---@param user_properties? mqtt.UserProperties
---@return boolean ok
---@return string? err
function Client:auth(rc, properties, user_properties) end

--- Closes the connection at once, without DISCONNECT.
---@param reason? string
---@return true
function Client:close_connection(reason) end

--- Opens the connection and sends CONNECT.
---@return boolean ok
---@return string? err
function Client:start_connecting() end

--- Goes through the messages that the client's store keeps.
---@return fun(): mqtt.Stored?
function Client:stored() end

--- Returns the client's counters.
---@return mqtt.Stats
function Client:stats() end

---@return boolean ok
---@return string? err
function Client:send_pingreq() end

---@return boolean ok
---@return string? err
function Client:open_connection() end

---@return boolean ok
---@return string? err
function Client:send_connect() end

--- Sends a PINGREQ if one is due.
---@return number seconds until this method must be called again
---@return string? err
function Client:check_keep_alive() end

--- Does a step of the client's work, without blocking.
---@return number? wait -1: nothing was received, 0: a packet was handled, above 0: seconds to wait, nil: the client has ended
---@return string? err
function Client:step() end

--- A descriptor that is readable while `step` has something to do.
---@return integer? fd
---@return string? err
function Client:getfd() end

--- Gives the client received bytes, with `mqtt.connector.bytes`.
---@param bytes string
---@return boolean ok
---@return string? err
function Client:feed(bytes) end

--- Returns the bytes to send, with `mqtt.connector.bytes`.
---@return string?
function Client:take() end

-- Loops --------------------------------------------------------------------------------------------------------------

---@class mqtt.IoloopOptions
---@field sleep_min? number seconds
---@field sleep_step? number seconds
---@field sleep_max? number seconds
---@field sleep_function? fun(seconds: number)

--- A function that a loop calls after some time.
---@class mqtt.Timer
local Timer = {}

--- Ends the timer: its function is not called again.
function Timer:cancel() end

--- The library's own loop.
---@class mqtt.Ioloop
---@field running boolean
local Ioloop = {}

--- Adds a client, or a function. The function returns the seconds until its next call, false for never, or nothing for
--- each round.
---@param client mqtt.Client|fun(): number|false|nil
---@return boolean ok
---@return string? err
function Ioloop:add(client) end

---@param client mqtt.Client|fun(): number|false|nil
---@return boolean ok
---@return string? err
function Ioloop:remove(client) end

--- Calls a function again and again, the first time after the given seconds, until it returns false.
---@param seconds number
---@param func fun(): false?
---@return mqtt.Timer
function Ioloop:every(seconds, func) end

--- Calls a function once, after the given seconds.
---@param seconds number
---@param func fun()
---@return mqtt.Timer
function Ioloop:after(seconds, func) end

--- Runs a single round.
function Ioloop:iteration() end

--- Runs until all clients and functions have ended or been removed.
---@return true? ok nil if a client without an error handler has ended with an error
---@return string? err
function Ioloop:run_until_clients() end

-- Logging ------------------------------------------------------------------------------------------------------------

---@class mqtt.Logger
---@field debug? fun(self: mqtt.Logger, text: string, ...: any)
---@field info? fun(self: mqtt.Logger, text: string, ...: any)
---@field warn? fun(self: mqtt.Logger, text: string, ...: any)
---@field error? fun(self: mqtt.Logger, text: string, ...: any)

--- The library's log.
---@class mqtt.Log
---@field set fun(logger?: mqtt.Logger|false) sends everything to a logger from now on

-- The module ---------------------------------------------------------------------------------------------------------

--- Creates a client. This neither connects nor looks up a name.
---@param opts mqtt.ClientOptions
---@return mqtt.Client
function mqtt.client(opts) end

--- Returns the default loop.
---@param autocreate? boolean true by default
---@param opts? mqtt.IoloopOptions
---@return mqtt.Ioloop
function mqtt.get_ioloop(autocreate, opts) end

--- Runs the default loop with these clients and functions.
---@param ... mqtt.Client|fun(): number|false|nil
---@return true? ok nil if a client without an error handler has ended with an error
---@return string? err
function mqtt.run_ioloop(...) end

--- Serves one client until its connection is gone.
---@param cl mqtt.Client
---@return false? ok
---@return string? err
function mqtt.run_sync(cl) end

---@param topic string
---@return string|false topic
---@return string? err
function mqtt.validate_subscribe_topic(topic) end

---@param topic string
---@return string|false topic
---@return string? err
function mqtt.validate_publish_topic(topic) end

--- Translates a topic filter into a Lua pattern.
---@param topic string
---@return string|false pattern
---@return string? err
function mqtt.compile_topic_pattern(topic) end

---@class mqtt.TopicMatch
---@field topic? string topic filter
---@field pattern? string from `mqtt.compile_topic_pattern`
---@field keys? string[] names of the wildcards

--- Matches a topic against a filter.
---@param topic string
---@param opts mqtt.TopicMatch
---@return table<string|integer, string>|false fields
---@return string[]|string|nil varargs
function mqtt.topic_match(topic, opts) end

return mqtt

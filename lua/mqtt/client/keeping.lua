--- Messages that outlive the process: the option `store`, and what `Client:publish`, the event acknowledge and
-- `Client:stored` do with it.
-- Internal to `mqtt.client`. Loaded when a client has a store.

local calls = require("mqtt.calls")
local const = require("mqtt.const")
local fields = require("mqtt.client.fields")
local host = require("mqtt.host")
local log = require("mqtt.log")
local requests = require("mqtt.client.requests")

local each, error, require, tostring, type = pairs, error, require, tostring, type
local publish_plain, IGNORED = calls.publish, fields.ignored

local keeping = {}

-- The error where another process has the store.
local IN_USE = "another process uses it"
-- The error where the process has given the store up.
local CLOSED = "the store is closed: the worker exits"

-- The directory of a client's store: %w is the number of the worker of nginx.
local function directory(path)
	local ngx = host.openresty()
	local worker = ngx and tostring(ngx.worker.id() or "agent") or "0"
	local own, count = path:gsub("%%w", worker)
	if ngx and count == 0 and ngx.worker.count() > 1 then
		error("expecting %w in the path of the store: each worker of nginx needs a directory of its own", 0)
	end
	return own
end

local function first_uri(client)
	local uri = client.opts.uri
	return type(uri) == "table" and uri[1] or uri
end

-- The broker that the program has named first, without user name and password.
local function place(client)
	return (first_uri(client):gsub("//[^/]*@", "//"))
end

-- Opens the store. Returns true, or nil and an error message.
local function open(client)
	local store, id = client._store, client.opts.id
	local ok, torn, damaged = client._link:keep_in(store.path, store.sync == "power", store.max_bytes, store.max_messages,
		store.recover == "skip", store.when_full == "drop_oldest", store.keep == "latest")
	if not ok then
		return nil, "the store " .. store.path .. " cannot be opened: " .. torn
	elseif torn then
		log:warn("[LuaMQTT] client '%s' cuts off what its last process has not written to the end: %s", id, torn)
	end
	if damaged > 0 then
		log:error("[LuaMQTT] client '%s' goes on without what is damaged in its store, places: %d", id, damaged)
	end
	client._store = nil
	local from, reference = client._link:noted("moved"):match("^(.-)\n(.*)$")
	if client.opts.follow_server_reference and from == place(client) then
		client._brokers:moved(reference, first_uri(client))
	end
	for message in keeping.stored(client) do
		if not message.packet_id then
			break
		end
		client._tags[message.packet_id] = message.tag
	end
	return true
end

--- Opens the store of a client. Raises an error message if that is not possible. After a reload of nginx the last
-- worker may still have the store. Then it is opened later.
-- @tparam Client client the client
-- @tparam table given the options that the program gave
function keeping.open(client, given)
	local opts, store = client.opts, { path = client.opts.store }
	if type(opts.store) == "table" then
		for name, value in each(opts.store) do
			store[name] = value
		end
	end
	local properties = opts.properties
	if not given.id or given.id == "" then
		error("expecting the option id with store: the broker knows the session by it", 0)
	elseif opts.clean == true then
		error("expecting clean=false or clean='first' with store: a clean session has no messages to go on with", 0)
	elseif opts.version == const.v50 and not (properties and (properties.session_expiry_interval or 0) > 0) then
		error("expecting properties.session_expiry_interval above 0 with store: otherwise the session ends with the "
			.. "connection", 0)
	elseif not client._link.keep_in then
		error("this build has no stores: build the library with the feature store", 0)
	end
	store.path = directory(store.path)
	-- The options of the store until it is open; callbacks of messages that have no packet identifier yet, by their
	-- place in the order; and the tags of messages under way, by their packet identifiers.
	client._store, client._kept, client._tags = store, {}, {}
	client._keeps_qos0 = store.qos0 or false
	local ok, err = open(client)
	if not ok and host.openresty() and err:find(IN_USE, 1, true) then
		log:info("[LuaMQTT] client '%s' will open its store when the last worker has ended: %s", opts.id, err)
	elseif not ok then
		error(err, 0)
	end
end

--- Opens the store of a client if it is not open yet.
-- @tparam Client client the client
-- @treturn[1] boolean true
-- @return[2] nil and an error message
function keeping.ready(client)
	if client._store == CLOSED then
		return nil, CLOSED
	end
	if client._store then
		return open(client)
	end
	return true
end

--- Keeps a server reference that holds from now on.
-- @tparam Client client the client
-- @tparam string reference the reference
function keeping.moved(client, reference)
	client._link:note("moved", place(client) .. "\n" .. reference)
end

--- Closes the store for good. What it keeps is for the next process.
-- @tparam Client client the client, which has been shut down
function keeping.close(client)
	client._store = CLOSED
	client._link:let_store_go()
end

--- Whether a message is for the store.
-- @tparam Client client a client with a store
-- @tparam table opts the message
-- @treturn boolean whether so
function keeping.takes(client, opts)
	return type(opts) ~= "table" or (opts.qos or 0) ~= 0 or client._keeps_qos0 and not client.connection
end

-- Whether a message for the store needs none of what `publish` does besides handing it to the link: it has no callback,
-- tag and time, and no connector is to be called.
local function is_plain(client, opts)
	return type(opts) == "table" and (opts.qos == 1 or opts.qos == 2) and opts.callback == nil and opts.tag == nil
		and opts.expire == nil and (client._transport.in_background or client.connection == nil)
end

-- Ends the publish of a kept message. Returns the result of `Client:publish`.
local function accepted(client, packet_id, full, dropped)
	if full then
		requests.wait_for_room(client)
	end
	if dropped then
		require("mqtt.client.dropped")(client, dropped)
	end
	return packet_id ~= 0 and packet_id or true
end

-- Publishes a message, checked. Returns what `keeping.accept` does.
local function publish(client, opts)
	local ready, problem = keeping.ready(client)
	if not ready then
		return false, "failed to send PUBLISH: " .. problem
	end
	local packet_id, sequence, time, full, dropped = client._link:publish_kept(opts.topic, opts.payload, opts.qos or 0,
		opts.retain or false, opts.dup or false, opts.properties, opts.user_properties, opts.tag, opts.expire)
	if not packet_id then
		local err, is_misuse = sequence, time
		return false, is_misuse and err or "failed to send PUBLISH: " .. err, is_misuse
	end
	-- Before anything that yields: the answer may come meanwhile.
	if packet_id ~= 0 then
		requests.set_callback(client, packet_id, opts.callback)
		client._tags[packet_id] = opts.tag
	elseif opts.callback then
		client._kept[sequence] = opts.callback
	end
	local ok = client.connection and requests.sent(client, "PUBLISH")
	return accepted(client, packet_id, ok and full, dropped)
end

--- Publishes a message for the store.
-- @tparam Client client the client
-- @param opts the first argument of `Client:publish`
-- @param second its second argument
-- @return what `Client:publish` returns; and true if that is an error message that blames the program
function keeping.accept(client, opts, second)
	if publish_plain and second == nil and is_plain(client, opts) then
		local packet_id, time, full, dropped = publish_plain(client._handle, opts, IGNORED)
		if packet_id then
			client.send_time = client.connection and time or client.send_time
			return accepted(client, packet_id, full and client.connection, dropped)
		end
	end
	local problem = requests.check("publish", opts, second)
	if problem then
		return false, problem, true
	end
	return publish(client, opts)
end

--- A message that has waited is being sent, or is given up if its packet identifier is 0.
-- @tparam Client client the client
-- @tparam number packet_id its packet identifier
-- @tparam number sequence its place in the order
-- @tparam string tag its tag, empty for none
function keeping.identified(client, packet_id, sequence, tag)
	local callback = client._kept[sequence]
	client._kept[sequence] = nil
	if packet_id ~= 0 then
		requests.set_callback(client, packet_id, callback)
		client._tags[packet_id] = tag ~= "" and tag or nil
	end
end

--- Goes through the messages that the store keeps: those under way first, then those that wait, each in the order in
-- which they were accepted.
-- @tparam Client client the client
-- @treturn function an iterator over tables
function keeping.stored(client)
	local messages, segment, offset = client._link:stored()
	local index = 0
	return function()
		while messages do
			index = index + 1
			if messages[index] then
				return messages[index]
			elseif not segment then
				return nil
			end
			messages, segment, offset = client._link:stored(segment, offset)
			index = 0
		end
		error("the store cannot be read: " .. tostring(segment), 2)
	end
end

return keeping

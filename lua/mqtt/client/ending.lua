--- The end of a connection, and of a client that Lua collects.
-- Internal to `mqtt.client`.

local host = require("mqtt.host")
local log = require("mqtt.log")
local packet_type = require("mqtt.packet").types
local protect = require("mqtt.protect")

local getmetatable, next, package, pcall = getmetatable, next, package, pcall
local rawget, setmetatable = rawget, setmetatable
local tostring = tostring
local coroutine_running, coroutine_status = coroutine.running, coroutine.status
local raise, try = protect.raise, protect.try

-- How long closing waits until everything has been handed to the kernel, in seconds: alone, and where waiting holds up
-- others. The rest is sent in the background, and the end of the process waits for it.
local FLUSH_TIME = 1
local FLUSH_TURN = 0.01

local ending = {
	NOT_OPENED = "network connection is not opened",
	COLLECTED = "nobody holds this client any more: it has been collected",
	BY_CLIENT = "connection closed by client",
	BY_BROKER = "connection closed by broker",
	GIVEN_UP = "connection attempt was given up",
}

local CLOSED_BY_CLIENT, COLLECTED = ending.BY_CLIENT, ending.COLLECTED

--- Logs an error of a client, before its handlers get it.
-- @tparam Client client the client
-- @tparam string message the error
function ending.log_error(client, message)
	local errors = client.handlers.error
	log.report(errors and errors[1] or rawget(client, "handle"), "[LuaMQTT] client '%s' %s", client.opts.id, message)
end

local log_error = ending.log_error

--- Whether the first connect goes on: the list has brokers that have not been tried.
-- @tparam Client client the client
-- @treturn boolean
function ending.is_first_pass(client)
	return client.first_connect and client._brokers:is_midway()
end

local is_first_pass = ending.is_first_pass

-- Whether the client has a connection, or will open one by itself.
local function goes_on(client)
	return client.connection or client._opening or client.opts.reconnect or is_first_pass(client)
end

--- Returns the result of `step` after a connection, or the attempt to open one, has ended. A handler may have opened
-- another connection.
-- @tparam Client client the client
-- @tparam ?string err an error message
-- @treturn ?number 0, or nil if the client has ended
-- @treturn ?string the error message
function ending.gone(client, err)
	local wait = goes_on(client) and 0 or nil
	if err == nil then
		return wait
	end
	return wait, err
end

--- Ends the waits of a connection that has ended, or of the attempt to open one.
-- @tparam Client client the client
-- @tparam string reason the reason, unless `fail` has given one
function ending.tell_waiting(client, reason)
	local message, pck = client._failure or reason, client._ended_by
	client._failure, client._ended_by = nil, nil
	if client._waits then
		client._waits:connection_ended(message, pck, reason == CLOSED_BY_CLIENT or not goes_on(client))
	end
end

local tell_waiting = ending.tell_waiting

-- The coroutines in which `fail` is at work, by client. The table holds none of them: a collected coroutine is resumed
-- by nobody.
local closers = setmetatable({}, { __mode = "kv" })

--- Ends the connection, or the attempt to open one, with a close event.
-- @tparam Client client the client
-- @tparam string reason why
-- @tparam[opt] boolean flushes whether everything requested before is still sent: `close` waits for it for a while, and
-- the rest goes on in the background
function ending.close(client, reason, flushes)
	local conn, transport = client.connection, client._transport
	if conn or client._opening then
		if not client._closing then
			-- The attempt was ended, it did not fail: without `reconnect` only a call connects again.
			client.first_connect = false
			client._endings = client._endings + 1
		else
			-- Called by `fail`, or by a handler that `fail` calls; meanwhile other threads may step the client.
			client.first_connect = is_first_pass(client)
		end
		client._brokers:ended(reason == CLOSED_BY_CLIENT)
	end
	client:_note_move()
	client.connection, client._direct = nil, nil
	client._opening = nil
	client._closing, closers[client] = nil, nil
	-- Before all else: a connector may yield, and then another thread may connect again.
	client._link:close(flushes and (transport.may_block(client) and FLUSH_TIME or FLUSH_TURN) or nil)
	local failure
	if conn then
		failure = try(nil, transport.close, client, conn)
		log:info("[LuaMQTT] client '%s' connection closed (reason: %s)", client.opts.id, reason)
		conn.close_reason = reason
		failure = try(failure, client.handle, client, "close", conn, client)
	end
	raise(try(failure, tell_waiting, client, reason))
end

--- Reports an error that costs the connection, by an error event, after a refusing CONNACK also a connect event, and
-- the close event. If the thread ends in a handler, the next step closes the connection.
-- @tparam Client client the client
-- @tparam string message the error
-- @tparam string reason the reason of the close event
-- @tparam ?table pck the CONNACK or DISCONNECT that gives the error
function ending.fail(client, message, reason, pck)
	log_error(client, message)
	local conn = client.connection
	client._closing, closers[client] = reason, host.note_thread(coroutine_running())
	client._failure, client._ended_by = message, pck
	client._brokers:ended()
	local failure = try(nil, client.handle, client, "error", message, client, pck)
	if pck and pck.type == packet_type.CONNACK then
		failure = try(failure, client.handle, client, "connect", pck, client)
	end
	client.first_connect = is_first_pass(client)
	-- The handlers may have closed the connection already, and opened another one.
	if client.connection == conn then
		failure = try(failure, client.close_connection, client, reason)
	end
	raise(failure)
end

--- Whether `fail` is still at work in another coroutine, and somebody may resume that coroutine.
-- @tparam Client client the client
-- @treturn boolean
function ending.is_failing(client)
	local closer = closers[client]
	return closer ~= nil and closer ~= coroutine_running() and coroutine_status(closer) ~= "dead"
		and not host.is_removed(closer)
end

-- Lua has collected a client that may still be connected, or have requests under way: their callers are told. The error
-- of a handler is logged: it is no fault of the code that collects garbage.
local function collected(client)
	local waits = client._waits
	if not (client.connection or waits and next(waits.pending)) then
		return
	end
	-- The client has no next connection: everything kept for one has to go out on this connection.
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
		ok, err = pcall(waits.finish_all, waits, nil, nil, COLLECTED)
	end
	if not ok then
		pcall(log.error, log, "[LuaMQTT] client '%s' was collected, and a handler of that raised an error: %s",
			client.opts.id, tostring(err))
	end
end

-- The program may have a global variable of the same name: only the list of loaded modules is reliable.
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
	function ending.guard(client)
		return setfenv(newproxy(first), client)
	end
else
	local mt = {
		__gc = function(held)
			collected(held[1])
		end,
	}
	--- Makes an object whose collection ends the client: waits are told, and the connection is closed. The client has
	-- to hold the object, so Lua collects both together; their end comes before anything made earlier is collected.
	-- @tparam Client client the client
	-- @return the object for the client to hold
	function ending.guard(client)
		return setmetatable({ client }, mt)
	end
end

return ending

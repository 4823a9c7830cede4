--- The native connection: `mqtt.core` opens, reads and writes it. See `mqtt.transport` for the functions.
-- Internal to `mqtt.client`.

local core = require("mqtt.core")
local events = require("mqtt.transport.events")
local host = require("mqtt.host")
local options = require("mqtt.client.options")
local target = require("mqtt.client.target")

local error, rawget, setmetatable, type = error, rawget, setmetatable, type

-- How often a waiting thread looks whether its connection is open, in seconds.
local OPEN_PAUSE = 0.002
-- How often a thread looks whether the connection takes more, in seconds.
local ROOM_PAUSE = 0.005
-- How often a thread of nginx looks whether there is an event, in seconds.
local POLL_PAUSE = 0.01
-- How long one wait takes at most, in seconds.
local IDLE_WAIT = 1

local native = { in_background = true }

--- Whether a connector is the native one, by its mark: `mqtt.connector.native` may be loaded more than once.
-- @param connector what the program gave
-- @treturn boolean
function native.is_of(connector)
	return type(connector) == "table" and rawget(connector, "is_native") == true
end

-- The TLS settings for a connection, made once for each value of the option `secure`. Raises on bad ones.
local function tls_settings(client, conn)
	if not conn.secure then
		return nil
	end
	local params = conn.secure_params or false
	if client._tls_params ~= params then
		client._tls, client._tls_params = target.tls(conn), params
	end
	return client._tls
end

-- The target of a connection, in the form that the core takes.
local function where(client, conn)
	return conn.protocol, conn.host, conn.port, conn.path, tls_settings(client, conn), client.opts.ws_headers,
		client.opts.proxy
end

function native.adopt(client, conn)
	return setmetatable(conn, client.opts.connector)
end

function native.check(client, conn)
	native.adopt(client, conn)
	local ok, err = core.check_target(where(client, conn))
	if not ok then
		error(err, 0)
	end
end

function native.open(client, conn)
	local ok, err = client._link:open(options.connect_timeout(client.opts), where(client, conn))
	if not ok then
		error(err, 0)
	end
	client._opening = conn
end

function native.await_open(client)
	-- A thread looks now and then. It does not wait for the link, since another thread may take the event.
	if not (host.pause(OPEN_PAUSE) or host.wait(client)) then
		client._link:wait(IDLE_WAIT)
	end
end

function native.opened() end

function native.direct(client)
	return client.connection and not client._keeping and client._handle or nil
end

-- The connection knows whether the caller runs in another context: see `mqtt.connector.nginx`.
function native.hand_over(client, func, ...)
	local conn = client.connection
	local hand_over = conn and conn.hand_over
	return hand_over ~= nil and hand_over(conn, func, client, ...)
end

-- The core writes by itself what is in the session's send buffer.
function native.send()
	return true
end

native.next = events.step

function native.await(client)
	return host.wait(client)
end

function native.keep_alive() end

function native.look_soon() end

function native.wait(client, seconds)
	if not (host.wait(client) or host.pause(POLL_PAUSE)) then
		client._link:wait(seconds)
	end
end

function native.iterate(client, longest)
	native.wait(client, longest)
	return client:step()
end

function native.may_block(client)
	return not (host.has_company(client) or host.in_copas() or host.openresty())
end

-- Lets other threads run, or blocks in a method of the link for some seconds at most. Returns false where blocking
-- would hold up another client, or if the method says that it is in vain.
local function wait_in(client, method, seconds)
	if host.pause(ROOM_PAUSE) then
		return true
	elseif not native.may_block(client) then
		return false
	end
	local link = client._link
	return link[method](link, seconds) ~= false
end

function native.wait_for_room(client, seconds)
	return wait_in(client, "wait_for_room", seconds)
end

function native.wait_until_sent(client, seconds)
	return wait_in(client, "wait_until_sent", seconds)
end

function native.settle() end

function native.close() end

function native.token(client)
	return client._link:token()
end

function native.getfd(client)
	return client._link:getfd()
end

return native

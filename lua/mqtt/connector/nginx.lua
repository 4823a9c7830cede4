--- Connector on the cosockets of OpenResty.
-- Nothing blocks the worker. A cosocket belongs to the timer or request that opened it. So a connection belongs to a
-- timer: the timer of `mqtt.loop.nginx`, else a timer of its own. Requests of the same worker may use the client all
-- the same: their bytes are sent in the connection's timer.
--
-- nginx looks up names with the name servers of its `resolver` directive; addresses and `localhost` need none. With TLS
-- it verifies the server's certificate against `lua_ssl_trusted_certificate` (`lua_ssl_verify_depth` is 1 unless set),
-- and the host's name, or `server_name` of the option `secure`. It does not verify addresses in certificates. Of the
-- option `secure` the fields `verify`, `server_name`, `certificate` and `key` count; `lua_ssl_protocols` and
-- `lua_ssl_ciphers` set the rest.
-- @module mqtt.connector.nginx

local semaphore = require("ngx.semaphore")

local core = require("mqtt.core")
local host = require("mqtt.host")
local sslhandshake = require("mqtt.connector.base.sslhandshake")
local verifies = require("mqtt.connector.base.verifies")
local super = require("mqtt.connector.base.non_buffered_base")

local error, getmetatable, require = error, getmetatable, require
local pcall, select, setmetatable, tostring, type = pcall, select, setmetatable, tostring, type
local math_max, open_file, unpack = math.max, io.open, table.unpack or unpack -- luacheck: globals unpack
local ngx = host.openresty()
local concat = table.concat
local spawn, kill = ngx.thread.spawn, ngx.thread.kill

-- The longest wait, in seconds. nginx cannot wait for ever, so waiting begins anew after this time.
local LONG = 24 * 60 * 60
-- The largest read, in bytes.
local CHUNK = 16384
-- After this many bytes other threads have their turn, for this many seconds: a broker that sends without pause must
-- not keep the worker busy.
local TURN_BYTES, TURN_PAUSE = 65536, 0.001
-- The time limit for a TLS handshake when connecting has left no time, in seconds: the handshake fails then.
local LEAST_TIME = 0.001
-- How long a closed connection is still read, in seconds.
local PARTING_TIME = 2

local connector = setmetatable({
	super = super,
	type = "buffered, yielding i/o",
	-- The received bytes, and how many of them have been returned.
	_buffer = "",
	_position = 0,
}, super)
connector.__index = connector

local this_context = host.nginx_context

local function wait_for(event)
	while not event:wait(LONG) do -- luacheck: ignore 542
		-- go on
	end
end

local function is_address(name)
	return name:find(":", 1, true) ~= nil or name:find("^%d+%.%d+%.%d+%.%d+$") ~= nil
end

-- Reads a PEM file that the option `secure` names. Returns the result of ngx.ssl. Raises an error if there is none.
local function load_pem(params, key, parse)
	local path = params[key]
	if type(path) ~= "string" then
		error(("secure: expecting %s to be the path of a file, got: %s"):format(key, type(path)), 0)
	end
	local file, err = open_file(path)
	if not file then
		error(("secure: %s cannot be read: %s"):format(key, err), 0)
	end
	local pem = file:read("*a")
	file:close()
	local parsed
	parsed, err = parse(pem)
	if not parsed then
		error(("secure: %s '%s' is not PEM that nginx can use: %s"):format(key, path, err), 0)
	end
	return parsed
end

--- Checks the TLS settings, if the connection is secure. Raises an error if they are not usable.
function connector:validate()
	local params = self.secure_params or {}
	if not self.secure then
		return
	elseif self.ssl_module and self.ssl_module ~= "ssl" then
		error("expecting ssl_module to be 'ssl', inside nginx there is no other, got: '" .. self.ssl_module .. "'", 0)
	elseif params.mode and params.mode ~= "client" then
		error("secure: expecting mode to be \"client\", got: " .. tostring(params.mode), 0)
	elseif params.server_name and type(params.server_name) ~= "string" then
		error("secure: expecting server_name to be a string, got: " .. type(params.server_name), 0)
	elseif params.password then
		error("secure: nginx cannot decrypt keys: give a key without password, or use mqtt.connector.native", 0)
	elseif params.certificate or params.key then
		local ssl = require("ngx.ssl")
		self._certificate = load_pem(params, "certificate", ssl.parse_pem_cert)
		self._key = load_pem(params, "key", ssl.parse_pem_priv_key)
	end
end

-- Turns the connection into a TLS connection. Returns true, or false and an error message.
local function handshake(self, sock)
	local params = self.secure_params or {}
	local verify = verifies(params)
	local name = params.server_name or self.host
	local ok, err
	if self._certificate then
		if not sock.setclientcert then
			return false, "this version of nginx's Lua module knows no client certificates (tcpsock:setclientcert)"
		end
		ok, err = sock:setclientcert(self._certificate, self._key)
		if not ok then
			return false, err
		end
	end
	-- SNI has no addresses (RFC 6066, 3), but without a name nginx would verify none.
	ok, err = sslhandshake(sock, (verify or not is_address(name)) and name or nil, verify)
	if ok then
		return true
	end
	-- An error of OpenSSL begins with its number: X509_V_ERR_...
	if err:find("^%d+: ") or err:find("certificate", 1, true) then
		err = "verification of the server's certificate failed: " .. err
		if err:find("issuer", 1, true) then
			err = err .. " (trusted are those of lua_ssl_trusted_certificate)"
		elseif is_address(name) and err:find("mismatch", 1, true) then
			err = err .. " (nginx compares names only: set server_name)"
		end
	end
	return false, err
end

-- The thread that reads: a chunk each time `receive` needs bytes, and a closed connection to its end.
local function read(self)
	local sock, since_turn = self.sock, 0
	local data, err
	repeat
		if not self._closed then
			wait_for(self._wanted)
		end
		repeat
			data, err = sock:receiveany(CHUNK)
		until err ~= "timeout"
		since_turn = since_turn + #(data or "")
		if since_turn > TURN_BYTES then
			ngx.sleep(TURN_PAUSE)
			since_turn = 0
		end
		self._data, self._error = data, err
		self._arrived:post(1)
	until not data
	self._ended:post(1)
end

-- The thread that makes the calls for other contexts.
local function serve(self)
	while true do
		wait_for(self._handed_over)
		local first = self._first
		local call = self._calls[first]
		if not call then
			return
		end
		self._calls[first], self._first = nil, first + 1
		self._is_serving = true
		host.protected(unpack(call, 1, call.n))
		self._is_serving = false
	end
end

-- The thread that closes. A cosocket cannot be closed while a thread reads from it, and only the parent of the reading
-- thread can end that thread, which closes the socket. This thread waits while another thread sends: the sender would
-- not wake up. It then waits, for a limited time, until the broker has closed: closing a socket with unread data would
-- reset the connection, and could destroy data that the broker has not read yet.
local function keep(self)
	local reader, server = spawn(read, self), spawn(serve, self)
	repeat
		wait_for(self._closing)
	until not self._sending
	self._wanted:post(1)
	self._ended:wait(PARTING_TIME)
	kill(reader)
	self.sock:close()
	self._is_over = true
	self._handed_over:post(1)
	ngx.thread.wait(server)
end

-- Limits how long connecting and the TLS handshake may take.
local function set_timeouts(self, sock, seconds)
	-- The limit for sending is the class's: `self.timeout` may be a limit for connecting only.
	sock:settimeouts(seconds * 1000, getmetatable(self).timeout * 1000, LONG * 1000)
end

-- Opens the connection, and keeps it in the timer that the caller runs in.
local function open(self)
	local sock, address = ngx.socket.tcp(), self.host
	local deadline = core.now() + self.timeout
	set_timeouts(self, sock, self.timeout)
	if address == "localhost" then
		address = "127.0.0.1"
	elseif address:find(":", 1, true) then
		address = "[" .. address .. "]"
	end
	local ok, err = sock:connect(address, self.port)
	if not ok then
		return false, ("connection to '%s:%s' failed: %s"):format(self.host, self.port, err)
	end
	if self.secure then
		set_timeouts(self, sock, math_max(deadline - core.now(), LEAST_TIME))
		ok, err = handshake(self, sock)
		if not ok then
			sock:close()
			return false, ("TLS handshake with '%s:%s' failed: %s"):format(self.host, self.port, err)
		end
	end
	self.sock = sock
	self._context = this_context()
	self._wanted, self._arrived = semaphore.new(), semaphore.new()
	self._calls, self._first, self._last, self._handed_over = {}, 1, 0, semaphore.new()
	self._closing, self._ended = semaphore.new(), semaphore.new()
	spawn(keep, self)
	return true
end

-- Opens the connection in a timer of its own, and waits until it is open. If nobody waits any more, closes it.
local function open_apart(self)
	local opened, ok, err = semaphore.new(), nil, nil
	local is_timer, problem = ngx.timer.at(0, function()
		local called
		called, ok, err = pcall(open, self)
		if not called then
			ok, err = false, ok
		elseif ok and opened:count() >= 0 then
			self:shutdown()
		end
		opened:post(1)
	end)
	if not is_timer then
		return false, "there is no timer for the connection: " .. problem
	end
	wait_for(opened)
	return ok, err
end

--- Opens the network connection: `self.sock`. Connecting and the TLS handshake together may take `timeout` seconds.
-- @return `true`, or `false` and an error message
function connector:connect()
	self:validate()
	return (host.serves_here() and open or open_apart)(self)
end

--- Closes the network connection. A thread that receives from it finds it closed. May be called in any context. The
-- rest of the broker's bytes is read in the background, until the broker closes too, or for two seconds.
function connector:shutdown()
	if not self._closed then
		self._closed = true
		self._closing:post(1)
		self._arrived:post(1)
	end
end

--- Notes that the timer of the connection has been ended, and the connection with it.
function connector:abandon()
	self._closed, self._is_over = true, true
end

--- Whether the connection has been closed, and the broker may still be reading sent data.
-- @treturn boolean
function connector:is_parting()
	return self._closed and not self._is_over or false
end

--- Sends all of the data.
-- @tparam string data the bytes
-- @return `true`, or `false` and an error message
function connector:send(data)
	if self._closed then
		return false, "closed"
	elseif this_context() ~= self._context then
		return self:_send_there(data)
	end
	self._sending = true
	local ok, err = self.sock:send(data)
	self._sending = false
	if self._closed then
		self._closing:post(1)
	end
	return ok ~= nil, err
end

-- Sends in the connection's timer, and waits until this is done.
function connector:_send_there(data)
	local sent, ok, err = semaphore.new(), nil, nil
	local is_there = self:hand_over(function()
		ok, err = self:send(data)
		sent:post(1)
	end)
	if not is_there then
		return false, "closed"
	end
	wait_for(sent)
	return ok, err
end

-- Returns what arrives within some seconds, if so limited: at least one byte; or nil and an error.
local function receive_some(self, timeout)
	if self._closed then
		return nil, "closed"
	elseif not self._asked then
		self._asked = true
		self._data, self._error = nil, "closed"
		self._wanted:post(1)
	end
	if not timeout then
		wait_for(self._arrived)
	elseif not self._arrived:wait(timeout) then
		return nil, self.signal_idle
	end
	self._asked = false
	return self._data, self._error
end

--- Called when the packet of the received bytes has been handled.
function connector:buffer_clear()
	self._inside = false
end

--- Receives bytes: waits, by yielding, until all have arrived. The field `receive_timeout` limits the wait for the
-- beginning of a packet, in seconds.
-- @tparam number size the number of bytes, at least 1
-- @return exactly `size` bytes; or `nil` and `signal_idle`, `signal_closed` or an error message
function connector:receive(size)
	local position = self._position
	if position + size > #self._buffer then
		local chunks = { self._buffer:sub(position + 1) }
		local lacking = size - #chunks[1]
		while lacking > 0 do
			local data, err = receive_some(self, not self._inside and self.receive_timeout)
			if not data then
				return nil, err == "closed" and self.signal_closed or err
			end
			chunks[#chunks + 1] = data
			lacking = lacking - #data
			self._arriving = size - lacking
		end
		self._arriving = 0
		self._buffer, position = concat(chunks), 0
	end
	self._inside = true
	self._position = position + size
	return self._buffer:sub(position + 1, position + size)
end

--- Returns how many bytes of an incomplete packet have arrived.
-- @treturn number bytes
function connector:arriving()
	return self._arriving or 0
end

--- Has a function called in the connection's context, if the caller runs in another context. These calls are made one
-- after the other. Their errors are logged.
-- @tparam function func the function
-- @param ... its arguments
-- @treturn boolean whether the function will be called; if not, the caller runs in the connection's context, or the
-- connection is closed
function connector:hand_over(func, ...)
	local client = ...
	-- Where a client is collected there may be neither timer nor request.
	if self._closed or type(client) == "table" and client._is_collected or this_context() == self._context then
		return false
	elseif not self._is_serving and self._first > self._last and self._handed_over:count() >= 0 then
		-- The timer has been ended, by ngx.exit in a function of the program.
		self:abandon()
		return false
	end
	self._last = self._last + 1
	self._calls[self._last] = { func, n = 1 + select("#", ...), ... }
	self._handed_over:post(1)
	return true
end

return connector

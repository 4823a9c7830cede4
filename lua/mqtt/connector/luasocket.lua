--- Connector on LuaSocket, with LuaSec for TLS (see `mqtt.connector.base.luasec`).
-- For programs that need the socket in Lua, or that derive their own connectors. Other programs should use the native
-- connection, which neither polls nor blocks. With this connector, connecting and the TLS handshake block the program,
-- and so does sending when the broker takes nothing; receiving does not. Without TLS the library writes many packets at
-- a time to the socket, unless a derived class has a `send` of its own.
-- @module mqtt.connector.luasocket
-- @usage
-- local super = require("mqtt.connector.luasocket")
-- local counting = setmetatable({ super = super, received = 0 }, super)
-- counting.__index = counting
--
-- function counting:plain_receive(size)
-- 	local data, err = super.plain_receive(self, size)
-- 	counting.received = counting.received + #(data or "")
-- 	return data, err
-- end
--
-- local client = mqtt.client { uri = "mqtt://localhost", clean = true, connector = counting }

local core = require("mqtt.core")
local socket = require("socket")

local luasec = require("mqtt.connector.base.luasec")
local super = require("mqtt.connector.base.buffered_base")

local rawget, setmetatable, tostring, type = rawget, setmetatable, tostring, type
local math_max = math.max
local select = socket.select

-- The time limit for a TLS handshake when connecting has left no time, in seconds: the handshake fails then.
local LEAST_TIME = 0.001
-- On Windows, `receive` with the time limit 0 returns "timeout" for ever once the peer has reset the connection. With
-- any other limit it tells at once (LuaSocket's issue 174). In seconds; nil on other systems.
local RESET_TIME = package.config:sub(1, 1) == "\\" and 1e-6 or nil

local luasocket = setmetatable({
	super = super,
	read_ahead = 8192,
	--- Where `receive` of LuaSocket needs it: the time limit with which it tells that the peer has reset the connection.
	reset_time = RESET_TIME,
	--- Errors of LuaSocket and LuaSec for a time limit that is over, as a set.
	timeout_errors = {
		timeout = true,
		wantread = true,
		wantwrite = true,
	},
}, super)
luasocket.__index = luasocket

-- Whether a socket is a TCP socket of LuaSocket: not one of LuaSec, and nothing that stands in for a socket. Also for
-- `mqtt.connector.copas`.
function luasocket.is_plain(sock)
	return type(sock) == "userdata" and tostring(sock):find("^tcp{client}") ~= nil
end

--- Checks the TLS settings, if the connection is secure. Raises an error if they are not usable.
function luasocket:validate()
	luasec.validate(self)
end

--- Opens a TCP connection: `self.sock`. A derived class may replace this method, to connect through a proxy for
-- instance.
-- @return `true`, or `false` and an error message
function luasocket:connect_tcp()
	local sock = socket.tcp()
	sock:settimeout(self.timeout)
	local ok, err = sock:connect(self.host, self.port)
	if not ok then
		sock:close()
		return false, ("connection to '%s:%s' failed: %s"):format(self.host, self.port, err)
	end
	sock:setoption("tcp-nodelay", true)
	self.sock = sock
	return true
end

--- Turns `self.sock`, a plain connection, into a TLS connection.
-- @return `true`, or `false` and an error message
function luasocket:start_tls()
	local sock, err = luasec.wrap(self, self.sock, function(wrapped)
		wrapped:settimeout(self.timeout)
		return wrapped:dohandshake()
	end)
	self.sock = sock
	return sock ~= nil, err
end

--- Opens the network connection, `self.sock`: by `connect_tcp` and, if it is secure, `start_tls`. Both together may
-- take `timeout` seconds.
-- @return `true`, or `false` and an error message
function luasocket:connect()
	self:validate()
	self:buffer_reset()
	local given, deadline = rawget(self, "timeout"), core.now() + self.timeout
	local ok, err = self:connect_tcp()
	if ok and self.secure then
		self.timeout = math_max(deadline - core.now(), LEAST_TIME)
		ok, err = self:start_tls()
		self.timeout = given
	end
	return ok, err
end

--- Closes the network connection.
function luasocket:shutdown()
	self.sock:close()
end

--- Returns the descriptor of the connection.
-- @treturn number the descriptor, or nil if `self.sock` has no method `getfd`
function luasocket:getfd()
	local sock = self.sock
	return sock.getfd and sock:getfd()
end

--- Sends all of the data. Fails when the peer has taken nothing for `timeout` seconds.
-- @tparam string data the bytes
-- @return `true`, or `false` and an error message
function luasocket:send(data)
	local sock = self.sock
	local sent = 0
	while sent < #data do
		sock:settimeout(self.timeout)
		local last, err, partial = sock:send(data, sent + 1)
		if not last and not (self.timeout_errors[err] and partial > sent) then
			return false, err
		end
		sent = last or partial
	end
	return true
end

-- See `mqtt.connector.base.non_buffered_base`.
function luasocket:sends_plainly()
	return self.send == luasocket.send and self.getfd == luasocket.getfd and luasocket.is_plain(self.sock)
end

--- Receives the bytes that have arrived, without waiting.
-- @tparam number size the greatest number of bytes
-- @return at least one byte; or `nil` and `signal_idle` if there is none, `signal_closed`, or an error message
function luasocket:plain_receive(size)
	local sock = self.sock
	sock:settimeout(0)
	local data, err, partial = sock:receive(size)
	data = data or partial
	if RESET_TIME and data == "" and err == "timeout" and select({ sock }, nil, 0)[1] then
		sock:settimeout(RESET_TIME)
		data, err, partial = sock:receive(size)
		data = data or partial
	end
	if data and data ~= "" then
		return data
	elseif self.timeout_errors[err] then
		return nil, self.signal_idle
	elseif err == "closed" then
		return nil, self.signal_closed
	end
	return nil, err
end

return luasocket

--- Connector on Copas: `mqtt.connector.luasocket` with sockets that yield to Copas instead of blocking.
-- Looking up the broker's name still blocks. Several threads may use the client at the same time. The client keeps the
-- connection alive by itself, except with Copas 1.x, which has no timers: the program must call
-- `Client:check_keep_alive` there. Copas 1.x has no TLS either.
-- @module mqtt.connector.copas

local copas = require("copas")
local core = require("mqtt.core")
local socket = require("socket")

local luasec = require("mqtt.connector.base.luasec")
local super = require("mqtt.connector.luasocket")

local error, ipairs, setmetatable, tostring = error, ipairs, setmetatable, tostring
local math_max = math.max
local pcall = pcall
if _VERSION == "Lua 5.1" and not rawget(_G, "jit") then
	-- Functions can yield through this `pcall`. Copas loads it as well.
	pcall = require("coxpcall").pcall
end

-- Copas 1.x has neither timers nor TLS. When a thread ends, Copas 1.x closes the socket that the thread has waited for,
-- although other threads may use it. It does not wake a thread whose socket another thread has closed.
local is_old = copas.close == nil

-- The time limit for an address when earlier addresses have left no time, in seconds: connecting fails then.
local LEAST_TIME = 0.001

-- Stands in for a socket which Copas 1.x must not close.
local function keep_open(sock)
	return setmetatable({ close = function() end }, {
		__index = function(proxy, name)
			local method = function(_, ...)
				return sock[name](sock, ...)
			end
			proxy[name] = method
			return method
		end,
	})
end

-- The inherited `plain_receive` and `send` set a time limit before each operation. With the limit 0 a socket of Copas
-- returns the bytes that have arrived, and waits if there are none.
local connector = setmetatable({
	super = super,
	type = "buffered, yielding i/o",
}, super)
connector.__index = connector

--- Checks the TLS settings, if the connection is secure. Raises an error if they are not usable.
function connector:validate()
	if not self.secure then
		return
	elseif is_old then
		error("TLS needs a newer Copas than " .. tostring(copas._VERSION), 0)
	end
	luasec.validate(self)
end

--- Opens a TCP connection, to the first address of the host that answers: `self.sock`.
-- @return `true`, or `false` and an error message
function connector:connect_tcp()
	local deadline = core.now() + self.timeout
	local addresses, err = socket.dns.getaddrinfo(self.host)
	for _, address in ipairs(addresses or {}) do
		local sock = socket.tcp()
		if is_old then
			sock = keep_open(sock)
		else
			copas.settimeout(sock, math_max(deadline - core.now(), LEAST_TIME))
		end
		local ok
		ok, err = copas.connect(sock, address.addr, self.port)
		if ok then
			sock:setoption("tcp-nodelay", true)
			self.sock = sock
			return true
		end
		sock:close()
	end
	return false, ("connection to '%s:%s' failed: %s"):format(self.host, self.port, err)
end

--- Turns `self.sock`, a plain connection, into a TLS connection.
-- @return `true`, or `false` and an error message
function connector:start_tls()
	local sock, err = luasec.wrap(self, self.sock, function(wrapped)
		wrapped:settimeout(0)
		copas.settimeout(wrapped, self.timeout)
		local ok, result, reason = pcall(copas.dohandshake, wrapped)
		if not ok then
			return false, result
		end
		return result, reason
	end)
	self.sock = sock
	return sock ~= nil, err
end

--- Opens the network connection: `self.sock`, wrapped by Copas.
-- @return `true`, or `false` and an error message
function connector:connect()
	local ok, err = super.connect(self)
	if ok then
		local sock = self.sock
		self.sock = copas.wrap(sock)
		-- Instead of the 0 that `wrap` has set. When nothing has arrived, `receive` waits for a tick of Windows' clock.
		if super.reset_time and super.is_plain(sock) then
			sock:settimeout(super.reset_time)
		end
	end
	return ok, err
end

--- Closes the network connection. A thread that waits for the connection finds it closed.
function connector:shutdown()
	local sock = self.sock.socket
	if is_old then
		-- The thread finds the connection closed when the broker has closed it, or when the library stops waiting for this.
		sock:shutdown("send")
	else
		copas.close(sock)
		-- Copas wakes only threads that wait when the socket is closed. A thread that has just found nothing to receive may
		-- yield before it waits. So the socket is closed once more, after that thread has had its turn.
		copas.addthread(copas.close, sock)
	end
end

--- Returns the descriptor of the connection.
-- @treturn number the descriptor
function connector:getfd()
	return self.sock.socket:getfd()
end

-- See `mqtt.connector.base.non_buffered_base`.
function connector:sends_plainly()
	return self.send == super.send and self.getfd == connector.getfd and super.is_plain(self.sock.socket)
end

return connector

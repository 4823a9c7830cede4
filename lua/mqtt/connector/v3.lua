--- Makes connector classes of the function tables that luamqtt 3.x has for connectors.
-- The `connector` option of `Client:__init` takes such tables too; new connectors are better derived from a class. The
-- functions get the connection table, whose fields `host`, `port`, `secure`, `secure_params` and `ssl_module` are set:
--
-- - `connect(conn)` opens the connection. Returns true, or false and an error message.
-- - `shutdown(conn)` closes it.
-- - `send(conn, data, i)` sends the data from its i-th byte on. Returns the index of the last byte sent, which need not
--   be the last one; or nil, an error message, and perhaps that index.
-- - `receive(conn, size)` returns exactly so many bytes; or nil, an error message, and perhaps the bytes that have
--   arrived.
-- - `settimeout(conn, seconds)` limits how long `send` and `receive` wait before they return the error "timeout"
--   ("wantread" and "wantwrite" mean the same); nil is for ever.
--
-- A `receive` that keeps the bytes which arrived before a timeout to itself loses them. So until it has been seen to
-- return them, it is asked for one byte at a time when there is a limit. With the field `returns_partial = true` a
-- table says that it does. A field `class` names the module of a connector class that does the same: where the table
-- itself is the `connector`, that is used.
-- @module mqtt.connector.v3

local host = require("mqtt.host")
local luasec = require("mqtt.connector.base.luasec")
local super = require("mqtt.connector.base.buffered_base")

local math_max, math_min = math.max, math.min
local rawget, require, setmetatable, type = rawget, require, setmetatable, type

-- How long receiving waits while others want their turn, in seconds. Not 0, which cosockets take for a default.
local TURN = 0.001
-- How many bytes are sent at once, which must not take longer than `timeout`.
local PIECE = 0x10000

local TIMEOUT_ERRORS = { timeout = true, wantread = true, wantwrite = true }

local v3 = setmetatable({
	super = super,
	type = "luamqtt 3.x functions",
	--- How long receiving may wait for bytes, in seconds; false is for ever: inside nginx others have their turn
	-- meanwhile, and an error is logged at the end of that time.
	receive_timeout = not host.openresty() and TURN,
}, super)
v3.__index = v3

-- The classes made so far.
local classes = setmetatable({}, { __mode = "k" })

--- Whether a connector is a function table, not a class.
-- @tparam table connector the connector
-- @treturn boolean
function v3.is(connector)
	return type(connector.settimeout) == "function" and connector.signal_idle == nil
end

--- Returns the class that connects by a function table.
-- @tparam table functions the function table
-- @treturn table the same class each time
function v3.class(functions)
	local name = rawget(functions, "class")
	if name then
		return require(name)
	end
	local class = classes[functions]
	if not class then
		class = setmetatable({ _functions = functions }, v3)
		class.__index = class
		classes[functions] = class
	end
	return class
end

-- Lets the functions wait so long from now on.
local function set_timeout(self, seconds)
	if self._timeout ~= seconds then
		self._timeout = seconds
		self._functions.settimeout(self, seconds or nil)
	end
end

--- Makes `secure_params` a complete table for LuaSec's `wrap`, if the connection is secure. Raises if it is of no use.
function v3:validate()
	if self.secure then
		self.secure_params = luasec.complete(self.secure_params)
	end
end

--- Opens the connection.
-- @return `true`, or `false` and an error message
function v3:connect()
	self:validate()
	return self._functions.connect(self)
end

--- Closes the connection.
function v3:shutdown()
	self._functions.shutdown(self)
end

--- Tells the descriptor of the connection, if it is a socket that the functions keep in the field `sock`.
-- @treturn number the descriptor, or nil
function v3:getfd()
	local sock = self.sock
	return type(sock) == "userdata" and sock.getfd and sock:getfd() or nil
end

--- Sends all of the data.
-- @tparam string data the bytes
-- @return `true`, or `false` and an error message
function v3:send(data)
	local send = self._functions.send
	for first = 1, #data, PIECE do
		local piece = data:sub(first, math_min(first + PIECE - 1, #data))
		-- What is left of it is sent as data of its own: not all tables count from the first byte.
		while piece ~= "" do
			set_timeout(self, self.timeout)
			local last, err, partial = send(self, piece, 1)
			if not last and TIMEOUT_ERRORS[err] then
				last = partial
			end
			if type(last) ~= "number" or last < 1 then
				return false, err or "nothing was sent"
			end
			piece = piece:sub(last + 1)
		end
	end
	return true
end

--- Receives what has arrived, after waiting for `receive_timeout`.
-- @tparam number size how many bytes at most
-- @return at least one byte; or `nil` and `signal_idle` if there is none, `signal_closed`, or an error message
function v3:plain_receive(size)
	local functions, seconds = self._functions, self.receive_timeout
	set_timeout(self, seconds and math_max(seconds, TURN))
	if seconds and not (self._returns_partial or functions.returns_partial) then
		size = 1
	end
	local data, err, partial = functions.receive(self, size)
	if data then
		return data
	elseif err == "closed" then
		return nil, self.signal_closed
	elseif not TIMEOUT_ERRORS[err] then
		return nil, err
	end
	self._returns_partial = self._returns_partial or partial ~= nil
	if partial and partial ~= "" then
		return partial
	end
	return nil, self.signal_idle
end

return v3

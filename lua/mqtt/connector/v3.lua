--- Makes connector classes from the function tables that are luamqtt 3.x's connectors.
-- The `connector` option of `Client:__init` takes these tables too; a new connector should be derived from a class. The
-- functions get the connection table, with the fields `host`, `port`, `secure`, `secure_params` and `ssl_module`:
--
-- - `connect(conn)` opens the connection. Returns true, or false and an error message.
-- - `shutdown(conn)` closes the connection.
-- - `send(conn, data, i)` sends the data from its i-th byte on, or a part of it. Returns the index of the last byte
--   sent; or nil, an error message, and perhaps this index.
-- - `receive(conn, size)` returns exactly `size` bytes; or nil, an error message, and perhaps the bytes that have
--   arrived.
-- - `settimeout(conn, seconds)` limits how long `send` and `receive` wait before they return the error "timeout"
--   ("wantread" and "wantwrite" mean the same); nil is for ever.
--
-- If `receive` does not return the bytes that have arrived before a timeout, these bytes are lost. So while there is a
-- limit, it is asked for a single byte at a time, until it has returned such bytes once. A table with the field
-- `returns_partial = true` promises that its `receive` returns them. A field `class` names the module of a connector
-- class that does the same as the table: this class is used when the table is the `connector` option.
-- @module mqtt.connector.v3

local host = require("mqtt.host")
local luasec = require("mqtt.connector.base.luasec")
local super = require("mqtt.connector.base.buffered_base")

local math_max, math_min = math.max, math.min
local rawget, require, setmetatable, type = rawget, require, setmetatable, type

-- How long receiving waits while other clients want their turn, in seconds. Cosockets take 0 for a default.
local TURN = 0.001
-- The largest number of bytes sent at once. Sending them must not take longer than `timeout`.
local PIECE = 0x10000

local TIMEOUT_ERRORS = { timeout = true, wantread = true, wantwrite = true }

local v3 = setmetatable({
	super = super,
	type = "luamqtt 3.x functions",
	--- How long receiving may wait for bytes, in seconds. Inside nginx it is false, for ever: other threads have their
	-- turn meanwhile, and nginx logs an error when a limit is over.
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

--- Returns the connector class of a function table.
-- @tparam table functions the function table
-- @treturn table the class, the same at each call
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

-- Sets the time limit of the functions.
local function set_timeout(self, seconds)
	if self._timeout ~= seconds then
		self._timeout = seconds
		self._functions.settimeout(self, seconds or nil)
	end
end

--- Makes `secure_params` a complete table for LuaSec's `wrap`, if the connection is secure. Raises an error if the
-- settings are not usable.
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

--- Returns the descriptor of the connection, if the functions keep its socket in the field `sock`.
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
		-- The rest of a piece is sent as data of its own, since not all tables count from the first byte of the data.
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

--- Receives bytes, and waits for them for `receive_timeout` at most.
-- @tparam number size the greatest number of bytes
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

--- Connector for programs that move the bytes themselves.
-- For transports that no socket library opens: sockets that call back, serial lines, game engines, tests. This
-- connector does no I/O and knows no time. The program
--
-- - calls `Client:start_connecting` when its transport is open,
-- - passes received bytes to `Client:feed`, which calls the handlers,
-- - sends the bytes that `Client:take` returns, after each call of a method of the client,
-- - calls `Client:check_keep_alive` again after as many seconds as it returned,
-- - calls `Client:close_connection` when the transport has closed, and closes the transport after a close event.
--
-- The `uri` of such a client only names the broker. The transport does TLS, if any. Do not add the client to a loop: a
-- loop connects clients when it likes, whether the transport is open or not. A derived class can open the transport in
-- `connect`, close it in `shutdown` and send in `send`; then the client may be added to a loop, and the program only
-- has to call `feed`.
-- @module mqtt.connector.bytes
-- @usage
-- local client = mqtt.client { uri = "modem", clean = true, connector = require("mqtt.connector.bytes") }
--
-- local function flush()
-- 	local data = client:take()
-- 	if data then
-- 		modem.send(data)
-- 	end
-- end
--
-- function modem.on_open()
-- 	client:start_connecting()
-- 	flush()
-- end
--
-- function modem.on_data(data)
-- 	client:feed(data)
-- 	flush()
-- end
--
-- function modem.on_close()
-- 	client:close_connection("connection closed by broker")
-- end

local super = require("mqtt.connector.base.buffered_base")

local concat = table.concat

local bytes = setmetatable({
	super = super,
	type = "bytes moved by the program",
}, super)
bytes.__index = bytes

--- Called when the client connects: the transport is open.
-- @return `true`
function bytes:connect()
	self:buffer_reset()
	self._received, self._sent = {}, {}
	return true
end

--- Called when the client has closed the connection.
function bytes:shutdown() -- luacheck: no unused args
end

--- Keeps data for `take`.
-- @tparam string data the bytes
-- @return `true`
function bytes:send(data)
	local sent = self._sent
	sent[#sent + 1] = data
	return true
end

-- Keeps received bytes until `plain_receive` takes them.
function bytes:feed(data)
	local received = self._received
	received[#received + 1] = data
end

-- Returns the bytes that the program has to send, or nil.
function bytes:take()
	local sent = self._sent
	if sent[1] then
		self._sent = {}
		return concat(sent)
	end
end

--- Receives the bytes that `feed` has kept.
-- @return at least one byte; or `nil` and `signal_idle`
function bytes:plain_receive()
	local data = concat(self._received)
	self._received = {}
	if data ~= "" then
		return data
	end
	return nil, self.signal_idle
end

return bytes

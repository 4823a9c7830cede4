--- Base class of connectors that buffer received bytes.
-- For sockets that do not yield: if only a part of a packet has arrived, the client's next call receives the packet
-- again, from its first byte. A derived class has to define `plain_receive`, and the methods that
-- `mqtt.connector.base.non_buffered_base` does not implement, except `receive`.
-- @module mqtt.connector.base.buffered_base

local super = require("mqtt.connector.base.non_buffered_base")

local error, setmetatable = error, setmetatable
local concat = table.concat
local max = math.max

local buffered = setmetatable({
	super = super,
	type = "buffered, blocking i/o",
	--- The least size that `plain_receive` is asked for, in bytes. A class whose `plain_receive` may return fewer bytes
	-- should set this, for fewer calls.
	read_ahead = 1,
	-- The buffer is the string _buffer followed by the strings of the list _chunks, _size bytes in all. The packet that
	-- is being received begins behind the first _taken bytes. The next byte to return is behind the first _position
	-- bytes.
	_buffer = "",
	_size = 0,
	_taken = 0,
	_position = 0,
}, super)
buffered.__index = buffered

--- Forgets all received bytes, for a new connection.
function buffered:buffer_reset()
	self._buffer, self._chunks, self._size, self._taken, self._position = nil, nil, nil, nil, nil
end

--- Called when the packet of the received bytes has been handled: the bytes need not be kept.
function buffered:buffer_clear()
	if self._position == self._size then
		self:buffer_reset()
	else
		self._taken = self._position
	end
end

--- Receives bytes, from the buffer, and missing bytes by `plain_receive`. After `signal_idle`, all bytes since the last
-- `buffer_clear` are returned once more.
-- @tparam number size the number of bytes, at least 1
-- @return exactly `size` bytes; or `nil` and `signal_idle`, `signal_closed` or an error message
function buffered:receive(size)
	local lacking = self._position + size - self._size
	while lacking > 0 do
		local data, err = self:plain_receive(max(lacking, self.read_ahead))
		if not data then
			if err == self.signal_idle then
				self._position = self._taken
			end
			return nil, err
		end
		local chunks = self._chunks or {}
		self._chunks = chunks
		chunks[#chunks + 1] = data
		self._size = self._size + #data
		lacking = lacking - #data
	end
	if self._position + size > #self._buffer then
		-- The chunks are joined once, when all have arrived: a large packet comes in many chunks.
		self._buffer = self._buffer:sub(self._taken + 1) .. concat(self._chunks)
		self._chunks = nil
		self._size = #self._buffer
		self._taken, self._position = 0, self._position - self._taken
	end
	local first = self._position + 1
	self._position = self._position + size
	return self._buffer:sub(first, self._position)
end

-- See `mqtt.connector.base.non_buffered_base`. Where `read_ahead` is 1 this is not called: `plain_receive` may wait
-- until it has all the bytes that it is asked for.
function buffered:receive_some(most)
	local rest = self._size - self._position
	if rest > 0 then
		return self:receive(rest)
	end
	return self:plain_receive(max(most, self.read_ahead))
end

buffered.receive_in_full = buffered.receive

--- Returns how many bytes of an incomplete packet have arrived.
-- @treturn number bytes
function buffered:arriving()
	return self._size - self._taken
end

--- Receives the bytes that have arrived, without waiting.
-- @function plain_receive
-- @tparam number size the greatest number of bytes
-- @return at least one byte; or `nil` and `signal_idle` if there is none, `signal_closed`, or an error message
function buffered:plain_receive(size) -- luacheck: no unused args
	error("method 'plain_receive' of the connector is not implemented", 2)
end

return buffered

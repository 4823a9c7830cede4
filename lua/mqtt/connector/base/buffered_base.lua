--- Base class of connectors that buffer what they read.
-- For sockets that do not yield: a packet of which only a part has arrived is received again, from its first byte, when
-- the client asks next. A derived class brings along `plain_receive`, and the methods that
-- `mqtt.connector.base.non_buffered_base` leaves open, except `receive`.
-- @module mqtt.connector.base.buffered_base

local super = require("mqtt.connector.base.non_buffered_base")

local error, setmetatable = error, setmetatable
local concat = table.concat
local max = math.max

local buffered = setmetatable({
	super = super,
	type = "buffered, blocking i/o",
	--- How many bytes `plain_receive` is asked for at least. Set this where it returns what has arrived even if that is
	-- less: fewer calls are made then.
	read_ahead = 1,
	-- The buffer is the string _buffer followed by those of the list _chunks, _size bytes in all. The packet that is being
	-- received begins behind its first _taken bytes, what is returned next behind its first _position bytes.
	_buffer = "",
	_size = 0,
	_taken = 0,
	_position = 0,
}, super)
buffered.__index = buffered

--- Forgets everything that was received, for a new connection.
function buffered:buffer_reset()
	self._buffer, self._chunks, self._size, self._taken, self._position = nil, nil, nil, nil, nil
end

--- Called when the packet to which the received bytes belong has been dealt with: they need not be kept.
function buffered:buffer_clear()
	if self._position == self._size then
		self:buffer_reset()
	else
		self._taken = self._position
	end
end

--- Receives bytes, from the buffer and, as far as that is lacking, by `plain_receive`.
-- @tparam number size how many, at least 1
-- @return exactly that many bytes; or `nil` and `signal_idle`, after which everything since the last `buffer_clear` is
-- returned once more; or `nil` and `signal_closed` or an error message
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
		-- Joined once, when all is there: a large packet comes in many chunks.
		self._buffer = self._buffer:sub(self._taken + 1) .. concat(self._chunks)
		self._chunks = nil
		self._size = #self._buffer
		self._taken, self._position = 0, self._position - self._taken
	end
	local first = self._position + 1
	self._position = self._position + size
	return self._buffer:sub(first, self._position)
end

--- Tells how much has arrived of the packet that is being received.
-- @treturn number bytes
function buffered:arriving()
	return self._size - self._taken
end

--- Receives what has arrived, without waiting.
-- @function plain_receive
-- @tparam number size how many bytes at most
-- @return at least one byte; or `nil` and `signal_idle` if there is none, `signal_closed`, or an error message
function buffered:plain_receive(size) -- luacheck: no unused args
	error("method 'plain_receive' of the connector is not implemented", 2)
end

return buffered

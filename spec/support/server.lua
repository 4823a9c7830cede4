--- A server that does what the test says, for what no real broker does. It is served by the loop of the test.
local listen = require("spec.support.listen")
local socket = require("socket")

local now = require("mqtt.core").now

-- How soon the loop asks again whether something has arrived, in seconds.
local POLL = 0.002
-- How long a connection may take until the backlog is full, in seconds.
local FULL_AFTER = 0.05

-- The servers that have not been stopped.
local running = {}

local Server = {}
Server.__index = Server

-- Takes a whole packet off the buffer, if there is one.
local function take_packet(self)
	local position = 1
	local packet, err = self.protocol.parse_packet(function(size)
		local bytes = self.buffer:sub(position, position + size - 1)
		position = position + size
		if #bytes < size then
			return false, "incomplete"
		end
		return bytes
	end)
	if packet then
		self.buffer = self.buffer:sub(position)
		return packet
	elseif not err:find("incomplete", 1, true) then
		error("the client sent nonsense: " .. err)
	end
end

-- Sends the next byte of what is to be sent slowly, if it is time.
local function drip(self)
	if self.connection and #self.drops > 0 and now() >= self.next_drop then
		self.next_drop = now() + self.pause
		self:send_bytes(self.drops:sub(1, 1))
		self.drops = self.drops:sub(2)
	end
end

-- Sends as much as the connection takes of what is to be sent as fast as it can.
local function pour(self)
	while self.connection and self.pools[1] do
		local pool = self.pools[1]
		local last, err, partial = self.connection:send(pool, self.position)
		assert(last or err == "timeout", err)
		last = last or partial
		self.poured = self.poured + last - self.position + 1
		self.position = last + 1
		if last < #pool then
			return
		end
		table.remove(self.pools, 1)
		self.position = 1
	end
end

--- Accepts a connection, and handles what has arrived. Never blocks. Does nothing while the backlog is full.
function Server:poll()
	if self.fillers then
		return
	end
	local accepted = self.listener:accept()
	if accepted then
		accepted:settimeout(0)
		self.connection, self.buffer, self.ended = accepted, "", false
		self.accepted = self.accepted + 1
	end
	if not self.connection or self.deaf then
		return
	end
	local bytes, err, partial = self.connection:receive(65536)
	self.buffer = self.buffer .. (bytes or partial)
	for packet in take_packet, self do
		self.received[#self.received + 1] = packet
		self.on_packet(self, packet)
	end
	drip(self)
	pour(self)
	if err == "closed" and not self.ended then
		self.ended = true
		-- As brokers do: a client that closes waits for that.
		self.connection:shutdown("send")
	end
end

--- Sends a packet.
-- @tparam table packet arguments of `make_packet`
function Server:send(packet)
	self:send_bytes(tostring(self.protocol.make_packet(packet)))
end

--- Sends bytes.
-- @tparam string bytes anything
function Server:send_bytes(bytes)
	assert(self.connection:send(bytes))
end

--- Sends bytes one by one.
-- @tparam string bytes anything
-- @tparam ?number pause seconds between two of them, as short as can be by default
function Server:drip(bytes, pause)
	self.drops, self.pause = self.drops .. bytes, pause or 0
end

--- Sends bytes as fast as the connection takes them, after what was poured before.
-- @tparam string bytes anything
function Server:pour(bytes)
	table.insert(self.pools, bytes)
end

--- Ends the server's half of the connection.
function Server:half_close()
	self.connection:shutdown("send")
end

--- Resets the connection.
function Server:reset()
	self.connection:setoption("linger", { on = true, timeout = 0 })
	self:drop()
end

--- Fills the backlog, so that the system drops further attempts to connect, until `make_room`.
function Server:fill()
	self.fillers = {}
	local connected
	repeat
		local filler = socket.tcp()
		filler:settimeout(FULL_AFTER)
		connected = filler:connect("127.0.0.1", self.port)
		table.insert(self.fillers, filler)
	until not connected
end

--- Takes connections again after `fill`.
function Server:make_room()
	for _, filler in ipairs(self.fillers) do
		filler:close()
	end
	self.fillers = nil
	local filler = self.listener:accept()
	while filler do
		filler:close()
		filler = self.listener:accept()
	end
end

--- Closes the connection.
function Server:drop()
	self.connection:close()
	self.connection = nil
end

--- Ends the server, which forgets what it has received.
function Server:stop()
	running[self] = nil
	self.received, self.buffer = {}, ""
	if self.fillers then
		self:make_room()
	end
	self.listener:close()
	if self.connection then
		self.connection:close()
	end
end

--- Counts received packets of a type.
-- @tparam number packet_type the type
-- @treturn number so many
function Server:count(packet_type)
	local count = 0
	for _, packet in ipairs(self.received) do
		if packet.type == packet_type then
			count = count + 1
		end
	end
	return count
end

local M = {}

--- Starts a server on a free port of 127.0.0.1.
-- @tparam number version 4 or 5
-- @tparam ?function on_packet `function(server, packet)` called with each received packet; accepts every CONNECT by
-- default
-- @return the server; `server.serve` is its function for an ioloop
function M.start(version, on_packet)
	local listener = listen()
	listener:settimeout(0)
	local _, port = listener:getsockname()
	local self = setmetatable({
		--- How to reach it.
		port = port,
		uri = "mqtt://127.0.0.1:" .. port,
		--- Packets received, over all connections.
		received = {},
		--- How many connections there have been.
		accepted = 0,
		--- Whether the client has ended the last one.
		ended = false,
		protocol = require("mqtt.protocol" .. version),
		listener = listener,
		on_packet = on_packet or M.accept,
		buffer = "",
		--- Whether it reads nothing any more.
		deaf = false,
		-- What is to be sent slowly, when and how slowly.
		drops = "",
		next_drop = 0,
		pause = 0,
		-- What is poured, where in the first of it, and how many bytes the connection has taken.
		pools = {},
		position = 1,
		poured = 0,
	}, Server)
	self.serve = function()
		self:poll()
		return POLL
	end
	running[self] = true
	return self
end

--- Stops every server that has not been stopped.
function M.stop_all()
	for server in pairs(running) do
		server:stop()
	end
end

--- Answers a CONNECT with a CONNACK, and nothing else.
-- @param server the server
-- @param packet what it has received
function M.accept(server, packet)
	if packet.type == 1 then
		server:send({ type = 2, sp = false, rc = 0 })
	end
end

return M

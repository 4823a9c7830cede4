--- Listens on ports that belong to this process alone.
-- A client may still try to reach a server that its test has ended. With a port that the system chooses, it could find
-- the server of another process that runs the specs at the same time.
local socket = require("socket")

-- Ports below those that the system gives to outgoing connections, in ranges: where they begin, how many ports a range
-- has, and how many ranges there are. The first port of a range belongs to the process that uses the range.
local FIRST, SIZE, RANGES = 10000, 1000, 10

local owned, port

local function bind(number)
	return (socket.bind("127.0.0.1", number))
end

local function claim()
	for range = 0, RANGES - 1 do
		port = FIRST + range * SIZE
		owned = bind(port)
		if owned then
			return port
		end
	end
	error("other processes use all ports for specs")
end

local first

--- Returns a socket that listens on 127.0.0.1.
return function()
	first = first or claim()
	for _ = 1, SIZE do
		port = port + 1
		if port == first + SIZE then
			port = first + 1
		end
		local listener = bind(port)
		if listener then
			return listener
		end
	end
	error("all ports of this process are in use")
end

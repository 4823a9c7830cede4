--- An HTTP proxy that knows CONNECT and asks for credentials. It is served by the loop of the test.
local listen = require("spec.support.listen")
local mime = require("mime")
local socket = require("socket")

-- How soon the loop asks again whether something has arrived, in seconds.
local POLL = 0.002

-- Moves what has arrived at one socket to another. Returns false at the end.
local function move(from, to)
	local bytes, err, partial = from:receive(65536)
	bytes = bytes or partial
	if #bytes > 0 then
		to:settimeout(10)
		to:send(bytes)
		to:settimeout(0)
	end
	return err ~= "closed"
end

-- Takes a request, and connects to where it wants to.
local function answer(self, client)
	client:settimeout(10)
	local target = client:receive():match("^CONNECT (%S+) HTTP/1.1$")
	local authorization
	repeat
		local line = client:receive()
		authorization = line:match("^Proxy%-Authorization: Basic (.*)$") or authorization
	until line == ""
	if authorization ~= self.authorization then
		client:send("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
		client:close()
		return
	end
	table.insert(self.targets, target)
	local host, port = target:match("^(.*):(%d+)$")
	local server = assert(socket.connect(host, tonumber(port)))
	client:send("HTTP/1.1 200 OK\r\n\r\n")
	client:settimeout(0)
	server:settimeout(0)
	table.insert(self.pairs, { client, server })
end

local M = {}

--- Starts a proxy on a free port of 127.0.0.1.
-- @tparam string username what it asks for
-- @tparam string password what it asks for
-- @treturn table the proxy: `port`; `targets`, the list of what it was asked to connect to; `serve`, its function for
-- an ioloop; `stop`, a function
function M.start(username, password)
	local listener = listen()
	listener:settimeout(0)
	local _, port = listener:getsockname()
	local self = {
		port = port,
		targets = {},
		pairs = {},
		authorization = mime.b64(username .. ":" .. password),
	}
	function self.serve()
		local client = listener:accept()
		if client then
			answer(self, client)
		end
		for i = #self.pairs, 1, -1 do
			local one, other = self.pairs[i][1], self.pairs[i][2]
			if not (move(one, other) and move(other, one)) then
				one:close()
				other:close()
				table.remove(self.pairs, i)
			end
		end
		return POLL
	end
	function self.stop()
		listener:close()
		for _, pair in ipairs(self.pairs) do
			pair[1]:close()
			pair[2]:close()
		end
	end
	return self
end

return M

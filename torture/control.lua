--- The side of the broker's control connection in the process that runs programs.

local socket = require("socket")

local data = require("torture.data")

local Control = {}
Control.__index = Control

local function pid()
	local file = assert(io.open("/proc/self/stat"))
	local number = file:read("*n")
	file:close()
	return ("%d"):format(number)
end

function Control:ask(line, more)
	assert(self.sock:send(line .. "\n" .. (more or "")))
	return assert(self.sock:receive("*l"))
end

--- Has brokers started for a program, and the watchdog watch this process.
-- @tparam table plans a list of plans for each client
-- @tparam number limit seconds until the watchdog kills this process
-- @treturn table the ports
function Control:begin(plans, limit)
	local text = data.write(plans)
	local ports = {}
	for port in self:ask(("begin %s %s %d"):format(self.pid, limit, #text), text):gmatch("%d+") do
		ports[#ports + 1] = tonumber(port)
	end
	return ports
end

--- From now on the brokers behave.
function Control:settle()
	self:ask("settle")
end

--- Returns the events so far.
-- @treturn table a list, for each client
function Control:log()
	return data.read(self:ask("log"))
end

--- Ends the brokers of the program.
function Control:stop()
	self:ask("stop")
end

local M = {}

--- Connects to a broker process.
-- @tparam number port of its control connection
function M.connect(port)
	local sock = assert(socket.connect("127.0.0.1", port))
	sock:setoption("tcp-nodelay", true)
	return setmetatable({ sock = sock, pid = pid() }, Control)
end

return M

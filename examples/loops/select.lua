-- A client in a loop around LuaSocket's select, beside a UDP socket of the program: the program publishes each
-- datagram. The broker's URI is the first argument or MQTT_URI in the environment.

local mqtt = require("mqtt")
local socket = require("socket")

local client = mqtt.client { uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost", clean = true }

local udp = assert(socket.udp())
assert(udp:setsockname("127.0.0.1", 0))

-- An object that select takes for a socket. Its descriptor is readable while the client has something to do.
local readable = {
	getfd = function()
		return client:getfd()
	end,
	dirty = function()
		return false
	end,
}

local received = 0
client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		client:subscribe { topic = "luamqtt/select", callback = function()
			udp:sendto("by UDP", udp:getsockname())
		end }
	end,
	message = function(message)
		received = received + 1
		print("received:", message)
		client:shutdown()
	end,
	error = print,
}

-- The first step starts to connect.
local wait = client:step()
while wait do
	-- The loop need not look at `wait`: the descriptor also becomes readable when it is time to reconnect.
	local ready = socket.select({ readable, udp }, nil)
	if ready[udp] then
		client:publish { topic = "luamqtt/select", payload = udp:receive() }
	end
	repeat
		wait = client:step()
	until wait ~= 0
end
assert(received == 1, "the client ended early")

-- A client without a socket: the program moves the bytes. Here they go through a "modem" that calls back, as a serial
-- line or a game engine would. The modem dials the broker by LuaSocket. The broker's URI is the first argument or
-- MQTT_URI in the environment.

local mqtt = require("mqtt")
local socket = require("socket")

local uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost"

-- The modem: `dial` and `send`, the callbacks `on_open`, `on_data` and `on_close`, and a clock. Knows nothing of MQTT.
local modem = { waiting = "" }

function modem.dial(host, port)
	modem.line = assert(socket.connect(host, port))
	modem.line:settimeout(0)
	modem.on_open()
end

function modem.send(data)
	modem.waiting = modem.waiting .. data
end

function modem.hang_up()
	modem.line:settimeout(1)
	modem.line:send(modem.waiting)
	modem.line:close()
	modem.line = nil
end

-- Runs until the line is closed, and calls `tick` again after as many seconds as it returned.
function modem.run(tick)
	local due = socket.gettime() + tick()
	while modem.line do
		local write = modem.waiting ~= "" and { modem.line } or nil
		socket.select({ modem.line }, write, math.max(due - socket.gettime(), 0))
		local last, _, partial = modem.line:send(modem.waiting)
		modem.waiting = modem.waiting:sub((last or partial) + 1)
		local data, err, rest = modem.line:receive(1024)
		data = data or rest
		if data ~= "" then
			modem.on_data(data)
		end
		if err == "closed" and modem.line then
			modem.on_close()
		end
		if due <= socket.gettime() then
			due = socket.gettime() + tick()
		end
	end
end

-- The uri only names the broker.
local client = mqtt.client { uri = uri, clean = true, connector = require("mqtt.connector.bytes") }

-- To be called whenever the client may have something to send.
local function flush()
	local data = client:take()
	if data then
		modem.send(data)
	end
end

function modem.on_open()
	client:start_connecting()
	flush()
end

function modem.on_data(data)
	client:feed(data)
	flush()
end

function modem.on_close()
	client:close_connection("connection closed by broker")
end

local received
client:on {
	connect = function(connack)
		assert(connack.rc == 0, connack:reason_string())
		client:subscribe { topic = "luamqtt/transport", qos = 1, callback = function()
			client:publish { topic = "luamqtt/transport", payload = "by modem", qos = 1 }
		end }
	end,
	message = function(message)
		print("received:", message)
		received = true
		client:acknowledge(message)
		client:disconnect()
	end,
	close = function(connection)
		print("closed:  ", connection.close_reason)
		-- The DISCONNECT
		flush()
		modem.hang_up()
	end,
	error = print,
}

local host, port = uri:match("^mqtt://([^:/]+):?(%d*)")
modem.dial(host, tonumber(port) or 1883)
modem.run(function()
	local seconds = client:check_keep_alive()
	flush()
	return seconds
end)
assert(received, "the line was closed early")

-- A web server in Copas that publishes: curl -d 21.5 http://localhost:8080/home/kitchen
-- Usage: copas-web.lua [URI [PORT]]. REQUESTS in the environment ends it after as many requests.

local copas = require("copas")
local mqtt = require("mqtt")
local socket = require("socket")

local left = tonumber(os.getenv("REQUESTS")) or math.huge

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	clean = true,
	reconnect = { min = 1, max = 60 },
}
client:on {
	connect = function(connack)
		print(connack.rc == 0 and "connected" or "refused: " .. connack:reason_string())
	end,
	error = print,
}

-- Reads a request. Returns its path and body.
local function read_request(browser)
	local path = (browser:receive("*l") or ""):match("^POST /(%S+)")
	local size = 0
	for line in function() return browser:receive("*l") end do
		if line == "" then
			break
		end
		size = tonumber(line:lower():match("^content%-length: *(%d+)")) or size
	end
	return path, path and browser:receive(size)
end

-- Each request has a thread, which may wait: here for the broker's acknowledgement.
local function answer(connection)
	local browser = copas.wrap(connection)
	local topic, payload = read_request(browser)
	local status, text = "400 Bad Request", "POST a payload to a topic"
	if topic and mqtt.validate_publish_topic(topic) then
		local puback, err = client:await("publish", { topic = topic, payload = payload, qos = 1, timeout = 5 })
		status, text = puback and "200 OK" or "503 Service Unavailable", puback and "published" or err
	end
	browser:send(("HTTP/1.0 %s\r\nContent-Length: %d\r\n\r\n%s\n"):format(status, #text + 1, text))
	connection:close()
	left = left - 1
end

require("mqtt.loop").add(client)
copas.addserver(assert(socket.bind("127.0.0.1", tonumber(arg[2]) or 8080)), answer)
while left > 0 do
	copas.step(1)
end
client:shutdown()

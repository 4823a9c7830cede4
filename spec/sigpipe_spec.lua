-- A peer that closes while it is written to. The client's program has the default signals: SIGPIPE would end it.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local listen = require("spec.support.listen")
local mime = require("mime")
local protocol = require("mqtt.protocol4")

-- How long anything may take that must happen, in seconds.
local PATIENCE = 10

local CONNACK = tostring(protocol.make_packet({ type = 2, sp = false, rc = 0 }))
-- So much that reading pauses until the program has taken it.
local LARGE = tostring(protocol.make_packet({ type = 3, topic = "t", payload = ("x"):rep(1025 * 1024), qos = 0 }))

-- Connects, tells the peer when it has received a message, which it does not take, and publishes large ones when it is
-- told to.
local PROGRAM = [[
	local mqtt = require("mqtt")
	mqtt.log.set(false)
	local client = mqtt.client({ uri = %q, clean = true, secure = %s, keep_alive = 0 })
	local reason
	client:on("close", function(conn)
		reason = conn.close_reason
	end)
	client:on("connect", function()
		while client:stats().messages_received < %d do
		end
		client:publish({ topic = "t" })
		io.read()
		for _ = 1, 10 do
			client:publish({ topic = "t", payload = ("x"):rep(200000) })
		end
	end)
	mqtt.run_ioloop(client)
	print(reason)
]]

local function to_tls(sock)
	local wrapped = assert(require("ssl").wrap(sock, {
		mode = "server",
		protocol = "any",
		certificate = broker.certs .. "/server.crt",
		key = broker.certs .. "/server.key",
	}))
	wrapped:settimeout(PATIENCE)
	assert(wrapped:dohandshake())
	return wrapped
end

-- Answers the opening handshake of WebSocket.
local function to_websocket(sock)
	local key
	repeat
		local line = assert(sock:receive())
		key = line:match("^[Ss]ec%-[Ww]eb[Ss]ocket%-[Kk]ey: (.*)$") or key
	until line == ""
	local pipe = io.popen("printf %s " .. key .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11 | sha1sum")
	local digest = pipe:read("*a"):match("^%x+"):gsub("%x%x", function(digits)
		return string.char(tonumber(digits, 16))
	end)
	pipe:close()
	assert(sock:send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		.. "Sec-WebSocket-Accept: " .. mime.b64(digest) .. "\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"))
end

local function plain(bytes)
	return bytes
end

local function frame(bytes)
	local size = #bytes
	local low = { math.floor(size / 65536), math.floor(size / 256) % 256, size % 256 }
	return "\130\127\0\0\0\0\0" .. string.char(low[1], low[2], low[3]) .. bytes
end

local function listen_tcp()
	local listener = listen()
	local _, port = listener:getsockname()
	return listener, port
end

local function listen_unix()
	local path = os.tmpname()
	os.remove(path)
	local unix = require("socket.unix")
	-- A function in older ones.
	local listener = (type(unix) == "table" and (unix.stream or unix.tcp) or unix)()
	assert(listener:bind(path))
	assert(listener:listen())
	return listener, path
end

local TRANSPORTS = {
	["unix #unix"] = { listen = listen_unix, uri = "unix://%s" },
	tcp = { listen = listen_tcp, uri = "mqtt://127.0.0.1:%d" },
	["tls #luasec"] = { listen = listen_tcp, uri = "mqtts://localhost:%d", tls = true },
	["ws #unix"] = { listen = listen_tcp, uri = "ws://127.0.0.1:%d", websocket = true },
	["wss #luasec"] = { listen = listen_tcp, uri = "wss://localhost:%d", tls = true, websocket = true },
}

-- Takes a packet from the client that is not large.
local function take_packet(sock, transport)
	local size = assert(sock:receive(2)):byte(2)
	-- A frame holds nothing else, and is masked.
	assert(sock:receive(transport.websocket and 4 + size % 128 or size))
end

-- Runs the program with a peer that accepts it, perhaps sends so much that it pauses, and closes; only then are large
-- messages published.
local function run(transport, is_paused)
	local listener, where = transport.listen()
	listener:settimeout(PATIENCE)
	local secure = transport.tls and ("{ cafile = %q }"):format(broker.cafile) or "nil"
	local running = child.start(PROGRAM, transport.uri:format(where), secure, is_paused and 1 or 0)
	local ok, err = pcall(function()
		local sock = assert(listener:accept())
		sock:settimeout(PATIENCE)
		if transport.tls then
			sock = to_tls(sock)
		end
		if transport.websocket then
			to_websocket(sock)
		end
		local packed = transport.websocket and frame or plain
		take_packet(sock, transport)
		assert(sock:send(packed(CONNACK)))
		if is_paused then
			assert(sock:send(packed(LARGE)))
		end
		take_packet(sock, transport)
		sock:close()
	end)
	listener:close()
	running.tell("go")
	local output, status = running.finish()
	if transport.listen == listen_unix then
		os.remove(where)
	end
	assert(ok, err)
	return output, status
end

describe("a program with the default signals", function()
	for name, transport in pairs(TRANSPORTS) do
		it("survives a peer that has closed, by " .. name, function()
			assert.same({ "connection closed by broker\n", 0 }, { run(transport, false) })
		end)

		it("survives a peer that has closed, by " .. name .. ", while reading is paused", function()
			assert.same({ "connection closed by broker\n", 0 }, { run(transport, true) })
		end)
	end
end)

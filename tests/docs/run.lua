-- Runs a code block of the documentation, see scripts/test-docs: run.lua FILE NAME
--
-- Hosts in URIs mean the broker of scripts/with-broker, whose listener is chosen by the scheme. The comment before a
-- block may call these:
--
-- given(topic, payload)  the broker has such a retained message
-- expect(line, ...)      the block prints these lines, in whatever order, and is ended then
-- client_of(filter, version)  returns a client of MQTT 3.1.1 unless told otherwise, that subscribes to the filter, if
--                        given, and is served after the block
-- broker(uri, real)      a URI that means a certain listener

local mqtt = require("mqtt")

local getenv = os.getenv
local create = mqtt.client

local listeners = {
	mqtt = getenv("MQTT_URI"),
	mqtts = getenv("MQTTS_URI"),
	ws = "ws://127.0.0.1:" .. getenv("MQTT_TEST_WS_PORT"),
	wss = "wss://localhost:" .. getenv("MQTT_TEST_WSS_PORT"),
	unix = "unix://" .. getenv("MQTT_TEST_SOCKET"),
}
local brokers = {}

-- What a URI means here; credentials are kept.
local function real(uri)
	if type(uri) == "table" then
		local uris = {}
		for i, one in ipairs(uri) do
			uris[i] = real(one)
		end
		return uris
	end
	local scheme = uri:match("^(%w+)://") or "mqtt"
	local credentials = uri:match("^%w+://(.*@)") or ""
	return brokers[uri] or (listeners[scheme]:gsub("://", "://" .. credentials:gsub("%%", "%%%%"), 1))
end

function mqtt.client(opts)
	local own = {}
	for key, value in pairs(opts) do
		own[key] = value
	end
	own.uri = opts.connector == require("mqtt.connector.bytes") and opts.uri or real(opts.uri)
	return create(own)
end

local expected, missing = {}, 0

-- Prints, and ends the program when everything expected has been printed.
_G.print = function(...)
	local texts = {}
	for i = 1, select("#", ...) do
		texts[i] = tostring((select(i, ...)))
	end
	local line = table.concat(texts, " ")
	io.write(line, "\n")
	if expected[line] then
		expected[line] = nil
		missing = missing - 1
		if missing == 0 then
			io.stdout:flush()
			os.exit(0)
		end
	end
end

local comment, served = {}, {}

function comment.client_of(filter, version)
	local client = create { uri = listeners.mqtt, clean = true, version = version }
	client:on("connect", function()
		if filter then
			client:subscribe { topic = filter, qos = 1 }
		end
	end)
	served[#served + 1] = client
	return client
end

function comment.broker(uri, listener)
	brokers[uri] = listener
end

function comment.expect(...)
	for _, line in ipairs({ ... }) do
		expected[line] = true
		missing = missing + 1
	end
end

function comment.given(topic, payload)
	local client = create { uri = listeners.mqtt, clean = true }
	client:on("connect", function()
		client:publish { topic = topic, payload = payload, qos = 1, retain = true, callback = function()
			client:disconnect()
		end }
	end)
	mqtt.run_sync(client)
end

for name, func in pairs(comment) do
	_G[name] = func
end

local file = assert(io.open(arg[1]))
local text = file:read("*a")
file:close()
local chunk = assert((loadstring or load)(text, "@" .. arg[2]))
chunk()
if served[1] then
	mqtt.run_ioloop(served[1])
end
for line in pairs(expected) do
	error(arg[2] .. " ended without printing: " .. line, 0)
end

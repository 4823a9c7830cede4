-- Passwords and private keys stay out of errors, logs and everything that can be printed.

local broker = require("spec.support.broker")
local child = require("spec.support.child")

local PASSWORD, PASSPHRASE, TOKEN = "pa55word-of-mine", "pa55phrase-of-mine", "t0ken-of-mine"

-- Logs and prints whatever there is to print, in an interpreter whose LuaLogging prints every line.
local script = [[
	local function out(...)
		for i = 1, select("#", ...) do
			io.stdout:write(tostring((select(i, ...))), "\t")
		end
		io.stdout:write("\n")
	end
	local logger = setmetatable({}, { __index = function(_, level)
		return function(_, format, ...)
			out("log", level, format:format(...))
		end
	end })
	package.loaded.logging = { _VERSION = "LuaLogging", defaultLogger = function()
		return logger
	end }
	local mqtt = require("mqtt")
	local PASSWORD, PASSPHRASE, TOKEN = %q, %q, %q

	-- Runs a client to its end.
	local function run(opts)
		opts.clean = true
		opts.on = {
			connect = function(packet, client)
				out("connect", packet, client)
				if packet.rc == 0 then
					client:publish({ topic = "t", payload = "x", qos = 1, callback = function()
						client:disconnect()
					end })
				end
			end,
			error = function(...)
				out("error", ...)
			end,
			close = function(connection)
				out("close", connection.close_reason)
			end,
		}
		local ok, client = pcall(mqtt.client, opts)
		out("client", ok, client)
		if ok then
			mqtt.run_ioloop(client)
			out("client", client)
		end
	end

	for _, connector in ipairs({ "native", "luasocket" }) do
		connector = connector ~= "native" and require("mqtt.connector." .. connector) or nil
		for _, version in ipairs({ 4, 5 }) do
			run({ uri = %q, version = version, username = "user", password = PASSWORD, connector = connector })
			run({ uri = "mqtt://user:" .. PASSWORD .. "@%s", version = version, connector = connector })
			-- The broker knows another.
			run({ uri = "127.0.0.1:%d", version = version, username = "user", password = PASSWORD, connector = connector })
			-- Nobody listens, no such name, a port that is none, no host.
			for _, rest in ipairs({ "@127.0.0.1:1", "@no.such.name.invalid", "@host:port", "" }) do
				run({ uri = "mqtt://user:" .. PASSWORD .. rest, version = version, connector = connector })
			end
			run({ uri = "host", version = version, password = { PASSWORD }, username = "user", connector = connector })
		end
	end
	run({ uri = %q, version = 5, connector = nil, properties = {
		authentication_method = "SCRAM", authentication_data = TOKEN,
	} })

	-- Private keys: the wrong password, no certificate, a key where a certificate belongs, one without its password.
	local certificate, key, encrypted = %q, %q, %q
	for _, secure in ipairs({
		{ certificate = certificate, key = encrypted, password = PASSPHRASE },
		{ certificate = certificate, key = encrypted },
		{ certificate = key, key = key },
		{ certificate = key, key = encrypted, password = PASSPHRASE },
		{ cafile = key },
		{ key = key, password = PASSPHRASE },
	}) do
		run({ uri = "mqtts://localhost:1", secure = secure })
	end

	-- Packets.
	for version = 4, 5 do
		local protocol = require("mqtt.protocol" .. version)
		local connect = {
			type = 1, version = version, id = "id", clean = true, keep_alive = 0, username = "user", password = PASSWORD,
			properties = version == 5 and { authentication_method = "SCRAM", authentication_data = TOKEN } or nil,
		}
		local bytes = tostring(protocol.make_packet(connect))
		local position = 1
		local packet = require("mqtt.protocol").parse_packet_connect(function(size)
			position = position + size
			return bytes:sub(position - size, position - 1)
		end)
		assert(packet.password == PASSWORD)
		out("packet", packet)
		connect.password = { PASSWORD }
		out("packet", pcall(protocol.make_packet, connect))
	end
]]

-- What only a private key's file holds.
local function secret_lines(path)
	local lines = {}
	for line in io.lines(path) do
		if not line:find("-----", 1, true) and #line > 20 then
			lines[#lines + 1] = line
		end
	end
	return lines
end

describe("secrets", function()
	local output

	setup(function()
		output = child.run(
			script, PASSWORD, PASSPHRASE, TOKEN, broker.uri, (broker.uri:gsub("^mqtt://", "")), broker.password_port,
			broker.uri, broker.certificate, broker.key_pkcs8, broker.key_encrypted
		)
	end)

	-- If these are not printed, nothing is shown by what is missing.
	for name, text in pairs({
		["the client's name"] = "mqtt.client{id=",
		["log lines"] = "log\tinfo\t[LuaMQTT] client",
		["who connects"] = "sending CONNECT (user 'user')",
		["a success"] = "connect\tCONNACK{rc=0, ",
		["a refusal"] = "error\tCONNECT failed with CONNACK [rc=",
		["a server that is not there"] = "refused",
		["a wrong password of a key"] = "cannot be decrypted with the password given",
		["packets"] = "packet\tCONNECT{",
	}) do
		it("are looked for where there is something to see: " .. name, function()
			assert.truthy(output:find(text, 1, true), output)
		end)
	end

	for name, secret in pairs({ password = PASSWORD, passphrase = PASSPHRASE, ["authentication data"] = TOKEN }) do
		it("are never shown: " .. name, function()
			assert.falsy(output:find(secret, 1, true), output)
		end)
	end

	for _, path in ipairs({ broker.key_pkcs8, broker.key_encrypted }) do
		it("are never shown: private key " .. path:match("[^/]*$"), function()
			local lines = secret_lines(path)
			assert.is_true(#lines > 2)
			for _, line in ipairs(lines) do
				assert.falsy(output:find(line, 1, true), output)
			end
		end)
	end
end)

--- The broker beneath the tests, as `scripts/with-broker` describes it in the environment.
local function env(name)
	return os.getenv(name) or error(name .. " is not set: run the specs beneath scripts/with-broker", 0)
end

local function port(name)
	return tonumber(env("MQTT_TEST_" .. name .. "_PORT"))
end

local certs = env("MQTT_TEST_CERTS")

return {
	uri = env("MQTT_URI"),
	tls_uri = env("MQTTS_URI"),
	--- Plain listener, on 127.0.0.1 and, if `ipv6`, on ::1.
	port = tonumber(env("MQTT_TEST_PORT")),
	ipv6 = env("MQTT_TEST_IPV6") == "yes",
	--- Plain listener that asks for `username` and `password`.
	password_port = port("PASSWORD"),
	username = env("MQTT_TEST_USERNAME"),
	password = env("MQTT_TEST_PASSWORD"),
	--- TLS listeners: a good certificate, a client's wanted, and two bad certificates.
	tls_port = port("TLS"),
	mutual_port = port("MUTUAL"),
	expired_port = port("EXPIRED"),
	wrong_name_port = port("WRONG_NAME"),
	--- WebSocket listeners, plain and TLS, and the path of a Unix socket.
	ws_port = port("WS"),
	wss_port = port("WSS"),
	socket = env("MQTT_TEST_SOCKET"),
	--- The directory of the certificates; the CA, as a file and as a hashed directory.
	certs = certs,
	cafile = certs .. "/ca.crt",
	capath = certs .. "/ca",
	--- Client certificates, and their keys in every form; the encrypted one has `key_password`.
	certificate = certs .. "/client.crt",
	key_pkcs8 = certs .. "/client.pkcs8.key",
	key_pkcs1 = certs .. "/client.pkcs1.key",
	key_encrypted = certs .. "/client.encrypted.key",
	key_password = "secret",
	ec_certificate = certs .. "/client-ec.crt",
	ec_key_sec1 = certs .. "/client-ec.sec1.key",

	--- Follows the broker's log from here on.
	-- @treturn function returns what has been written since
	follow_log = function()
		local function read(from)
			local file = assert(io.open(env("MQTT_TEST_LOG")))
			local begin = assert(file:seek(from and "set" or "end", from))
			local text = file:read("*a")
			file:close()
			return text, begin
		end
		local _, from = read()
		return function()
			return (read(from))
		end
	end,
}

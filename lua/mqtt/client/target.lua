--- The target of a connection, and the way there: from a uri and the options of a client.
-- Internal to `mqtt.client`. Nothing here connects. A *connection table*, which connectors are given, has the fields
-- `uri`, `protocol`, `host`, `port`, `path`, `secure`, `secure_params` and `ssl_module`.

local const = require("mqtt.const")
local core = require("mqtt.core")

local each, error, ipairs, pcall = pairs, error, ipairs, pcall
local setmetatable, tostring, type = setmetatable, tostring, type
local str_format = string.format

local target = {}

-- In place of a missing table. Not to be changed.
local NOTHING = {}

-- The protocols: TLS or not, the default port, and the default path of WebSocket. A Unix socket has no port; its path
-- is in the uri.
local PROTOCOLS = {
	mqtt = { secure = false, port = 1883 },
	mqtts = { secure = true, port = 8883 },
	ws = { secure = false, port = 80, path = "/mqtt" },
	wss = { secure = true, port = 443, path = "/mqtt" },
	unix = { secure = false },
}

--- Fills a connection table from its uri and the options, and the options username, password and secure from the uri.
-- Explicit options win. Raises on contradictions.
-- @tparam table opts the options
-- @tparam table conn the connection table with its `uri`
function target.parse(opts, conn)
	local ok, uri_scheme, username, password, uri_host, uri_port, path = core.parse_uri(conn.uri)
	if not ok then
		-- On failure the second value is the error message.
		error(uri_scheme, 0)
	end
	local scheme = opts.protocol or uri_scheme
	local means = PROTOCOLS[scheme]
	if scheme and not means then
		error("only 'mqtt', 'mqtts', 'ws', 'wss' and 'unix' are supported as protocol, got '" .. scheme .. "'", 0)
	end
	if uri_scheme and scheme ~= uri_scheme and scheme ~= uri_scheme .. "s" then
		-- An option may add TLS to the scheme of the uri; it may not drop TLS.
		error(str_format("cannot use protocol '%s' with a uri that begins with '%s://'", scheme, uri_scheme), 0)
	elseif scheme and opts.secure == nil then
		opts.secure = means.secure
	elseif scheme and means.secure and not opts.secure then
		error("cannot use protocol '" .. scheme .. "' with 'secure=false'", 0)
	elseif scheme and not means.secure and opts.secure then
		error("cannot use protocol '" .. scheme .. "' with 'secure=true|table'", 0)
	end

	conn.secure = not not opts.secure
	conn.protocol = scheme or (conn.secure and "mqtts" or "mqtt")
	means = PROTOCOLS[conn.protocol]
	conn.path = path or means.path
	if conn.protocol == "unix" then
		if uri_scheme ~= "unix" then
			error("expecting a uri as in 'unix:///run/mosquitto.sock' with protocol 'unix'", 0)
		end
	else
		conn.host = opts.host or uri_host
		conn.port = opts.port or uri_port or means.port
		if not conn.host or conn.host == "" then
			-- The uri is not quoted: it may hold a password.
			error("expecting a host in uri", 0)
		elseif conn.port < 1 or conn.port > 65535 or conn.port % 1 ~= 0 then
			error("expecting port to be a whole number from 1 to 65535, got " .. tostring(conn.port), 0)
		end
	end
	opts.username = opts.username or username
	opts.password = opts.password or password
	if opts.password and not opts.username and opts.version ~= const.v50 then
		error("password is not accepted in absence of username", 0)
	end
	conn.secure_params = type(opts.secure) == "table" and opts.secure or nil
	conn.ssl_module = conn.secure and (opts.ssl_module or "ssl") or nil
end

-- The options that a uri may give. Most uris give `secure` alone: clients share these two tables.
local URI_OPTIONS = { "username", "password", "secure" }
local SECURE_ALONE = { [false] = { secure = false }, [true] = { secure = true } }

-- The metatable of a view of the options, to which a uri adds while it is parsed.
local parsed_mt = {}

-- Fills a connection table as `target.parse` does. First takes back the options that the last uri gave: they are not
-- for another broker. In a list of brokers, a table of TLS settings is only for brokers reached by TLS. Returns the
-- options that this uri gives, or nil.
local function fill(opts, conn, last)
	local now
	for _, key in ipairs(URI_OPTIONS) do
		if last[key] ~= nil and opts[key] == last[key] then
			opts[key] = nil
		end
	end
	parsed_mt.__index = opts
	local parsed = setmetatable({}, parsed_mt)
	if type(opts.uri) == "table" and type(opts.secure) == "table" then
		local is_uri, scheme = core.parse_uri(conn.uri)
		if is_uri and scheme and not PROTOCOLS[scheme].secure then
			parsed.secure = false
		end
	end
	local ok, err = pcall(target.parse, parsed, conn)
	for _, key in ipairs(ok and URI_OPTIONS or NOTHING) do
		if opts[key] == nil and parsed[key] ~= nil then
			now = now or {}
			now[key] = parsed[key]
			opts[key] = parsed[key]
		end
	end
	-- The metatable must not keep the client's options from being collected.
	parsed_mt.__index = nil
	if not ok then
		error(err, 0)
	end
	if now and now.username == nil and now.password == nil then
		now = SECURE_ALONE[now.secure]
	end
	return now
end

--- Makes the connection table for a broker. Raises if uri and options contradict each other.
-- @tparam table opts the client's options; the uri sets `username`, `password` and `secure` unless they are given
-- @tparam[opt] table last the options that the uri of the last connection gave: they are taken back
-- @tparam string uri of the broker
-- @tparam[opt] string host of the server that the broker has referred to
-- @tparam[opt] number port of that server
-- @treturn table the connection table
-- @treturn table the options that this uri gives, or nil
function target.new(opts, last, uri, host, port)
	local conn = { uri = uri }
	local given = fill(opts, conn, last or NOTHING)
	if host then
		if conn.protocol == "unix" then
			conn.protocol, conn.path = "mqtt", nil
		end
		conn.host, conn.port = host, port or PROTOCOLS[conn.protocol].port
		local is_ipv6 = host:find(":", 1, true)
		conn.uri = str_format(is_ipv6 and "%s://[%s]:%d" or "%s://%s:%d", conn.protocol, host, conn.port)
			.. (conn.path or "")
	end
	return conn, given
end

--- Raises if connectors do not support the way of a connection.
-- @tparam table opts the client's options
-- @tparam table conn the connection table
function target.check_connector(opts, conn)
	local what = opts.proxy and "the option proxy"
	if conn.protocol ~= "mqtt" and conn.protocol ~= "mqtts" then
		what = "protocol '" .. conn.protocol .. "'"
	end
	if what then
		error(what .. " takes a native connection: mqtt.connector.native, without the option ssl_module", 0)
	end
end

--- Makes the TLS settings of a native connection. Raises if they are bad.
-- @tparam table conn the connection table
-- @treturn userdata the settings, or nil without TLS
function target.tls(conn)
	if not conn.secure or not core.tls then
		-- In a library built without TLS, `core.check_target` reports this.
		return nil
	end
	local settings = {}
	for key, value in each(conn.secure_params or NOTHING) do
		settings[key] = value
	end
	if type(settings.password) == "function" then
		settings.password = settings.password()
	end
	local tls, err = core.tls(settings)
	if not tls then
		error(err, 0)
	end
	return tls
end

--- The broker of a connection, for the log. In three parts, which are joined only if somebody reads the log.
-- @tparam table conn the connection table
function target.place(conn)
	if conn.port then
		return conn.host, ":", conn.port
	end
	return conn.path, "", ""
end

return target

--- TLS by LuaSec, for connectors on LuaSocket's sockets.
-- As on the native connection, the server's certificate is verified against the system's root certificates, and its
-- name is verified too, unless `secure` switches this off. LuaSec 1.2 compares no names, so this module compares them,
-- right after the handshake. LuaSec does not tell the fault of a certificate; the native connection does.
-- @module mqtt.connector.base.luasec

local verifies = require("mqtt.connector.base.verifies")

local each, error, ipairs, pcall, require = pairs, error, ipairs, pcall, require
local setmetatable, tostring, type = setmetatable, tostring, type
local getenv, open = os.getenv, io.open
local concat = table.concat

local luasec = {}

-- The files of root certificates in systems: Debian, Fedora, openSUSE, RHEL, Alpine and the BSDs, macOS.
local SYSTEM_ROOTS = {
	"/etc/ssl/certs/ca-certificates.crt",
	"/etc/pki/tls/certs/ca-bundle.crt",
	"/etc/ssl/ca-bundle.pem",
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem",
}

-- The identifier of the extension subjectAltName (RFC 5280, 4.2.1.6).
local SUBJECT_ALT_NAME = "2.5.29.17"

local REFUSED = "verification of the server's certificate failed"

-- Sets the source of root certificates, if the program has set none. Raises an error if the system has none.
local function add_roots(params)
	if params.cafile or params.capath then
		return
	end
	params.cafile, params.capath = getenv("SSL_CERT_FILE"), getenv("SSL_CERT_DIR")
	if params.cafile or params.capath then
		return
	end
	for _, path in ipairs(SYSTEM_ROOTS) do
		local file = open(path)
		if file then
			file:close()
			params.cafile = path
			return
		end
	end
	error("secure: no root certificates found in the system: give cafile or capath, set SSL_CERT_FILE or SSL_CERT_DIR,"
		.. " or install the ca-certificates package", 0)
end

--- Completes settings for LuaSec's `newcontext` or `wrap`. Raises an error if they are not usable.
-- @tparam[opt] table given the settings of the program
-- @treturn table a copy of the settings, with defaults for missing fields
function luasec.complete(given)
	if given ~= nil and type(given) ~= "table" then
		error("expecting secure_params to be a table, got: " .. type(given), 0)
	end
	local params = {
		mode = "client",
		protocol = "any",
		verify = "peer",
		options = { "all", "no_sslv2", "no_sslv3", "no_tlsv1", "no_tlsv1_1" },
	}
	for key, value in each(given or {}) do
		params[key] = value
	end
	if params.mode ~= "client" then
		error("secure: expecting mode to be \"client\", got: " .. tostring(params.mode), 0)
	end
	if verifies(params) then
		if type(params.verify) == "table" and params.verify[1] == nil then
			-- An empty list of flags would switch verification off.
			params.verify = "peer"
		end
		add_roots(params)
	end
	return params
end

--- Checks the settings of a connection, and completes them: `conn.secure_params` becomes a table for LuaSec's
-- `newcontext`, `conn.secure_context` the context. Raises an error if the settings are not usable. Without
-- `conn.secure` it does nothing.
-- @tparam table conn the connection
function luasec.validate(conn)
	if not conn.secure then
		return
	end
	local found, ssl = pcall(require, conn.ssl_module or "ssl")
	if not found then
		error("secure: ssl_module '" .. tostring(conn.ssl_module or "ssl") .. "' cannot be loaded: " .. tostring(ssl), 0)
	end
	local params = luasec.complete(conn.secure_params)
	local context, err = ssl.newcontext(params)
	if not context then
		error("secure: " .. tostring(err), 0)
	end
	conn.secure_params, conn.secure_context = params, context
end

local function is_address(name)
	return name:find(":", 1, true) ~= nil or name:find("^%d+%.%d+%.%d+%.%d+$") ~= nil
end

-- Whether a name of a certificate matches: its labels are equal, or its first label is a wildcard (RFC 6125, 6.4.3).
local function matches(pattern, name)
	pattern = pattern:lower()
	return pattern == name or pattern:sub(1, 2) == "*." and name:match("^[^.]+%.(.+)$") == pattern:sub(3)
end

-- Returns the fault of a certificate's names, or nil.
local function explain_names(certificate, name)
	local names = certificate:extensions()[SUBJECT_ALT_NAME] or {}
	local list, kind = names.dNSName, "name"
	if is_address(name) then
		list, kind = names.iPAddress, "address"
	end
	name = name:lower():gsub("%.$", "")
	for _, pattern in ipairs(list or {}) do
		if matches(pattern, name) then
			return nil
		end
	end
	return ("it is not valid for name '%s', %s"):format(name,
		list and "only for " .. concat(list, ", ") or "its subjectAltName has no such " .. kind)
end

--- Turns a connected socket into a TLS socket.
-- @tparam table conn the connection, validated
-- @param sock LuaSocket's socket, not usable afterwards
-- @tparam function handshake called with LuaSec's socket; returns true, or false and an error message; may yield
-- @return LuaSec's socket, or nil and an error message
function luasec.wrap(conn, sock, handshake)
	local params = conn.secure_params
	local name = params.server_name or conn.host
	local wrapped, err = require(conn.ssl_module or "ssl").wrap(sock, conn.secure_context)
	local ok = wrapped ~= nil
	if ok then
		-- SNI has no addresses (RFC 6066, 3).
		if not is_address(name) then
			wrapped:sni(name)
		end
		ok, err = handshake(wrapped)
	end
	if ok and verifies(params) then
		err = explain_names(wrapped:getpeercertificate(), name)
		ok = not err
		err = err and REFUSED .. ": " .. err
	elseif not ok and tostring(err):find("certificate verify failed", 1, true) then
		err = REFUSED
	end
	if ok then
		conn.tls_version = wrapped.info and wrapped:info("protocol")
		return wrapped
	end
	(wrapped or sock):close()
	return nil, ("TLS handshake with '%s:%s' failed: %s"):format(conn.host, conn.port, tostring(err))
end

-- A call of the module is a call of `luasec.validate`.
return setmetatable(luasec, {
	__call = function(_, conn)
		luasec.validate(conn)
	end,
})

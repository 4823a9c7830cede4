-- The TLS handshake of cosockets, for `mqtt.connector.nginx` and `mqtt.ngxsocket`.

local error, pcall, require, tostring = error, pcall, require, tostring

-- Where a handshake is over before it has to wait, and has failed, lua-resty-core raises, with the reason still where
-- it keeps them. (Asked for no session to use again it would say that all is well.)
-- Returns a true value, or nil and an error message.
return function(sock, name, verify)
	local called, ok, err = pcall(sock.sslhandshake, sock, nil, name, verify)
	if called then
		return ok, err
	elseif not tostring(ok):find("assertion failed", 1, true) then
		error(ok, 0)
	end
	local found, reason = pcall(function()
		return require("ffi").string(require("resty.core.base").get_errmsg_ptr()[0])
	end)
	return nil, found and reason or "certificate refused"
end

-- The TLS handshake of cosockets, for `mqtt.connector.nginx` and `mqtt.ngxsocket`.

local error, pcall, require, tostring = error, pcall, require, tostring

-- Returns a true value, or nil and an error message. If a handshake fails before it has to wait, lua-resty-core raises
-- an error; its buffer for error messages still holds the reason. (If no session were requested, lua-resty-core would
-- report success.)
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

-- What LuaSec's `verify` says about verification, for the connectors that do TLS.

local ipairs, type = ipairs, type

-- Whether settings ask for verification. LuaSec joins flags, of which "none" is no bit at all: so nothing but "none",
-- alone, switches it off.
return function(params)
	local verify = params.verify
	if type(verify) ~= "table" then
		return verify ~= "none"
	end
	for _, flag in ipairs(verify) do
		if flag ~= "none" then
			return true
		end
	end
	return verify[1] == nil
end

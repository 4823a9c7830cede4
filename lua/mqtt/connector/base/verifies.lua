-- Reads LuaSec's setting `verify`, for the connectors that do TLS.

local ipairs, type = ipairs, type

-- Whether settings ask for verification. LuaSec joins flags as bits, and "none" has no bit: so only "none", alone,
-- switches verification off.
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

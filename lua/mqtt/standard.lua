-- What files take of Lua's standard library that are loaded when the program first needs them: by then the program may
-- have changed its globals. Internal.

local pairs = pairs

local function copy(library)
	local own = {}
	for name, value in pairs(library) do
		own[name] = value
	end
	return own
end

return {
	assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, require = require,
	setmetatable = setmetatable, tostring = tostring, type = type,
	math = copy(math), string = copy(string), table = copy(table),
}

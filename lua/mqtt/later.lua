-- Files of this library that are loaded when the program first needs them. Internal.
-- Their text is read now, and they get Lua's functions of now: by then the program may have changed its directory, its
-- search path or its globals.

local assert, each, ipairs, load, loadstring, setfenv = assert, pairs, ipairs, load, loadstring, setfenv
local io, package = io, package

local function copy(library)
	local own = {}
	for name, value in each(library) do
		own[name] = value
	end
	return own
end

-- The globals of the files.
local environment = {
	assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, require = require,
	setmetatable = setmetatable, tostring = tostring, type = type,
	math = copy(math), string = copy(string), table = copy(table),
}

-- Opens the file of a module. Returns the handle and the path, or nothing.
local function open(name)
	for template in package.path:gmatch("[^;]+") do
		local path = template:gsub("?", (name:gsub("%.", "/")))
		local handle = io.open(path)
		if handle then
			return handle, path
		end
	end
end

local function compile(text, path)
	if setfenv then
		return setfenv(assert(loadstring(text, "@" .. path)), environment)
	end
	return assert(load(text, "@" .. path, "t", environment))
end

-- Reads the text of modules, to be loaded by `require`. Modules that are found in another way are left to `require`.
-- `names` is a list of their names.
return function(names)
	for _, name in ipairs(names) do
		local handle, path
		if io and not (package.loaded[name] or package.preload[name]) then
			handle, path = open(name)
		end
		if handle then
			local text = handle:read("*a")
			handle:close()
			package.preload[name] = function()
				return compile(text, path)(name)
			end
		end
	end
end

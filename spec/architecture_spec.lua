-- The drawing in docs/architecture.md, compared with what the files import.

local lfs = require("lfs")

local function read(path)
	local file = assert(io.open(path))
	local text = file:read("*a")
	file:close()
	return text
end

-- The files below a directory that have an extension, without it.
local function files_below(directory, extension, prefix, into)
	into, prefix = into or {}, prefix or ""
	for name in lfs.dir(directory) do
		local path = directory .. "/" .. name
		if name:find("^[^.]") and lfs.attributes(path, "mode") == "directory" then
			files_below(path, extension, prefix .. name .. "/", into)
		elseif name:find("%." .. extension .. "$") then
			into[#into + 1] = prefix .. name:gsub("%." .. extension .. "$", "")
		end
	end
	table.sort(into)
	return into
end

local drawing = assert(read("docs/architecture.md"):match("```mermaid\n(.-)\n```"))

-- The rooms of Lua files by pattern, and whether a room is of Rust.
local patterns, rooms = {}, {}
for room, label in drawing:gmatch('\n    (%w+)%["(.-)"%]') do
	rooms[room] = true
	for name in (label:match("<br/>(.*)") or ""):gmatch("[^, ]+") do
		patterns[#patterns + 1] = { "^" .. name:gsub("%p", "%%%0"):gsub("%%%*", ".*") .. "$", room }
	end
end

-- The rooms that arrows lead to from each room, by any number of steps.
local reach = {}
local function follow(from, room)
	for source, to in drawing:gmatch("\n    (%w+) %-%-[^\n]-> (%w+)") do
		assert(rooms[source] and rooms[to], source .. " --> " .. to)
		if source == room and not reach[from][to] then
			reach[from][to] = true
			follow(from, to)
		end
	end
end
for room in pairs(rooms) do
	reach[room] = { [room] = true }
	follow(room, room)
end

-- The room of a Lua file.
local function room_of(file)
	local found
	for _, pattern in ipairs(patterns) do
		if file:find(pattern[1]) then
			assert(not found, file .. " is in two rooms")
			found = pattern[2]
		end
	end
	return assert(found, file .. " is in no room")
end

-- A Lua file of the library, without its comments.
local function code_of(file)
	return (read("lua/mqtt/" .. file .. ".lua"):gsub("%-%-[^\n]*", ""))
end

describe("docs/architecture.md", function()
	it("has arrows that point one way", function()
		for from, to in pairs(reach) do
			for room in pairs(to) do
				assert.is_true(room == from or not reach[room][from], from .. " and " .. room)
			end
		end
	end)

	it("draws what Lua files require", function()
		local seen = 0
		for _, file in ipairs(files_below("lua/mqtt", "lua")) do
			local code = code_of(file)
			local room = room_of(file)
			assert.is_nil(code:find('require%W+"mqtt"'), file)
			for name in code:gmatch('"(mqtt%.[%w_.-]*)"') do
				local other = name:gsub("^mqtt%.", ""):gsub("%.", "/")
				local path = "lua/mqtt/" .. other
				if lfs.attributes(path, "mode") == "directory" and not lfs.attributes(path .. ".lua") then
					other = other .. "/init"
				end
				if lfs.attributes("lua/mqtt/" .. other .. ".lua") then
					seen = seen + 1
					local target = room_of(other)
					assert.is_true(reach[room][target], ("%s requires %s: %s --> %s"):format(file, other, room, target))
				end
			end
		end
		assert.is_true(seen > 50)
	end)

	it("has loops that end in a finalizer of an old LuaJIT too", function()
		local seen = 0
		for _, file in ipairs(files_below("lua/mqtt", "lua")) do
			local code = code_of(file)
			for iterator in code:gmatch("%sfor%s[%w_, ]-%sin%s+([%w_.]+)") do
				seen = seen + 1
				assert.is_true(iterator ~= "pairs" and iterator ~= "next", file .. ": a loop with " .. iterator)
			end
		end
		assert.is_true(seen > 50)
	end)

	it("has all fields of a client in one list", function()
		local source = read("lua/mqtt/client.lua")
		local listed, used = {}, 0
		for name in source:match("\nlocal Client = {(.-)\n}"):gmatch("\n\t(_[%w_]+) =") do
			listed[name] = true
		end
		for _, file in ipairs(files_below("lua/mqtt", "lua")) do
			local room = room_of(file)
			local code = code_of(file)
			for object, name in code:gmatch("%f[%w_](%l+)%.(_[%w_]+)") do
				if object == "client" or object == "self" and room == "client" then
					used = used + 1
					assert.is_true(listed[name] or require("mqtt.client").create({ uri = "host", clean = true })[name] ~= nil,
						("%s: %s.%s"):format(file, object, name))
				end
			end
		end
		assert.is_true(used > 100)
	end)

	it("lets loops use methods of a client, and no field of its own", function()
		local called = 0
		for _, file in ipairs(files_below("lua/mqtt", "lua")) do
			if room_of(file) == "loops" then
				local code = code_of(file)
				for name in code:gmatch("%f[%w_]client[.:](_[%w_]+)") do
					called = called + 1
					assert.is_function(require("mqtt.client.steps")[name], file .. ": " .. name)
				end
			end
		end
		assert.is_true(called > 5)
	end)

	it("draws what Rust files use", function()
		local seen = 0
		for _, file in ipairs(files_below("src", "rs")) do
			local room = file:match("^(%w+)/") or file
			local code = read("src/" .. file .. ".rs"):gsub("//[^\n]*", "")
			for target in code:gmatch("crate::(%w+)") do
				if rooms[target] and file ~= "lib" then
					seen = seen + 1
					assert.is_true(reach[room][target], ("%s uses %s: %s --> %s"):format(file, target, room, target))
				end
			end
		end
		assert.is_true(seen > 20)
	end)
end)

-- The types for editors in types/mqtt.lua, compared with the code and with its documentation.

local mqtt = require("mqtt")
local packet = require("mqtt.packet")
local options = require("mqtt.client.options")

local function read(path)
	local file = assert(io.open(path))
	local text = file:read("*a")
	file:close()
	return text
end

local types = read("types/mqtt.lua")
local sources = {}
for _, name in ipairs({ "client", "client/options", "ioloop" }) do
	sources[#sources + 1] = read("lua/mqtt/" .. name .. ".lua")
end
local source = table.concat(sources, "\n")

local function sorted(set)
	local names = {}
	for name in pairs(set) do
		names[#names + 1] = name
	end
	table.sort(names)
	return names
end

-- The fields of a class of types/mqtt.lua, and what is after them up to the next empty line.
local function class(name)
	local body = assert(types:match("%-%-%-@class " .. name:gsub("%.", "%%.") .. "([:\n].-\n)\n"), name)
	local fields, optional = {}, {}
	for field, mark in body:gmatch("%-%-%-@field ([%w_]+)(%??)") do
		fields[field] = true
		optional[field] = mark == "?" or nil
	end
	return fields, optional
end

-- The functions that types/mqtt.lua gives to a table.
local function functions(of)
	local names = {}
	for name in types:gmatch("\nfunction " .. of .. "[.:]([%w_]+)%(") do
		names[name] = true
	end
	return names
end

-- The fields of the table of options that are documented for a function.
local function documented(name)
	local pattern = name:gsub("%p", "%%%0")
	local comment = source:match("(%-%-%- [^\n]*\n[%-][^%z]-)\n%-%- @function " .. pattern .. "\n")
		or source:match("(%-%-%- [^\n]*\n[%-][^%z]-)\nfunction " .. pattern .. "%(")
	assert(comment, name)
	comment = comment:match(".*\n\n(.*)") or comment
	local fields = {}
	for field in comment:gmatch("\n%-%- @tparam%S* %S+ opts%.([%w_]+)") do
		fields[field] = true
	end
	return fields
end

local function client(version)
	return mqtt.client { uri = "mqtt://localhost", clean = true, version = version }
end

describe("types/mqtt.lua", function()
	it("is Lua that defines nothing", function()
		local before = sorted(_G)
		assert.same({}, sorted(assert(loadfile("types/mqtt.lua"))()) and {})
		assert.same(before, sorted(_G))
	end)

	it("has what the module exports", function()
		local fields = class("mqtt")
		for name in pairs(functions("mqtt")) do
			fields[name] = true
		end
		assert.same(sorted(mqtt), sorted(fields))
	end)

	it("has the client's options, and which of them must be there", function()
		local fields, optional = class("mqtt.ClientOptions")
		assert.same(sorted(options.schema), sorted(fields))
		assert.same(sorted(options.schema), sorted(documented("Client:__init")))
		fields.uri, fields.clean = nil, nil
		assert.same(sorted(fields), sorted(optional))
	end)

	it("has the types of Lua that each option may be, as the documentation does", function()
		-- What LuaCATS and LDoc call the types of Lua.
		local documentation = source:match("%-%-%- Create and initialize MQTT client instance.-function Client:__init")
		local names = { integer = "number", int = "number" }
		local function types_of(text)
			local found = {}
			for alternative in text:gmatch("[^|]+") do
				local name = alternative:gsub("^mqtt%..*", "table"):gsub("^.*%[%]$", "table"):gsub("^table<.*", "table")
				name = name:gsub('^".*"$', "string"):gsub("^%d+$", "number")
				found[names[name] or name] = true
			end
			return sorted(found)
		end
		for option, allowed in pairs(options.schema) do
			local expected = {}
			for _, name in ipairs({ "boolean", "number", "string", "table" }) do
				expected[name] = allowed[name] and true
			end
			expected = sorted(expected)
			local annotated = types:match("@class mqtt%.ClientOptions\n.-%-%-%-@field " .. option .. "%?? ([^\n]*)")
			annotated = annotated:gsub(", ", ","):match("^%S+")
			assert.same(expected, types_of(annotated), option)
			local written = documentation:match("@tparam%S* (%S+) opts%." .. option .. " ")
			assert.same(expected, types_of(written), option)
			-- The default of a number.
			local default = documentation:match("@tparam%[opt=(%d+)%] %S+ opts%." .. option .. " ")
			if allowed.default then
				assert.equal(tostring(allowed.default), default, option)
			end
		end
	end)

	it("has the client's methods", function()
		-- What is there for luamqtt's own programs, and not documented.
		local internal = { handle = true, handle_received_packet = true, set_ioloop = true }
		local methods = {}
		for name, value in pairs(getmetatable(client()).__index) do
			if type(value) == "function" and not name:find("^_") and not internal[name] then
				methods[name] = true
			end
		end
		assert.same(sorted(methods), sorted(functions("Client")))
	end)

	it("has the methods of the loop", function()
		local methods = {}
		for name, value in pairs(getmetatable(require("mqtt.ioloop").create())) do
			if type(value) == "function" and not name:find("^_") then
				methods[name] = true
			end
		end
		assert.same(sorted(methods), sorted(functions("Ioloop")))
		assert.same(sorted(documented("Ioloop:__init")), sorted(class("mqtt.IoloopOptions")))
	end)

	it("has the events", function()
		local subject = client()
		assert.same({}, subject.handlers.dropped)
		local events = sorted(subject.handlers)
		assert.same(events, sorted(class("mqtt.Handlers")))
		local named = {}
		for name in types:match("@alias mqtt.Event ([^\n]*)"):gmatch('"(%w+)"') do
			named[name] = true
		end
		assert.same(events, sorted(named))
	end)

	it("has the options of the methods", function()
		for method, name in pairs({
			["Client:subscribe"] = "mqtt.SubscribeOptions",
			["Client:unsubscribe"] = "mqtt.UnsubscribeOptions",
			["Client:publish"] = "mqtt.PublishOptions",
		}) do
			assert.same(sorted(documented(method)), sorted(class(name)), method)
		end
		-- These take those of another one too.
		for method, others in pairs({
			["Client:request"] = { "mqtt.RequestOptions", "mqtt.PublishOptions", except = { "tag", "expire" } },
			["Client:on_topic"] = { "mqtt.TopicOptions", "mqtt.SubscribeOptions", except = { "topic", "callback" } },
		}) do
			local all = documented(method)
			for name in pairs(class(others[2])) do
				all[name] = true
			end
			for _, name in ipairs(others.except or {}) do
				all[name] = nil
			end
			assert.same(sorted(all), sorted(class(others[1])), method)
		end
		local answer = class("mqtt.PublishOptions")
		answer.topic = nil
		assert.same(sorted(answer), sorted(class("mqtt.RespondOptions")))
	end)

	it("has the fields of the statistics", function()
		local fields, optional = class("mqtt.Stats")
		for name in pairs(optional) do
			fields[name] = nil
		end
		assert.same(sorted(client():stats()), sorted(fields))
	end)

	it("has the fields of the tables in the options", function()
		assert.same(sorted(require("mqtt.client.backlog").tables.queue), sorted(class("mqtt.Queue")))
		assert.same(sorted(require("mqtt.client.backlog").tables.store), sorted(class("mqtt.Store")))
		for field in pairs(class("mqtt.Reconnect")) do
			assert.has_no_error(function()
				mqtt.client { uri = "mqtt://localhost", clean = true, reconnect = { [field] = 1 } }
			end)
		end
		local settings = {}
		local rust = read("src/lua/tls.rs")
		for name in rust:match("match key.as_str%(%) {(.-)\n        }"):gmatch('\n            "([a-z_]+)"') do
			settings[name] = true
		end
		assert.same(sorted(settings), sorted(class("mqtt.Secure")))
	end)

	it("has the properties of MQTT 5.0", function()
		local names = {}
		for name in read("src/codec/property.rs"):gmatch('\n    0x%x%x %w+ +"([a-z_]+)"') do
			names[name] = true
		end
		names.user_property = nil
		assert.same(sorted(names), sorted(class("mqtt.Properties")))
	end)

	it("has the fields and methods of the packets", function()
		for name, of in pairs({
			PUBLISH = "PUBLISH",
			CONNACK = "CONNACK",
			PUBACK = "PUBACK",
			PUBREC = "PUBACK",
			SUBACK = "SUBACK",
			UNSUBACK = "UNSUBACK",
			DISCONNECT = "DISCONNECT",
			AUTH = "AUTH",
		}) do
			-- With all values there, all fields are.
			local built = packet.shape(mqtt.v50, packet.types[name], 1, 2, 3, 4, 5, 6, 7, 8)
			local fields = class("mqtt.Packet")
			for field in pairs(class("mqtt." .. of)) do
				fields[field] = true
			end
			assert.same(sorted(built), sorted(fields), name)
			for method in pairs(functions(of)) do
				assert.is_function(built[method], name)
			end
		end
	end)
end)

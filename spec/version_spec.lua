-- The version of this library, which Cargo.toml has, and what the module tells about its build.

local mqtt = require("mqtt")
local build = require("mqtt.core").build

local function read(path)
	local file = assert(io.open(path))
	local text = file:read("*a")
	file:close()
	return text
end

describe("the version", function()
	local version = read("Cargo.toml"):match('\n%[package%].-\nversion = "([^"]+)"')
		or read("Cargo.toml"):match('^%[package%].-\nversion = "([^"]+)"')

	it("is a version, and Lua programs see it", function()
		assert.matches("^%d+%.%d+%.%d+$", version)
		assert.equal(version, mqtt.VERSION)
		assert.equal(version, build.version)
	end)

	it("is the lock file's", function()
		assert.equal(version, read("Cargo.lock"):match('name = "luamqtt%-native"\nversion = "([^"]+)"'))
	end)

	it("is the rockspec's, in its name too", function()
		local text = read("rockspec/luamqtt-native-" .. version .. "-1.rockspec")
		assert.equal(version .. "-1", text:match('\nversion = "([^"]+)"'))
	end)

	it("stands nowhere else", function()
		local pattern = "[\"'-]" .. version:gsub("%.", "%%.") .. "[\"'-]"
		for _, path in ipairs({ "README.md", "config.ld", "Makefile", "lua/mqtt/init.lua", "docs/install.md" }) do
			assert.is_nil(read(path):match(pattern), path)
		end
	end)

	it("is the newest one of the changelog", function()
		assert.equal(version, read("CHANGELOG.md"):match("\n## (%S+)"))
	end)

	it("is not that of the API, which drop-ins look at", function()
		assert.equal("1.0.2", mqtt._VERSION)
		assert.equal(mqtt._VERSION, require("mqtt.const")._VERSION)
	end)
end)

describe("the build", function()
	it("names Lua, target, compiler and profile", function()
		local lua = rawget(_G, "jit") and "jit" or _VERSION:match("%d%.%d")
		assert.equal(lua, build.lua)
		assert.matches("^[%w_]+%-%w+%-[%w-]+$", build.target)
		assert.matches("^%d+%.%d+%.%d+", build.rustc)
		assert.is_true(build.profile == "release" or build.profile == "debug")
	end)

	it("names the features, as options find them", function()
		for name, uri in pairs({ tls = "mqtts://h", websocket = "ws://h" }) do
			local has = (" " .. build.features .. " "):find(" " .. name .. " ", 1, true) ~= nil
			assert.equal(has, (pcall(mqtt.client, { uri = uri, clean = true })))
		end
		for name in build.features:gmatch("%S+") do
			assert.truthy(read("Cargo.toml"):match("\n" .. name .. " = %["), name)
		end
	end)

	it("has the fields of the types for editors", function()
		local documented = {}
		for field in read("types/mqtt.lua"):match("@class mqtt%.Build\n(.-)\n\n"):gmatch("%-%-%-@field (%w+)") do
			documented[field] = true
		end
		local found = {}
		for field, value in pairs(build) do
			assert.is_string(value)
			found[field] = true
		end
		assert.same(documented, found)
	end)
end)

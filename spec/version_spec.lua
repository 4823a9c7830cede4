-- The version of this library, which stands in several places.

local mqtt = require("mqtt")

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
	end)

	it("is the lock file's", function()
		assert.equal(version, read("Cargo.lock"):match('name = "luamqtt%-native"\nversion = "([^"]+)"'))
	end)

	it("is the rockspec's, in its name too", function()
		local text = read("rockspec/luamqtt-native-" .. version .. "-1.rockspec")
		assert.equal(version .. "-1", text:match('\nversion = "([^"]+)"'))
	end)

	it("is the reference's", function()
		assert.equal("luamqtt-native " .. version, read("config.ld"):match('\ntitle = "([^"]+)"'))
	end)

	it("is the newest one of the changelog", function()
		assert.equal(version, read("CHANGELOG.md"):match("\n## (%S+)"))
	end)

	it("is not that of the API, which drop-ins look at", function()
		assert.equal("1.0.2", mqtt._VERSION)
		assert.equal(mqtt._VERSION, require("mqtt.const")._VERSION)
	end)
end)

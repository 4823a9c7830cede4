-- The small modules: constants, helpers, bit operations, the logger.

describe("modules", function()
	local names = {
		"mqtt.bitwrap", "mqtt.const", "mqtt.log", "mqtt.packet", "mqtt.protocol", "mqtt.protocol4", "mqtt.protocol5",
		"mqtt.tools", "mqtt.topics",
	}
	if _VERSION >= "Lua 5.3" then
		names[#names + 1] = "mqtt.bit53"
	end

	for _, name in ipairs(names) do
		it("load, and load again: " .. name, function()
			local before = require(name)
			assert.is_table(before)
			package.loaded[name] = nil
			finally(function()
				package.loaded[name] = before
			end)
			assert.is_table(require(name))
		end)
	end

	it("tell the versions", function()
		assert.same({ v311 = 4, v50 = 5, _VERSION = "1.0.2" }, require("mqtt.const"))
	end)
end)

describe("mqtt.log", function()
	local function load_with(logging)
		local loaded_logging, loaded_log = package.loaded.logging, package.loaded["mqtt.log"]
		package.loaded.logging, package.loaded["mqtt.log"] = logging, nil
		local log = require("mqtt.log")
		package.loaded.logging, package.loaded["mqtt.log"] = loaded_logging, loaded_log
		return log
	end

	it("discards everything unless LuaLogging is loaded", function()
		for _, logging in ipairs({ false, { _VERSION = "another library", defaultLogger = error } }) do
			local log = load_with(logging or nil)
			assert.is_nil(log:debug("a %s", "b"))
			assert.is_nil(log:error({}))
			assert.equal(log.warn, log.any_other_method)
		end
	end)

	it("is LuaLogging's default logger, asked for at each load", function()
		local loggers = { {}, {} }
		local calls = 0
		local logging = { _VERSION = "LuaLogging 1.8.2" }
		function logging.defaultLogger()
			calls = calls + 1
			return loggers[calls]
		end
		assert.equal(loggers[1], load_with(logging))
		assert.equal(loggers[2], load_with(logging))
	end)
end)

describe("mqtt.tools", function()
	local tools = require("mqtt.tools")

	it("hex writes two upper-case digits for each byte", function()
		for bytes, digits in pairs({
			[""] = "", ["\0"] = "00", ["\1"] = "01", ["\128"] = "80", ["\255\0\255"] = "FF00FF", ["a\nb"] = "610A62",
		}) do
			assert.equal(digits, tools.hex(bytes))
		end
	end)

	it("extract_hex drops blanks and comments", function()
		for listing, digits in pairs({
			[""] = "", [" \t\n\n "] = "", ["0102"] = "0102", ["  0102 \t"] = "0102", ["0a0B -- 0C"] = "0a0B",
			["\n\t01 -- one\n\n\t02\r\n03 04 -- three, four\n"] = "01020304", ["-- nothing"] = "",
		}) do
			assert.equal(digits, tools.extract_hex(listing))
		end
	end)

	it("extract_hex raises on anything else", function()
		for listing, message in pairs({
			["0"] = "expecting an even number of hexadecimal digits, got: 1",
			["01 0 -- 2"] = "expecting an even number of hexadecimal digits, got: 3",
			["x"] = 'expecting hexadecimal digits, got: "x"', ["00-1"] = 'expecting hexadecimal digits, got: "-"',
		}) do
			local ok, err = pcall(function()
				tools.extract_hex(listing)
			end)
			assert.is_false(ok)
			assert.matches("^spec/basics_spec.lua:%d+: ", err)
			assert.equal(message, err:match(": (.*)"))
		end
	end)

	it("div rounds down", function()
		for _, case in ipairs({ { 3, 2, 1 }, { 4, 2, 2 }, { -3, 2, -2 }, { 0, 5, 0 } }) do
			assert.equal(case[3], tools.div(case[1], case[2]))
		end
	end)

	it("sortedpairs goes through numbers, then strings, each in order", function()
		local function in_order(tbl)
			local items = {}
			for key, value in tools.sortedpairs(tbl) do
				items[#items + 1] = tostring(key) .. "=" .. tostring(value)
			end
			return table.concat(items, " ")
		end
		assert.equal("", in_order({}))
		assert.equal("a=1 b=2", in_order({ b = 2, a = 1 }))
		assert.equal("1=x 2=y 10=z", in_order({ [10] = "z", [2] = "y", [1] = "x" }))
		assert.equal("1=x 2=y a=1 b=false", in_order({ b = false, "x", "y", a = 1 }))
	end)

	it("sortedpairs raises at the call for other keys", function()
		assert.error_matches(function()
			tools.sortedpairs({ [false] = 1 })
		end, "stable iteration order for key of type boolean")
	end)
end)

describe("mqtt.bitwrap", function()
	local bit = require("mqtt.bitwrap")

	it("computes on 32 bits", function()
		for _, case in ipairs({
			{ "band", 0xA5, 0x0F, 0x05 }, { "band", 0xFFFF, 0, 0 }, { "band", 0x7FFFFFFF, 0x12345678, 0x12345678 },
			{ "bor", 0xA0, 0x05, 0xA5 }, { "bor", 0, 0, 0 }, { "bor", 0x7F, 0x7F, 0x7F },
			{ "lshift", 1, 0, 1 }, { "lshift", 3, 4, 0x30 }, { "lshift", 0xFF, 16, 0xFF0000 },
			{ "rshift", 0x30, 4, 3 }, { "rshift", 0x0F, 4, 0 }, { "rshift", 0x7FFFFFFF, 24, 0x7F },
		}) do
			assert.equal(case[4], bit[case[1]](case[2], case[3]), table.concat(case, " "))
		end
	end)
end)

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

	it("writes warnings and errors to stderr unless LuaLogging is loaded", function()
		local child = require("spec.support.child")
		for _, logging in ipairs({ "nil", "{ _VERSION = 'another library', defaultLogger = error }" }) do
			local output, status = child.run([[
				package.loaded.logging = %s
				local log = require("mqtt.log")
				log:debug("%%d", "no number")
				log:info("%%d", "no number")
				log:warn("a %%s", "b")
				log:error({ "a table" })
				log:error("bytes of a \27[1mterminal")
				log.any_other_method()
				log.set(false)
				log:error("not this")
				log.set()
				log:error("this")
				io.stderr = nil
				log:error("gone")
			]], logging)
			assert.equal(0, status, output)
			assert.matches("^warning: a b\nerror: table: [%w]+\nerror: bytes of a %?%[1mterminal\nerror: this\n$", output)
		end
	end)

	it("forwards to LuaLogging's default logger, asked for at each load", function()
		local calls = 0
		local logging = { _VERSION = "LuaLogging 1.8.2" }
		function logging.defaultLogger()
			calls = calls + 1
			local logger = { calls = {}, level = "INFO" }
			for _, name in ipairs({ "warn", "fatal" }) do
				logger[name] = function(...)
					logger.calls[#logger.calls + 1] = { name, ... }
					return calls
				end
			end
			return logger
		end
		for count = 1, 2 do
			local log = load_with(logging)
			assert.equal("INFO", log.level)
			assert.equal(count, log:warn("a %s", "b"))
			assert.equal(count, log:fatal("c"))
			log:debug("%d", "no number")
			local own = log.calls
			assert.equal(2, #own)
			assert.same({ "warn", "a %s", "b" }, { own[1][1], own[1][3], own[1][4] })
			assert.same({ "fatal", "c" }, { own[2][1], own[2][3] })
			assert.equal(own, own[1][2].calls)
		end
	end)

	describe("set", function()
		local log = require("mqtt.log")

		after_each(function()
			log.set(false)
		end)

		it("is there as mqtt.log.set", function()
			assert.equal(log, require("mqtt").log)
		end)

		it("sends text to any logger, and formats nothing that nobody listens to", function()
			local lines = {}
			local logger = {}
			function logger:warn(...)
				assert.equal(logger, self)
				lines[#lines + 1] = { ... }
			end
			local unformatted = setmetatable({}, { __tostring = error })
			log.set(logger)
			log:warn("%s has %d%%", "it", 5)
			log:warn("100%")
			log:debug("%s", unformatted)
			log:error("%d", "no number")
			assert.same({ { "it has 5%" }, { "100%" } }, lines)
			log.set(false)
			log:warn("%s", unformatted)
			assert.equal(2, #lines)
		end)

		it("leaves formatting to LuaLogging", function()
			local lines = {}
			log.set({
				setLevel = function() end,
				info = function(_, ...)
					lines[#lines + 1] = { ... }
				end,
			})
			log:info("%s", "a")
			assert.same({ { "%s", "a" } }, lines)
		end)

		it("reaches what clients and loops log", function()
			local lines = {}
			local function note(_, text)
				lines[#lines + 1] = text
			end
			log.set({ debug = note, info = note, warn = note, error = note })
			local mqtt = require("mqtt")
			local client = mqtt.client({ uri = "mqtt://127.0.0.1:1", id = "100%", clean = true })
			mqtt.run_ioloop(client)
			local text = table.concat(lines, "\n")
			assert.matches("client '100%%' created", text)
			assert.matches("connecting to 127.0.0.1:1", text)
			assert.matches("failed to open network connection: ", text)
			assert.matches("ioloop finished", text)
		end)

		it("blames its caller", function()
			local harness = require("spec.support.harness")
			harness.blames_caller("expecting logger to be a table with methods, got: string", log.set, "warn")
			harness.blames_caller("expecting logger.warn to be a function, got: boolean", log.set, { warn = true })
		end)
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

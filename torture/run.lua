-- Runs programs of the torture in this process, one after the other, until one fails.
-- usage: run.lua control=PORT limit=SECONDS patience=SECONDS seed=SEED from=NUMBER count=NUMBER seconds=SECONDS
--    or: run.lua control=PORT limit=SECONDS patience=SECONDS program=FILE [expected=KIND]
-- With only=PATTERNS or skip=PATTERNS, Lua patterns parted by `;`, only the kinds of failures count that match a
-- pattern, or that match none.
-- With without=NAMES programs go without steps of these names.
-- Prints lines: "begin NUMBER HOST", then "failed NUMBER { kind=..., text=... }" for each failure, "done NUMBER"; at
-- the end "memory KILOBYTES" more than after the first programs.

local core = require("mqtt.core")

local control = require("torture.control")
local data = require("torture.data")
local generate = require("torture.generate")
local here = require("torture.here")

-- After how many programs memory should not grow any more, and of how many last programs the least memory counts.
local WARM, LAST = 30, 10
-- How many collections there are after each program, at least and at most. A finalizer may hold an object with a
-- further finalizer, and in the weak tables of Lua 5.1 each collection finds one link of a chain.
local FEWEST, MOST = 2, 20

local settings = {}
for _, argument in ipairs(arg) do
	local name, value = argument:match("^(%w+)=(.*)$")
	settings[name] = tonumber(value) or value
end

local interpreter = require("torture.interpreter")
local broker = control.connect(settings.control)

io.stdout:setvbuf("line")
for name in tostring(settings.without or ""):gmatch("[%w_]+") do
	interpreter.without[name] = true
end

local function report(number, kind, text)
	print(("failed %d %s"):format(number, data.write({ kind = kind, text = text })))
end

-- Returns the number of a client that has not been collected. A function, because the client must not stay on the
-- stack.
local function one_alive()
	local _, number = next(interpreter.alive)
	return number
end

-- Runs a program. Returns whether nothing was wrong.
local function run(program, number)
	package.loaded.copas = program.copas and here.copas or nil
	local violations = interpreter.run(program, broker, settings.limit, settings.patience)
	if rawget(_G, "jit") then
		-- Compiled code holds the objects that it was compiled for.
		jit.flush() -- luacheck: globals jit
	end
	for i = 1, MOST do
		collectgarbage()
		if i >= FEWEST and not one_alive() then
			break
		end
	end
	local client = one_alive()
	if client and not violations[1] then
		violations[1] = { kind = "a client is not collected", text = "client " .. client }
	end
	for _, violation in ipairs(violations) do
		local kind = violation.kind
		local counts = data.matches(kind, settings.only or ".") and not data.matches(kind, settings.skip or "")
		-- A hang counts in any case here: this process cannot be used any more.
		if kind == "it hangs" or counts then
			report(number, kind, violation.text)
		end
	end
	return not violations[1]
end

if settings.expected then
	-- The failure that was looked for: anything later does not count.
	interpreter.expected = settings.expected
	function interpreter.on_expected(text)
		report(0, settings.expected, text)
		print("done 0")
		os.exit(0)
	end
end

if settings.program then
	local file = assert(io.open(settings.program))
	local program = data.read(file:read("*a"))
	file:close()
	print("begin 0")
	run(program, 0)
	print("done 0")
	return
end

local deadline = core.now() + settings.seconds
local first, counted, counts = nil, 0, {}
for number = settings.from, settings.from + settings.count - 1 do
	local program = generate.program(settings.seed, number, settings.host and { settings.host } or here.hosts, here.copas)
	print(("begin %d %s"):format(number, program.host))
	local is_well = run(program, number)
	print("done " .. number)
	if number == settings.from + WARM then
		first = collectgarbage("count")
	elseif first then
		-- A ring, filled from 1: the length of a table with holes is not reliable.
		counts[counted % LAST + 1] = collectgarbage("count")
		counted = counted + 1
	end
	if not is_well or core.now() > deadline then
		break
	end
end
if #counts == LAST then
	print(("memory %.0f"):format(math.min((table.unpack or unpack)(counts)) - first)) -- luacheck: globals unpack
end
os.exit(0)

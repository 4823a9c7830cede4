-- Runs random programs for some time, shrinks failing programs, and prints the findings: see scripts/torture.
-- usage: main.lua control=PORT seconds=SECONDS seed=SEED from=NUMBER [program=FILE] [only=PATTERN] [skip=PATTERN]
--    [host=NAME] [limit=SECONDS] [patience=SECONDS] [shrink=SECONDS] [slowness=FACTOR]
--    [name=LUA]

local socket = require("socket")

local data = require("torture.data")
local generate = require("torture.generate")
local here = require("torture.here")
local shrink = require("torture.shrink")

-- After this many programs a new process begins, so that a leak of the programs is seen.
local PER_PROCESS = 150
-- How much the memory of a process may grow during its programs, in KiB.
local GROWTH = 1500
-- How many times a program that has failed is tried again, if it does not fail at once.
local TRIES = 4
-- How long something that must happen, and a whole program, may take, in seconds: when a program that has failed is
-- tried again, and while it is shrunk.
local SLOWLY = { patience = 2.5, limit = 8 }
local QUICKLY = { patience = 0.25, limit = 2.5 }
-- How many kinds of failures are shrunk.
local KINDS = 30
-- The directory for shrunk programs.
local DIRECTORY = "build/torture"

-- Kinds of failures that count only if they are seen again: a busy machine may cause them, or an object left on a stack
-- by chance, which the collector then keeps.
local TIMES = { "not collected", "is kept", "at once", "hangs", "arrives any more", "does not reconnect",
	"does not say", "waits for ever", "does not return", "is not called", "in_flight", "waits for answers" }

local settings = { limit = 4, patience = 1.2, from = 1, shrink = 40, slowness = 1 }
for _, argument in ipairs(arg) do
	local name, value = argument:match("^(%w+)=(.*)$")
	settings[name] = value ~= "" and (tonumber(value) or value) or settings[name]
end
for _, times in ipairs({ settings, SLOWLY, QUICKLY }) do
	times.patience, times.limit = times.patience * settings.slowness, times.limit * settings.slowness
end

local lowest = 0
while arg[lowest - 1] do
	lowest = lowest - 1
end
local interpreter = arg[lowest]

local function quote(text)
	return "'" .. tostring(text):gsub("'", "'\\''") .. "'"
end

-- Runs a process. Calls `on_line` with each line that it prints. Returns its exit status, and its other output.
local function run(arguments, seconds, on_line)
	for _, name in ipairs({ "control", "only", "skip", "without", "host" }) do
		if settings[name] then
			arguments[#arguments + 1] = name .. "=" .. settings[name]
		end
	end
	for i, argument in ipairs(arguments) do
		arguments[i] = quote(argument)
	end
	local pipe = assert(io.popen(("timeout -k 1 %s %s torture/run.lua %s 2>&1; echo exit $?"):format(math.ceil(seconds),
		interpreter, table.concat(arguments, " "))))
	local status, rest = nil, {}
	for line in pipe:lines() do
		status = line:match("^exit (%d+)$") or status
		if not on_line(line) and not line:find("^exit ") then
			rest[#rest + 1] = line
		end
	end
	pipe:close()
	return tonumber(status), table.concat(rest, "\n")
end

-- Says what the end of a process means for the program that it was running.
local function explain_end(status, said)
	if status == 137 or status == 124 or status == 130 then
		return { kind = "it hangs", text = said }
	elseif status >= 128 then
		return { kind = "it crashes: signal " .. status - 128, text = said }
	end
	return { kind = "the process ends", text = said }
end

-- Runs programs. Returns the numbers of the first and the last one, the failures of the last one, and how much memory
-- has grown.
local function run_some(arguments, seconds)
	local failures, last, is_done, growth, hosts = {}, nil, true, nil, {}
	local status, said = run(arguments, seconds, function(line)
		local what, rest = line:match("^(%a+) (.*)$")
		if what == "begin" then
			local number, host = rest:match("^(%d+) ?(.*)$")
			last, is_done = tonumber(number), false
			hosts[host] = (hosts[host] or 0) + 1
		elseif what == "failed" then
			table.insert(failures, data.read(rest:match("^%d+ (.*)$")))
		elseif what == "done" then
			is_done = true
		elseif what == "memory" then
			growth = tonumber(rest)
		else
			return false
		end
		return true
	end)
	if not is_done or status ~= 0 and not failures[1] then
		table.insert(failures, explain_end(status, said))
	end
	return last, failures, growth, hosts
end

local function write_program(name, program)
	local file = assert(io.open(name, "w"))
	file:write(data.write(program, ""), "\n")
	file:close()
end

os.execute("mkdir -p " .. DIRECTORY)
-- The file of the program to be tried. This run removes it when it ends.
local scratch = os.tmpname()

-- Returns whether a program fails in a given way, with given times.
local function fails_as(kind, times)
	return function(program)
		write_program(scratch, program)
		local _, failures = run_some({ "program=" .. scratch, "limit=" .. times.limit, "patience=" .. times.patience,
			"expected=" .. kind }, generate.STRESS * times.limit + 5)
		for _, failure in ipairs(failures) do
			if failure.kind == kind then
				return true
			end
		end
		return false
	end
end

-- Makes a failing program as short as the time for it allows.
local function shorten(program, kind, is_sure)
	for _, times in ipairs({ QUICKLY, SLOWLY }) do
		local deadline, fails = socket.gettime() + settings.shrink, fails_as(kind, times)
		local short = shrink.shrink(program, function(candidate)
			return socket.gettime() < deadline and (fails(candidate) or not is_sure and fails(candidate))
		end)
		-- A program may have failed only because its time was too short.
		local fails_slowly = fails_as(kind, SLOWLY)
		if fails_slowly(short) or not is_sure and fails_slowly(short) then
			return short
		end
	end
	return program
end

local function is_about_time(kind)
	for _, text in ipairs(TIMES) do
		if kind:find(text, 1, true) then
			return true
		end
	end
	return false
end

-- The kinds already known.
local known, found = {}, 0

-- Reports a program's failures of kinds that are not known yet. Returns whether any of them counts.
local function report(program, number, failures)
	for _, failure in ipairs(failures) do
		local kind = failure.kind
		if not known[kind] and data.matches(kind, settings.only or ".") and not data.matches(kind, settings.skip or "") then
			known[kind] = true
			local fails, again, tries = fails_as(kind, SLOWLY), 0, 0
			while tries < TRIES and again < 2 do
				again, tries = again + (fails(program) and 1 or 0), tries + 1
			end
			if again == 0 and is_about_time(kind) then
				known[kind] = nil
				print(("# seen once, and not again: %s (program %d) %s"):format(kind, number, failure.text))
			else
				found = found + 1
				local short = program
				if again > 0 and found <= KINDS then
					short = shorten(program, kind, again == tries)
				end
				local name = ("%s/%s-%d.lua"):format(DIRECTORY, settings.name or "lua", found)
				write_program(name, short)
				print(("not ok - %s (program %d%s)"):format(kind, number, again > 0 and "" or ", not seen again"))
				print("  " .. failure.text:gsub("\n", "\n  "))
				print("  " .. data.write(short, ""):gsub("\n", "\n  "))
				print(("  again: scripts/torture %s %s"):format(settings.name or "LUA", name))
				io.stdout:flush()
			end
		end
	end
end

if settings.program then
	local _, failures = run_some({ "program=" .. settings.program, "limit=" .. settings.limit,
		"patience=" .. settings.patience }, generate.STRESS * settings.limit + 5)
	for _, failure in ipairs(failures) do
		print(("not ok - %s\n  %s"):format(failure.kind, failure.text))
	end
	os.remove(scratch)
	if not failures[1] then
		print("ok - " .. settings.program)
	end
	os.exit(failures[1] and 1 or 0)
end

local deadline = socket.gettime() + settings.seconds
local number, per_host = settings.from, {}
while socket.gettime() < deadline do
	local left = math.max(deadline - socket.gettime(), 0)
	local last, failures, growth, hosts = run_some({
		"seed=" .. settings.seed, "from=" .. number, "count=" .. PER_PROCESS, "seconds=" .. ("%.3f"):format(left),
		"limit=" .. settings.limit, "patience=" .. settings.patience,
	}, math.ceil(left) + generate.STRESS * settings.limit + 5)
	for host, count in pairs(hosts) do
		per_host[host] = (per_host[host] or 0) + count
	end
	if not last then
		-- No program has begun: there is no broker, or no library.
		error(failures[1] and failures[1].text or "the torture does not begin", 0)
	elseif failures[1] then
		local before = socket.gettime()
		report(generate.program(settings.seed, last, settings.host and { settings.host } or here.hosts,
			here.copas), last, failures)
		-- The time for programs does not include shrinking.
		deadline = deadline + socket.gettime() - before
	elseif growth and growth > GROWTH then
		found = found + 1
		print(("not ok - memory has grown by %.0f KiB over the programs from %d to %d"):format(growth, number, last))
	end
	number = last + 1
end
os.remove(scratch)

local names = {}
for host in pairs(per_host) do
	names[#names + 1] = host
end
table.sort(names)
for _, host in ipairs(names) do
	print(("# %s: %d programs"):format(host, per_host[host]))
end
if found == 0 then
	print(("ok - %d programs, seed %d"):format(number - settings.from, settings.seed))
else
	print(("# %d programs, seed %d: %d kinds of failures"):format(number - settings.from, settings.seed, found))
end
os.exit(found == 0 and 0 or 1)

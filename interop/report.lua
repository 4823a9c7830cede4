-- Judges what scripts/interop has found, and writes docs/interop.md.
-- usage: report.lua RESULTS [REPORT], where RESULTS has lines BROKER|ITS VERSION|MQTT VERSION|FEATURE|RESULT|WHY
-- Prints a line "ok - ..." or "not ok - ..." for each broker and MQTT version, and fails unless all are ok.

local here = arg[0]:match("^.*/") or ""
local faults = dofile(here .. "faults.lua")

local NAMES = { rabbitmq = "RabbitMQ" }

local VERSIONS = { "3.1.1", "5.0" }
-- By MQTT version: the features and the brokers in their order, and the results by broker and feature.
local tables = {}
for _, version in ipairs(VERSIONS) do
	tables[version] = { features = {}, brokers = {}, results = {} }
end
local failed = false

for line in io.lines(arg[1]) do
	local broker, release, version, feature, result, why = line:match("^(.-)|(.-)|(.-)|(.-)|(.-)|(.*)$")
	local this = tables[version]
	-- There may be two releases of a broker.
	local title = (NAMES[broker] or broker) .. " " .. release
	local results = this.results[title]
	if not results then
		results = { name = broker, unexplained = {} }
		this.results[title] = results
		table.insert(this.brokers, title)
	end
	if not this.features[feature] then
		this.features[feature] = true
		table.insert(this.features, feature)
	end
	local fault = ((faults[broker] or {})[version] or {})[feature]
	if result == "not ok" and not fault then
		table.insert(results.unexplained, feature .. ": " .. why)
	end
	if result ~= "ok" then
		results[feature] = { result = result, why = fault or why .. "." }
	else
		results[feature] = { result = result }
	end
end

-- Whether a broker speaks the version: whether anything was tried after the first feature.
local function speaks(this, broker)
	return this.results[broker][this.features[1]].result == "ok"
end

for _, version in ipairs(VERSIONS) do
	local this = tables[version]
	for _, broker in ipairs(this.brokers) do
		local results = this.results[broker]
		local name = ("%s, MQTT %s"):format(broker, version)
		if #results.unexplained > 0 then
			failed = true
			print("not ok - interop: " .. name)
			print("  " .. table.concat(results.unexplained, "\n  "))
		elseif speaks(this, broker) then
			print("ok - interop: " .. name)
		end
	end
end

-- The document --------------------------------------------------------------------------------------------------------

local HEAD = [[
# Interoperability

`make interop` writes this file. It starts each broker on the loopback, and lets
[the same program](../interop/scenario.lua) try each feature with each broker. It leaves out a broker that it cannot
install on the machine. mosquitto 2.1 and RabbitMQ 4 run in the chroot of `scripts/sid`, with Lua 5.5. It fails if a
feature fails, unless [interop/faults.lua](../interop/faults.lua) says why the fault is not this library's. CI does the
same with mosquitto, RabbitMQ and ejabberd of Debian 12, and with mosquitto 2.1.

"Not supported" means that the broker itself says so, by a reason code, in its CONNACK or by the QoS that it grants.
"Not ok" means that the broker does it wrong.
]]

local out

local function write(...)
	out:write(...)
	out:write("\n")
end

local function write_table(version)
	local this = tables[version]
	local columns, others, notes = {}, {}, {}
	for _, broker in ipairs(this.brokers) do
		if speaks(this, broker) then
			columns[#columns + 1] = broker
		else
			others[#others + 1] = broker
		end
	end
	local head, rule = "| |", "| --- |"
	for _, broker in ipairs(columns) do
		head = head .. " " .. broker .. " |"
		rule = rule .. " --- |"
	end
	write("\n## MQTT ", version, "\n\n", head, "\n", rule)
	for _, feature in ipairs(this.features) do
		local row = "| " .. feature .. " |"
		for _, broker in ipairs(columns) do
			local found = this.results[broker][feature] or { result = "not tried" }
			row = row .. " " .. found.result .. " |"
			if found.why then
				notes[#notes + 1] = ("- **%s, %s**: %s"):format(broker, feature, found.why)
			end
		end
		write(row)
	end
	for _, broker in ipairs(columns) do
		local fault = ((faults[this.results[broker].name] or {})[version] or {})["*"]
		if fault then
			notes[#notes + 1] = ("- **%s**: %s"):format(broker, fault)
		end
	end
	for _, broker in ipairs(others) do
		notes[#notes + 1] = ("- **%s**: %s"):format(broker,
			this.results[broker][this.features[1]].why)
	end
	if #notes > 0 then
		write("\n", table.concat(notes, "\n"))
	end
end

if arg[2] then
	out = assert(io.open(arg[2], "w"))
	out:write(HEAD)
	for _, version in ipairs(VERSIONS) do
		write_table(version)
	end
	out:close()
end
os.exit(failed and 1 or 0)

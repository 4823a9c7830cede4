-- Time of parsing and making a PUBLISH (QoS 1, payload of 64 bytes), in ns for each packet.
-- usage: lua bench/parse.lua [FOLDER]: side by side with the luamqtt in FOLDER, or in ORIGINAL of the environment.

local ROUNDS, PACKETS = 21, 20000

local FIELDS = { topic = "home/living/thermostat/setpoint", payload = ("x"):rep(64), qos = 1, packet_id = 1 }

-- The two functions for each protocol version, of the library that `require` finds first.
local function cases()
	local result = {}
	for _, name in ipairs({ "protocol4", "protocol5" }) do
		local make_packet, parse_packet
		do
			local module = require("mqtt." .. name)
			make_packet, parse_packet = module.make_packet, module.parse_packet
		end
		local args = { type = require("mqtt.protocol").packet_type.PUBLISH }
		for key, value in pairs(FIELDS) do
			args[key] = value
		end
		local bytes = tostring(make_packet(args))
		local pos = 1
		local function read(size)
			local from = pos
			pos = pos + size
			return bytes:sub(from, from + size - 1)
		end
		result[#result + 1] = {
			name = name .. ".parse_packet",
			run = function()
				for _ = 1, PACKETS do
					pos = 1
					assert(parse_packet(read))
				end
			end,
		}
		result[#result + 1] = {
			name = name .. ".make_packet ",
			run = function()
				for _ = 1, PACKETS do
					tostring(make_packet(args))
				end
			end,
		}
	end
	return result
end

local libraries = { cases() }
local folder = ... or os.getenv("ORIGINAL")
if folder == "" then
	folder = nil
end
if folder then
	for name in pairs(package.loaded) do
		if (name .. "."):find("^mqtt%.") then
			package.loaded[name] = nil
		end
	end
	package.path = folder .. "/?.lua;" .. folder .. "/?/init.lua;" .. package.path
	libraries[2] = cases()
end

local function median(times)
	table.sort(times)
	return times[math.ceil(#times / 2)]
end

print(type(jit) == "table" and jit.version or _VERSION) -- luacheck: globals jit
for i, case in ipairs(libraries[1]) do
	-- Rounds of the libraries take turns, so that whatever else the machine does meets all of them.
	local times = { {}, {} }
	for round = 1, ROUNDS do
		for number, library in ipairs(libraries) do
			collectgarbage()
			local start = os.clock()
			library[i].run()
			times[number][round] = (os.clock() - start) / PACKETS * 1e9
		end
	end
	local ours = median(times[1])
	if folder then
		local theirs = median(times[2])
		print(("%s  ours %5.0f ns  luamqtt %5.0f ns  ratio %.2f"):format(case.name, ours, theirs, ours / theirs))
	else
		print(("%s  %5.0f ns"):format(case.name, ours))
	end
end

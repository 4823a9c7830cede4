-- CPU time of an idle client in `mqtt.run_ioloop`, in ms a second, all threads counted.
-- usage: lua bench/idle.lua; MQTT_URI in the environment names the broker, bench/parse.lua's argument is ignored.

local SECONDS = 10

local core = require("mqtt.core")
local mqtt = require("mqtt")

local client = mqtt.client { uri = assert(os.getenv("MQTT_URI"), "MQTT_URI names no broker"), clean = true }
local loop = mqtt.get_ioloop()

client:on("connect", function(connack)
	assert(connack.rc == 0, connack:reason_string())
	local start, cpu = core.now(), os.clock()
	-- A function that asks to be called when it is over: nothing else wakes the loop before.
	loop:add(function()
		local rest = start + SECONDS - core.now()
		if rest > 0 then
			return rest
		end
		local used = os.clock() - cpu
		local lua = type(jit) == "table" and jit.version or _VERSION -- luacheck: globals jit
		print(("%s: an idle client takes %.3f ms of CPU a second"):format(lua, used * 1000 / SECONDS))
		client:shutdown()
		loop:remove(client)
		os.exit(0)
	end)
end)

mqtt.run_ioloop(client)

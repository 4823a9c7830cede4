-- Shows the last message of each topic in a terminal, once a second if there is something new.
-- Usage: terminal-dashboard.lua [URI [FILTER]]. FRAMES in the environment ends it after as many frames.

local mqtt = require("mqtt")

local filter = arg[2] or "luamqtt/#"
local left = tonumber(os.getenv("FRAMES")) or math.huge

local client = mqtt.client {
	uri = arg[1] or os.getenv("MQTT_URI") or "mqtt://localhost",
	clean = true,
	reconnect = 5,
}

local topics, rows = {}, {}
local state, is_new
local function note(text)
	state, is_new = text, true
end

client:on {
	connect = function(connack)
		note(connack:reason_string())
		if connack.rc == 0 then
			client:subscribe { topic = filter }
		end
	end,

	message = function(msg)
		local row = rows[msg.topic]
		if not row then
			row = { count = 0 }
			rows[msg.topic] = row
			table.insert(topics, msg.topic)
			table.sort(topics)
		end
		-- No control characters of others in this terminal.
		row.count, row.payload, is_new = row.count + 1, (msg.payload or ""):gsub("%c", "?"):sub(1, 40), true
	end,

	error = note, -- also of a lost connection
}

mqtt.get_ioloop():every(1, function()
	if is_new then
		is_new = false
		io.write("\27[2J\27[H", os.date("%X "), filter, ": ", state, "\n\n") -- clears the screen
		for _, topic in ipairs(topics) do
			io.write(("%-40s %6d  %s\n"):format(topic, rows[topic].count, rows[topic].payload))
		end
		io.flush()
		left = #topics > 0 and left - 1 or left
	end
	if left == 0 then
		client:shutdown()
		return false -- the last call
	end
end)
mqtt.run_ioloop(client)

-- One run of the soak in which the client under test is killed again and again, while it and a witness send each other
-- numbered messages of QoS 1 and 2. The witness, in this process, is told by the client's output what its `publish` and
-- its `acknowledge` had returned. Says what was lost, repeated or out of order, and fails if anything was.
-- usage: scripts/soak, which starts broker and proxy; the settings are those of soak/soak.lua, and
--   kills  how often the client is killed
--   store  its directory
--   said   the file for its output
--   sync   process or power
--   qos    the highest QoS: 1, or 2 by default
--   signal how the broker is ended in between: TERM or KILL; not at all by default
--   window how many messages the client has under way at most; no limit by default
-- With client=NUMBER this is the client under test; client=last: the one that is not killed.

local mqtt = require("mqtt")
local socket = require("socket")

-- How many messages the witness has under way, and the client publishes in a row.
local WINDOW, PORTION = 50, 10
-- The time from the start of a client to its end, in seconds, at most.
local LIFE = 0.5
-- After how many kills the broker is stopped and started again.
local KILLS_PER_RESTART = 10
-- After how many seconds without any progress the run is given up: a start of the broker may take some; and after how
-- many the client has nothing more to send, and what is missing is lost.
local PATIENCE, QUIET = 60, 15

local settings = {}
for _, argument in ipairs(arg) do
	local name, value = argument:match("^(%w+)=(.*)$")
	settings[name] = tonumber(value) or value
end
local version = assert(({ ["3.1.1"] = mqtt.v311, [5] = mqtt.v50 })[settings.version], "expecting version 3.1.1 or 5.0")
local properties = version == mqtt.v50 and { session_expiry_interval = 3600 } or nil

local HIGHEST = settings.qos or 2
local MOST = settings.window or math.huge

io.stdout:setvbuf("no")

-- The client under test ----------------------------------------------------------------------------------------------

if settings.client then
	mqtt.log.set(false)
	local client = mqtt.client {
		uri = settings.uri, id = "killed", clean = false, version = version, properties = properties, reconnect = 0.05,
		resubscribe = true, store = { path = settings.store, sync = settings.sync },
	}
	client:on {
		connect = function(connack)
			-- Each time: a process may be killed before the SUBACK.
			if connack.rc == 0 then
				client:subscribe { topic = "back/+", qos = HIGHEST, callback = function()
					io.write("subscribed\n")
				end }
			end
		end,
		message = function(msg)
			local name = msg.topic:sub(-1) .. " " .. msg.payload .. "\n"
			io.write("got " .. name)
			if client:acknowledge(msg) then
				io.write("done " .. name)
			end
		end,
	}
	local loop, published = mqtt.get_ioloop(), 0
	loop:add(client)
	loop:add(function()
		local stats = client:stats()
		if settings.client ~= "last" then
			for _ = 1, math.min(PORTION, MOST - stats.queued - stats.in_flight) do
				published = published + 1
				local qos, payload = 1 + published % HIGHEST, settings.client .. ":" .. published
				if client:publish { topic = "soak/" .. qos, payload = payload, qos = qos } then
					io.write("kept " .. qos .. " " .. payload .. "\n")
				end
			end
			return 0.002
		elseif io.open(settings.said .. ".end") and stats.queued == 0 and stats.in_flight == 0 then
			client:disconnect()
			os.exit(0)
		end
		return 0.05
	end)
	loop:run_until_clients()
	os.exit(1)
end

-- The witness ---------------------------------------------------------------------------------------------------------

math.randomseed(settings.seed)
local problems, kills = {}, 0

local function problem(text, ...)
	problems[#problems + 1] = text:format(...)
end

-- By QoS: what the client has kept, in order; what has arrived; what was sent to the client, and what it said of that.
local kept, arrived, again = { {}, {} }, { {}, {} }, 0
local order, sent, acknowledged = { {}, {} }, { 0, 0 }, { 0, 0 }
local got, done, different = { {}, {} }, { {}, {} }, { 0, 0 }

local witness = mqtt.client {
	uri = settings.direct, id = "witness", clean = false, version = version, properties = properties, reconnect = 0.05,
	auto_ack = true,
}

local is_subscribed, is_connected = false, false

local function pump(qos)
	while is_subscribed and kills < settings.kills and sent[qos] - acknowledged[qos] < WINDOW
		and sent[qos] < settings.messages do
		local payload = tostring(sent[qos] + 1)
		local ok = witness:publish { topic = "back/" .. qos, payload = payload, qos = qos, callback = function()
			acknowledged[qos] = acknowledged[qos] + 1
		end }
		if not ok then
			return
		end
		sent[qos] = sent[qos] + 1
	end
end

witness:on {
	-- The broker is stopped now and then.
	error = function() end,
	close = function()
		is_connected = false
	end,
	message = function(msg)
		local qos = tonumber(msg.topic:sub(-1))
		if not arrived[qos][msg.payload] then
			arrived[qos][msg.payload] = true
			table.insert(order[qos], msg.payload)
		elseif qos == 1 then
			again = again + 1
		else
			problem("%s of QoS 2 has arrived again", msg.payload)
		end
	end,
}

local said = assert(io.open(settings.said, "w+"))
local rest = ""
local function listen()
	rest = rest .. (said:read("*a") or "")
	for line in rest:gmatch("([^\n]*)\n") do
		local what, qos, payload = line:match("^(%a+) (%d) (%S+)$")
		qos = tonumber(qos)
		if what == "kept" then
			table.insert(kept[qos], payload)
		elseif what == "got" then
			if qos == 2 and done[qos][payload] then
				problem("%s of QoS 2 comes again after its acknowledgement", payload)
			end
			different[qos] = different[qos] + (got[qos][payload] and 0 or 1)
			got[qos][payload] = true
		elseif what == "done" then
			done[qos][payload] = true
		elseif line == "subscribed" then
			is_subscribed = true
		else
			problem("the client said: %s", line)
		end
	end
	rest = rest:match("[^\n]*$")
end

local function start(name)
	local line = {}
	for _, argument in ipairs(arg) do
		line[#line + 1] = "'" .. argument .. "'"
	end
	local pipe = io.popen(("%s soak/killed.lua %s client=%s >>%s 2>&1 & echo $!"):format(arg[-1], table.concat(line, " "),
		name, settings.said))
	local pid = pipe:read("*l")
	pipe:close()
	return pid
end

local function finish()
	for qos = 1, HIGHEST do
		local lost = 0
		for _, payload in ipairs(kept[qos]) do
			lost = lost + (arrived[qos][payload] and 0 or 1)
		end
		if lost > 0 then
			problem("%d kept messages of QoS %d were lost", lost, qos)
		end
		local life, number = 0, 0
		for _, payload in ipairs(order[qos]) do
			local a, b = payload:match("^(%d+):(%d+)$")
			a, b = tonumber(a), tonumber(b)
			if a < life or a == life and b <= number then
				problem("%s of QoS %d is out of order", payload, qos)
			end
			life, number = a, b
		end
		for i = 1, sent[qos] do
			if not got[qos][tostring(i)] then
				problem("%d of QoS %d to the client was lost", i, qos)
			end
		end
		print(("QoS %d: %d messages kept, %d arrived; %d sent to the client"):format(qos, #kept[qos],
			#order[qos], sent[qos]))
	end
	print(("killed %d times; %d of QoS 1 arrived again"):format(kills, again))
	for i, text in ipairs(problems) do
		print("PROBLEM: " .. text)
		if i == 20 then
			break
		end
	end
	os.exit(#problems == 0 and 0 or 1)
end

local loop = mqtt.get_ioloop()
local subscribed = 0
local pid, ends, is_last = nil, 0, false
local last, since = -1, socket.gettime()

-- What has happened so far: a number that grows. Repeats count: behind them stands what has not arrived yet.
local function progress()
	local sum = again
	for qos = 1, HIGHEST do
		sum = sum + #kept[qos] + #order[qos] + different[qos] + acknowledged[qos]
	end
	return sum
end

-- Whether a kept message has not arrived.
local function is_missing()
	for qos = 1, HIGHEST do
		for _, payload in ipairs(kept[qos]) do
			if not arrived[qos][payload] then
				return true
			end
		end
	end
end

local function watch()
	listen()
	local now, moved = socket.gettime(), progress()
	if moved ~= last then
		last, since = moved, now
	elseif now > since + PATIENCE then
		problem("nothing has moved for %d seconds", PATIENCE)
		return finish()
	end
	if subscribed < HIGHEST then
		return 0.01
	end
	for qos = 1, HIGHEST do
		pump(qos)
	end
	if not pid then
		pid, ends = start(kills + 1), now + LIFE * (0.2 + 0.8 * math.random())
	elseif not is_last and now >= ends and is_connected then
		os.execute("kill -KILL " .. pid)
		kills = kills + 1
		pid = nil
		if settings.signal and kills % KILLS_PER_RESTART == 0 then
			print("restart " .. settings.signal)
		end
		if kills == settings.kills then
			is_last, pid = true, start("last")
		end
	elseif is_last then
		local is_done = true
		for qos = 1, HIGHEST do
			is_done = is_done and different[qos] == sent[qos] and acknowledged[qos] == sent[qos]
		end
		if is_done then
			io.open(settings.said .. ".end", "w"):close()
		end
		-- The client ends when everything has gone out.
		local pipe = io.popen("kill -0 " .. pid .. " 2>&1")
		local gone = pipe:read("*a") ~= ""
		pipe:close()
		if gone and now > since + (is_missing() and QUIET or 0.5) then
			return finish()
		end
	end
	return 0.01
end

witness:on("connect", function(connack)
	is_connected = connack.rc == 0
	if connack.rc == 0 and not connack.sp then
		for qos = 1, HIGHEST do
			witness:subscribe { topic = "soak/" .. qos, qos = qos, callback = function()
				subscribed = subscribed + 1
			end }
		end
	end
end)
loop:add(witness)
loop:add(watch)
loop:run_until_clients()

-- What the benchmarks share: the client to measure, the clock, the report. bench/rig/src/program.rs says how a program
-- is called and what it prints.

-- Decides which event loop the library finds, so it comes first.
local copas = os.getenv("RIG_LOOP") == "copas" and require("copas")

local mqtt = require("mqtt")

local is_native, core = pcall(require, "mqtt.core")

local bench = {
	-- How many messages of QoS 1 and 2 are unacknowledged at any time while publishing.
	OUTSTANDING = 100,
	-- How long to measure, in seconds.
	duration = tonumber(os.getenv("RIG_MS") or 500) / 1000,
	-- The time in seconds.
	clock = is_native and core.now or require("socket").gettime,
}

-- From which payload on memory is of interest.
local LARGE = 64 * 1024

--- Reads a field of /proc/self/status, in KiB.
function bench.status(field)
	for line in io.lines("/proc/self/status") do
		local value = line:match("^" .. field .. ":%s*(%d+)")
		if value then
			return tonumber(value)
		end
	end
end

--- Makes the peak what is resident now, and returns that in KiB.
function bench.reset_peak()
	local file = io.open("/proc/self/clear_refs", "w")
	if file then
		file:write("5")
		file:close()
	end
	return bench.status("VmRSS")
end

--- Creates a client of the broker that the environment names; with `sync`, one with a store.
function bench.client(id, handlers, sync)
	sync = sync or os.getenv("RIG_SYNC")
	local secure = os.getenv("RIG_CA") and {
		mode = "client",
		protocol = "tlsv1_3",
		verify = "peer",
		cafile = os.getenv("RIG_CA"),
		options = "all",
	}
	local client = mqtt.client {
		uri = os.getenv("RIG_URI") or os.getenv("RIG_HOST") .. ":" .. os.getenv("RIG_PORT"),
		id = id,
		clean = not sync,
		store = sync and { path = os.getenv("RIG_STORE"), sync = sync },
		secure = secure or false,
		-- Others send without a limit.
		server_receive_maximum = is_native and bench.OUTSTANDING or nil,
		-- Nil for the default.
		connector = os.getenv("RIG_CONNECTOR") and require(os.getenv("RIG_CONNECTOR")),
	}
	client:on {
		connect = function(connack)
			assert(connack.rc == 0, connack:reason_string())
		end,
		error = function(err)
			io.stderr:write("the client has failed: ", tostring(err), "\n")
			os.exit(1)
		end,
	}
	client:on(handlers(client))
	return client
end

--- Serves clients until the program ends.
function bench.run(clients)
	local last = table.remove(clients)
	if rawget(_G, "ngx") then
		require("mqtt.loop").add(last)
	elseif copas then
		require("mqtt.loop").add(last)
		copas.loop()
	else
		for _, client in ipairs(clients) do
			mqtt.get_ioloop():add(client)
		end
		mqtt.run_ioloop(last)
	end
end

--- Serves a client until the program ends, and calls a function when the client is connected, outside of the loop.
function bench.run_outside(client, func)
	local loop, is_connected = mqtt.get_ioloop(), false
	client:on("connect", function()
		is_connected = true
	end)
	loop:add(client)
	while not is_connected do
		loop:iteration()
	end
	func()
	loop:run_until_clients()
end

--- Begins to measure, for payloads of some size.
function bench.start(size)
	local watch = {}
	if size and size >= LARGE then
		collectgarbage()
		watch.resident = bench.reset_peak()
	end
	watch.cpu, watch.time = os.clock(), bench.clock()
	return watch
end

--- Whether the time to measure is over.
function bench.is_over(watch)
	return bench.clock() - watch.time >= bench.duration
end

--- Prints what was measured, and numbers by name, and ends the program.
function bench.report(watch, messages, more)
	local time, cpu = bench.clock() - watch.time, os.clock() - watch.cpu
	io.write(("rate=%.1f cpu=%.4f"):format(messages / time, cpu * 1e6 / messages))
	if watch.resident then
		io.write((" peak=%d"):format(bench.status("VmHWM") - watch.resident))
	end
	for name, number in pairs(more or {}) do
		io.write((" %s=%.4f"):format(name, number))
	end
	print()
	io.stdout:flush()
	os.exit(0)
end

return bench

-- Clients with a store when things go wrong: the end amid a sync, forks, disks that are full or gone, locks, limits.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local copas_support = require("spec.support.copas")
local core = require("mqtt.core")
local harness = require("spec.support.harness")
local ioloop = require("mqtt.ioloop")
local lfs = require("lfs")
local mqtt = require("mqtt")

if not core.link(4).keep_in then
	describe("the option store", function()
		it("is in this build", function()
			pending("it is built without stores")
		end)
	end)
	return
end

-- Directories of stores, which are removed after each test.
local paths = {}

local function new_path()
	local path = os.tmpname()
	os.remove(path)
	paths[#paths + 1] = path
	return path
end

local function remove_paths()
	for _, path in ipairs(paths) do
		os.execute("rm -rf '" .. path .. "'")
	end
	paths = {}
end

local function new_id()
	return "faulty-" .. core.random_hex(12)
end

-- Makes a client with a store.
local function keeper(store, opts)
	local own = { id = new_id(), clean = false, store = store }
	for key, value in pairs(opts or {}) do
		own[key] = value
	end
	own.properties = own.version == mqtt.v50 and { session_expiry_interval = 600 } or nil
	return harness.client(own)
end

-- Lua collects the clients that the test does not hold any more.
local function collect()
	harness.cleanup()
	-- Compiled code of LuaJIT holds objects.
	local jit = rawget(_G, "jit")
	if jit then
		jit.flush()
	end
	-- Lua 5.1 takes some rounds for what has finalizers.
	for _ = 1, 4 do
		collectgarbage()
	end
end

-- A client that receives everything under a topic.
local function witness(topic)
	local client, payloads = harness.connect(harness.client()), {}
	harness.subscribe(client, { topic = topic .. "/#", qos = 0 })
	client:on("message", function(message)
		payloads[#payloads + 1] = message.payload
	end)
	return client, payloads
end

local function list(client)
	local all = {}
	for message in client:stored() do
		all[#all + 1] = message
	end
	return all
end

-- The bytes of a store's files.
local function size_of(path)
	local size = 0
	for name in lfs.dir(path) do
		size = size + (name:find("%.mqtt$") and lfs.attributes(path .. "/" .. name, "size") or 0)
	end
	return size
end

-- Begins scripts of children: `client` has a store.
local PRELUDE = [[
local mqtt = require("mqtt")
mqtt.log.set(false)
local URI, PATH, ID, TOPIC, SYNC = %q, %q, %q, %q, %q
local function new(path)
	return mqtt.client({ uri = URI, id = ID, clean = false, store = { path = path or PATH, sync = SYNC },
		will = { topic = TOPIC, payload = "will" } })
end
]]

describe("a client with a store that is synced", function()
	after_each(function()
		collect()
		copas_support.unload()
		remove_paths()
	end)

	for what, script in pairs({
		["disconnects"] = "client:disconnect()",
		["shuts down"] = "client:shutdown()",
		["ends with os.exit"] = "os.exit(0)",
		["ends with os.exit, state closed"] = "os.exit(0, true)",
		["is collected"] = "client = nil; collectgarbage(); collectgarbage()",
		["closes the connection"] = "client:close_connection()",
		["comes to its end"] = "",
	}) do
		it("still sends what it has accepted when its program " .. what, function()
			local path, topic = new_path(), harness.topic()
			local observer, payloads = witness(topic)
			local output, status = child.run(PRELUDE .. [[
				local client = new()
				local has_left = false
				client:on("connect", function()
					for i = 1, 20 do
						assert(client:publish({ topic = TOPIC, payload = "kept", qos = 1 }))
						assert(client:publish({ topic = TOPIC, payload = "plain", qos = 0 }))
					end
					has_left = true
				end)
				client:start_connecting()
				while not has_left do
					client:step()
				end
				]] .. script .. [[

			]], broker.uri, path, new_id(), topic .. "/t", "power")
			assert.same({ "", 0 }, { output, status })
			harness.serve({ observer }, function()
				local kept, plain = 0, 0
				for _, payload in ipairs(payloads) do
					kept, plain = kept + (payload == "kept" and 1 or 0), plain + (payload == "plain" and 1 or 0)
				end
				return kept >= 20 and plain == 20
			end)
		end)
	end

	it("sends its DISCONNECT though a sync is under way", function()
		local path, topic = new_path(), harness.topic()
		local observer, payloads = witness(topic)
		local client = keeper({ path = path, sync = "power" }, { will = { topic = topic .. "/will", payload = "will" } })
		harness.connect(client)
		assert(client:publish({ topic = topic .. "/t", payload = "kept", qos = 1 }))
		assert.is_true(client:disconnect())
		harness.serve({ observer }, function()
			return payloads[1]
		end)
		harness.flush(observer)
		assert.same({ "kept" }, payloads)
	end)

	-- A connector without a descriptor: only its `send` writes.
	local function without_descriptor(name)
		local super = require(name)
		local class = setmetatable({ super = super, getfd = false, sends_plainly = false }, super)
		class.__index = class
		return class
	end

	for _, sync in ipairs({ "process", "power" }) do
		for _, name in ipairs({ "mqtt.connector.luasocket", "mqtt.connector.copas" }) do
			for _, plain in ipairs({ true, false }) do
				it(("works through %s %s a descriptor, sync = %s"):format(name, plain and "with" or "without", sync), function()
					local path, topic, id = new_path(), harness.topic(), new_id()
					local copas, missing
					if name:find("copas") then
						package.loaded[name] = nil
						copas, missing = copas_support.load(4)
						if not copas then
							return pending(missing)
						end
					end
					local class = plain and require(name) or without_descriptor(name)
					local received, answered = {}, 0
					local function run(body)
						local client = keeper({ path = path, sync = sync }, { id = id, connector = class, keep_alive = 600 })
						client:on("message", function(message)
							received[#received + 1] = message.payload
							assert(client:acknowledge(message))
						end)
						if copas then
							local failure
							require("mqtt.loop.copas").add(client)
							local ended = false
							copas.addthread(function()
								-- No `pcall`: Lua 5.1 could not yield out of it.
								copas.setErrorHandler(function(err)
									failure = err
									client:shutdown()
								end)
								body(client, function(done)
									local deadline = harness.now() + 10
									while not done() do
										assert(harness.now() < deadline, "nothing came of it in time")
										copas.pause(0.002)
									end
								end)
								ended = true
								client:shutdown()
							end)
							copas.loop()
							assert.is_nil(failure)
							assert.is_true(ended)
						else
							body(client, function(done)
								harness.serve({ client }, done)
							end)
						end
					end
					run(function(client, wait)
						assert(client:publish({ topic = topic .. "/early", payload = "early", qos = 2 }))
						wait(function()
							return client.connection and client.connection.connack
						end)
						local subscribed
						assert(client:subscribe({ topic = topic .. "/in", qos = 2, callback = function()
							subscribed = true
						end }))
						wait(function()
							return subscribed
						end)
						for i = 1, 20 do
							assert(client:publish({ topic = topic .. "/in", payload = "in " .. i, qos = i % 2 + 1, callback = function()
								answered = answered + 1
							end }))
						end
						wait(function()
							return answered == 20 and #received == 20 and client:stats().in_flight == 0
						end)
						-- Closing without a descriptor destroys what the broker has not read. By its PINGRESP it has read each PUBACK.
						client:send_pingreq()
						wait(function()
							return client:stats().ping_round_trip
						end)
						assert(client:publish({ topic = topic .. "/in", payload = "last", qos = 2 }))
						assert.is_true(client:disconnect())
					end)
					collect()
					run(function(client, wait)
						wait(function()
							return received[21] and client.connection and client.connection.connack
						end)
						assert.equal("last", received[21])
						assert.is_true(client:disconnect())
					end)
				end)
			end
		end
	end

	it("works with a program that polls by step", function()
		local path, topic = new_path(), harness.topic()
		local observer, payloads = witness(topic)
		local client = keeper({ path = path, sync = "power" })
		local answered = 0
		client:on("connect", function()
			for i = 1, 10 do
				assert(client:publish({ topic = topic .. "/t", payload = tostring(i), qos = 2, callback = function()
					answered = answered + 1
				end }))
			end
		end)
		assert(client:start_connecting())
		local deadline = harness.deadline()
		while answered < 10 do
			assert(harness.now() < deadline)
			client:step()
		end
		harness.serve({ observer }, function()
			return #payloads == 10
		end)
	end)
end)

describe("a store", function()
	after_each(function()
		collect()
		remove_paths()
	end)

	-- The children of forks.
	if child.FORK then
		it("stays the parent's when its process forks", function()
			local path, topic = new_path(), harness.topic()
			local id = new_id()
			local output, status = child.run(child.FORK .. PRELUDE .. [[
				local client = new()
				for i = 1, 5 do
					assert(client:publish({ topic = TOPIC, payload = "parent " .. i, qos = 1 }))
				end
				for _, ends in ipairs({ "os.exit", "end" }) do
					local pid = fork()
					if pid == 0 then
						io.stdout:write(tostring(select(2, client:publish({ topic = TOPIC, payload = "child", qos = 1 }))), "\n")
						io.stdout:write(tostring(select(2, pcall(function()
							for _ in client:stored() do end
						end))), "\n")
						io.stdout:write(tostring(select(2, pcall(new))), "\n")
						io.stdout:flush()
						if ends == "os.exit" then
							os.exit(0)
						end
						client = nil
						collectgarbage()
						collectgarbage()
						os.exit(0, true)
					end
					wait(pid)
				end
				for i = 6, 10 do
					assert(client:publish({ topic = TOPIC, payload = "parent " .. i, qos = 1 }))
				end
			]], broker.uri, path, id, topic .. "/t", "process")
			assert.equal(0, status, output)
			local words = "this client belongs to the parent process: create a new one after fork()"
			local lines = {}
			for line in output:gmatch("[^\n]+") do
				lines[#lines + 1] = line
			end
			assert.equal(6, #lines, output)
			for _, from in ipairs({ 0, 3 }) do
				assert.matches(words, lines[from + 1], 1, true)
				assert.matches(words, lines[from + 2], 1, true)
				assert.matches("another process uses it", lines[from + 3], 1, true)
			end
			local observer, payloads = witness(topic)
			local client = keeper(path, { id = id })
			assert.equal(10, #list(client))
			harness.serve({ client, observer }, function()
				return #payloads == 10
			end)
			for i = 1, 10 do
				assert.equal("parent " .. i, payloads[i])
			end
		end)
		it("is free when its process has ended, though a child lives on", function()
			local path, id = new_path(), new_id()
			local result = os.tmpname()
			child.run(child.FORK .. PRELUDE .. [[
				local client = new()
				assert(client:publish({ topic = TOPIC, qos = 1 }))
				if fork() == 0 then
					local deadline, ok, err = os.time() + 15, nil, nil
					repeat
						ok, err = pcall(new)
					until ok or os.time() > deadline
					local handle = io.open(%q, "w")
					handle:write(ok and err:stored()().topic or err)
					handle:close()
					os.exit(0)
				end
				os.execute("kill -9 $PPID")
			]], broker.uri, path, id, "kept", "process", result)
			local handle = io.open(result)
			local text = handle:read("*a")
			handle:close()
			os.remove(result)
			assert.equal("kept", text)
		end)
	end

	it("stays locked though the program reads its files #unix", function()
		local path = new_path()
		local client = keeper(path)
		for name in lfs.dir(path) do
			if lfs.attributes(path .. "/" .. name, "mode") == "file" then
				assert(io.open(path .. "/" .. name)):close()
			end
		end
		local output = child.run(PRELUDE .. "print(pcall(new))", broker.uri, path, "other", "t", "process")
		assert.matches("another process uses it", output, 1, true)
		assert.is_true(client:publish({ topic = "t", qos = 1 }))
	end)

	it("is not for two copies of the library in a process #unix", function()
		local path, copy = new_path(), new_path()
		local client = keeper(path)
		local output, status = child.run(PRELUDE .. [[
			local first = new()
			local copy = %q
			assert(os.execute("mkdir -p " .. copy .. "/mqtt"))
			for template in package.cpath:gmatch("[^;]+") do
				local file = template:gsub("?", "mqtt/core")
				if io.open(file) then
					assert(os.execute(("cp '%%s' %%s/mqtt/"):format(file, copy)))
					break
				end
			end
			package.cpath = copy .. "/?.so"
			for name in pairs(package.loaded) do
				if name:find("^mqtt") then
					package.loaded[name] = nil
				end
			end
			mqtt = require("mqtt")
			local ok, err = pcall(new)
			print(ok, ok or err:match("store: (.*)"), first:publish({ topic = TOPIC, qos = 1 }))
		]], broker.uri, path .. "-2", "other", "t", "process", copy)
		paths[#paths + 1] = path .. "-2"
		assert.equal("false\tanother process uses it\ttrue\n", output)
		assert.equal(0, status)
		assert.is_true(client:publish({ topic = "t", qos = 1 }))
	end)

	it("is of one directory, whatever the program does with its own", function()
		local here, there = lfs.currentdir(), new_path()
		assert(lfs.mkdir(there))
		assert(lfs.chdir(there))
		local ok, err = pcall(function()
			local client = keeper("store")
			assert(client:publish({ topic = "t", qos = 1 }))
			assert(lfs.mkdir(there .. "/other"))
			assert(lfs.chdir(there .. "/other"))
			-- More than a segment.
			local payload = ("x"):rep(100000)
			for _ = 1, 100 do
				assert(client:publish({ topic = "t", payload = payload, qos = 1 }))
			end
			assert.equal(101, #list(client))
			client = nil -- luacheck: ignore 311
			collect()
			assert.equal(101, #list(keeper(there .. "/store")))
			assert.is_nil(lfs.attributes(there .. "/other/store"))
		end)
		lfs.chdir(here)
		assert(ok, err)
	end)

	it("makes its directory, and says why not #unix", function()
		local path = new_path()
		assert.equal(0, #list(keeper(path .. "/deep/down")))
		assert.equal("rwx------", lfs.attributes(path .. "/deep/down", "permissions"))
		assert.equal("rw-------", lfs.attributes(path .. "/deep/down/lock", "permissions"))
		local file = io.open(path .. "/file", "w")
		file:close()
		for bad, words in pairs({
			[path .. "/file"] = "File exists",
			[path .. "/file/below"] = "Not a directory",
			[path .. "/" .. ("x"):rep(300)] = "File ?name too long", -- glibc's and musl's text
			[path .. "/n\0l"] = "unexpected NUL byte",
			["/proc/self/nothing"] = "No such file or directory",
		}) do
			local ok, err = pcall(keeper, bad)
			assert.is_false(ok)
			assert.matches("cannot be opened: store: ", err, 1, true)
			assert.matches(words, err)
		end
		-- A symbolic link is the directory that it leads to.
		assert(lfs.link(path .. "/deep/down", path .. "/link", true))
		local ok, err = pcall(keeper, path .. "/link")
		assert.is_false(ok)
		assert.matches("another client of this process uses it", err, 1, true)
	end)

	it("says that its files have been removed #unix", function()
		local path = new_path()
		local client = keeper(path)
		local message = { topic = "t", qos = 1 }
		assert(client:publish(message))
		remove_paths()
		local deadline = harness.deadline()
		local ok, err
		repeat
			assert(harness.now() < deadline)
			ok, err = client:publish(message)
		until not ok
		assert.matches("failed to send PUBLISH: store: .*%.mqtt has been removed", err)
	end)

	it("leaves files alone that are none of its own", function()
		local path = new_path()
		assert(lfs.mkdir(path))
		for _, name in ipairs({ "cafe.mqtt", "notes.mqtt", "notes.txt", "00000000000000001.mqtt",
			"000000000000000A.mqtt" }) do
			local file = io.open(path .. "/" .. name, "w")
			file:write("not a store")
			file:close()
		end
		local client = keeper(path)
		assert(client:publish({ topic = "t", qos = 1 }))
		client = nil -- luacheck: ignore 311
		collect()
		assert.equal(1, #list(keeper(path)))
		assert.equal(11, lfs.attributes(path .. "/cafe.mqtt", "size"))
		assert.equal(11, lfs.attributes(path .. "/000000000000000A.mqtt", "size"))
	end)

	it("is not for another version of the protocol", function()
		local path, id = new_path(), new_id()
		local client = keeper(path, { id = id, version = mqtt.v50 })
		assert(client:publish({ topic = harness.topic(), payload = "p", qos = 1 }))
		client = nil -- luacheck: ignore 311
		collect()
		local ok, err = pcall(keeper, path, { id = id })
		assert.is_false(ok)
		assert.matches("cannot be opened: store: its messages are of MQTT 5.0", err, 1, true)
		client = keeper(path, { id = id, version = mqtt.v50 })
		harness.serve({ client }, function()
			return client:stats().queued == 0 and client:stats().in_flight == 0
		end)
		client:disconnect()
		client = nil -- luacheck: ignore 311
		collect()
		assert.equal(0, #list(keeper(path, { id = id })))
	end)

	it("belongs to one client, also of two states, and to nobody once its owner is killed #unix", function()
		local path = new_path()
		local client = keeper(path)
		-- The library once more.
		local loaded = {}
		for name, module in pairs(package.loaded) do
			if name:find("^mqtt") then
				loaded[name], package.loaded[name] = module, nil
			end
		end
		local ok, err = pcall(require("mqtt").client,
			{ uri = broker.uri, id = "other", clean = false, store = path })
		for name, module in pairs(loaded) do
			package.loaded[name] = module
		end
		assert.is_false(ok)
		assert.matches("another client of this process uses it", err, 1, true)
		client:disconnect()
		client = nil -- luacheck: ignore 311
		collect()
		local output = child.run(PRELUDE .. [[
			assert(new():publish({ topic = "t", qos = 1 }))
			os.execute("kill -KILL $PPID")
		]], broker.uri, path, new_id(), "t", "process")
		assert.equal("", (output:gsub("Killed\n", "")))
		assert.equal(1, #list(keeper(path)))
	end)

	it("is free at once when its client, which is still leaving, is collected", function()
		local path, topic = new_path(), harness.topic()
		for _, sync in ipairs({ "process", "power" }) do
			for _ = 1, 5 do
				local client = harness.connect(keeper({ path = path, sync = sync }))
				for _ = 1, 100 do
					assert(client:publish({ topic = topic, payload = "p", qos = 2 }))
				end
				client = nil -- luacheck: ignore 311
				collect()
			end
		end
	end)

	it("takes two descriptors", function()
		local output, status = child.run([[
			local mqtt, lfs = require("mqtt"), require("lfs")
			mqtt.log.set(false)
			local function count()
				local number = 0
				for _ in lfs.dir("/proc/self/fd") do
					number = number + 1
				end
				return number
			end
			local clients = {}
			local function add(index)
				clients[index] = mqtt.client({ uri = "mqtt://127.0.0.1:1", id = "c" .. index, clean = false,
					store = { path = %q .. "/" .. index, sync = index %% 2 == 0 and "power" or "process" } })
				assert(clients[index]:publish({ topic = "t", payload = "p", qos = 1 }))
			end
			add(1)
			local before, ok, err = count(), nil, nil
			for index = 2, 1001 do
				ok, err = pcall(add, index)
				if not ok then
					print(err)
					break
				end
			end
			local kept, deadline = #clients, os.time() + 10
			-- A third one is open until the store has been synced for the first time.
			while count() - before - 2 * kept >= 10 and os.time() < deadline do
				clients[1]._link:wait(0.01)
			end
			print(count() - before - 2 * kept < 10)
			for index = 1, kept do
				assert(clients[index]:publish({ topic = "t", payload = "p", qos = 1 }))
			end
		]], new_path())
		assert.equal(0, status, output)
		assert.matches("true\n$", output)
		if output ~= "true\n" then
			assert.matches("cannot be opened: store: Too many open files", output, 1, true)
		end
	end)

	it("says that there are no descriptors, and others go on #unix", function()
		local output = child.run_short_of_descriptors([[
			local mqtt = require("mqtt")
			mqtt.log.set(false)
			local files = {}
			local function take()
				local file = io.open("/dev/null")
				files[#files + 1] = file
				return file
			end
			for _ = 1, 4 do
				take()
			end
			local clients, ok, err = {}, true, nil
			while ok do
				ok, err = pcall(mqtt.client, { uri = "mqtt://127.0.0.1:1", id = "c", clean = false,
					store = %q .. "/" .. #clients })
				clients[#clients + 1] = ok and err or nil
			end
			print(err)
			for _, client in ipairs(clients) do
				-- The last one needs another segment, and a descriptor for it.
				assert(client:publish({ topic = "t", payload = "p", qos = 1 }))
			end
			repeat until not take()
			local payload, last = ("x"):rep(1000000), clients[#clients]
			for _ = 1, 10 do
				ok, err = last:publish({ topic = "t", payload = payload, qos = 1 })
			end
			print(ok, err)
			for _, file in ipairs(files) do
				file:close()
			end
			print(last:publish({ topic = "t", payload = payload, qos = 1 }))
		]], new_path())
		local lines = {}
		for line in output:gmatch("[^\n]+") do
			lines[#lines + 1] = line
		end
		-- The second text is musl's.
		local reason = (lines[1] or ""):match("cannot be opened: store: (Too many open files)")
			or (lines[1] or ""):match("cannot be opened: store: (No file descriptors available)")
		assert.is_string(reason, lines[1])
		assert.matches("^false%s+failed to send PUBLISH: store: " .. reason, lines[2])
		assert.equal("true", lines[3])
	end)
end)

describe("a store without room", function()
	local mounted

	after_each(function()
		collect()
		if mounted then
			os.execute("umount '" .. mounted .. "'")
			mounted = nil
		end
		remove_paths()
	end)

	-- A file system of so many bytes; nil if this user can have none.
	local function small_disk(size)
		local path = new_path()
		assert(lfs.mkdir(path))
		os.execute(("mount -t tmpfs -o size=%d none '%s' 2>/dev/null"):format(size, path))
		local pipe = io.popen("stat -f -c %T '" .. path .. "' 2>/dev/null")
		local kind = pipe:read("*l")
		pipe:close()
		if lfs.attributes(path, "dev") == lfs.attributes("/tmp", "dev") or kind ~= "tmpfs" then
			return nil
		end
		mounted = path
		return path
	end

	local function fill(path)
		local file = assert(io.open(path .. "/filler", "wb"))
		file:setvbuf("no")
		repeat until not file:write(("x"):rep(4096))
		file:close()
	end

	for _, sync in ipairs({ "process", "power" }) do
		it("refuses what does not fit, keeps what it has, and goes on when there is room, sync = " .. sync, function()
			local path = small_disk(4 * 2 ^ 20)
			if not path then
				return pending("this user can mount no disk")
			end
			local topic, id = harness.topic(), new_id()
			local store = { path = path .. "/store", sync = sync }
			local client = keeper(store, { id = id })
			local message = { topic = topic .. "/t", payload = ("x"):rep(3000), qos = 2 }
			local count = 0
			local ok, err
			repeat
				ok, err = client:publish(message)
				count = count + (ok and 1 or 0)
			until not ok
			assert.matches("^failed to send PUBLISH: store: No space left on device", err)
			assert.is_true(count > 1000, tostring(count))
			assert.equal(count, client:stats().queued)
			-- Others fill the rest too: what is kept can be sent all the same.
			fill(path)
			assert.is_false(client:publish(message))
			client = nil -- luacheck: ignore 311
			collect()
			client = keeper(store, { id = id })
			assert.equal(count, client:stats().queued)
			local errors = harness.record(client, { "error" })
			harness.serve({ client }, function()
				return client:stats().queued == 0 and client:stats().in_flight == 0
			end)
			assert.same({}, errors)
			os.remove(path .. "/filler")
			-- The room of what was sent may be free only after a sync.
			harness.serve({ client }, function()
				return client:publish(message)
			end)
			client:disconnect()
		end)
	end

	it("refuses a directory that it may not write to", function()
		local path = small_disk(2 ^ 20)
		if not path then
			return pending("this user can mount no disk")
		end
		os.execute("mount -o remount,ro '" .. path .. "'")
		local ok, err = pcall(keeper, path .. "/store")
		assert.is_false(ok)
		assert.matches("cannot be opened: store: Read-only file system", err, 1, true)
	end)

	it("lets nothing give way for a message that never fits", function()
		local client = keeper({ path = new_path(), max_bytes = 100000, when_full = "drop_oldest" })
		local message = { topic = "t", payload = ("x"):rep(1000), qos = 1 }
		for _ = 1, 20 do
			assert(client:publish(message))
		end
		local ok, err = client:publish({ topic = "t", payload = ("x"):rep(200000), qos = 1 })
		assert.is_false(ok)
		assert.equal("failed to send PUBLISH: the message is larger than the store may be", err)
		assert.equal(20, client:stats().queued)
		-- The oldest make room for others, as many as are needed.
		for _ = 1, 500 do
			assert(client:publish(message))
		end
		assert.is_true(client:stats().queued > 50)
		assert.equal(520, client:stats().queued + client:stats().dropped)
	end)

	it("gives up the oldest a few at a time", function()
		local client = keeper({ path = new_path(), max_bytes = 2000000, when_full = "drop_oldest" })
		local before, most, payload = 0, 0, ("x"):rep(20)
		for _ = 1, 60000 do
			assert(client:publish({ topic = "t", payload = payload, qos = 1 }))
			local dropped = client:stats().dropped
			before, most = dropped, math.max(most, dropped - before)
		end
		assert.is_true(before > 20000)
		assert.is_true(most <= 10, ("%d at once"):format(most))
		-- Seven eighths of the room are used.
		assert.is_true(client:stats().queued > 15000, client:stats().queued)
	end)

	it("gives room back while messages come and go", function()
		local path, topic = new_path(), harness.topic()
		local client = keeper({ path = path, max_bytes = 400000 })
		local total, answered, most = 10000, 0, 0
		local payload = ("x"):rep(200)
		local function publish()
			assert(client:publish({ topic = topic, payload = payload, qos = 1 }))
		end
		client:on("acknowledge", function()
			answered = answered + 1
			if answered + 100 <= total then
				publish()
			end
			if answered % 500 == 0 then
				most = math.max(most, size_of(path))
			end
		end)
		for _ = 1, 100 do
			publish()
		end
		harness.serve({ client }, function()
			return answered == total
		end)
		assert.is_true(most <= 400000, tostring(most))
		client:disconnect()
	end)

	it("takes messages that are larger than its segments", function()
		local path, topic, id = new_path(), harness.topic(), new_id()
		local client = keeper(path, { id = id })
		local payload = ("x"):rep(6000000)
		for _ = 1, 3 do
			assert(client:publish({ topic = topic .. "/t", payload = payload, qos = 1 }))
		end
		client = nil -- luacheck: ignore 311
		collect()
		client = keeper(path, { id = id })
		assert.equal(3, #list(client))
		local observer, payloads = witness(topic)
		harness.serve({ client, observer }, function()
			return #payloads == 3 and client:stats().in_flight == 0
		end)
		assert.equal(payload, payloads[3])
		assert(client:publish({ topic = topic .. "/t", payload = "small", qos = 1 }))
		harness.serve({ client, observer }, function()
			return #payloads == 4 and client:stats().in_flight == 0
		end)
		assert.is_true(size_of(path) < 1000000)
		client:disconnect()
	end)

	it("gives up many messages that have waited for too long without holding others up", function()
		local path, topic = new_path(), harness.topic()
		local observer, payloads = witness(topic)
		local client = keeper(path, { on = { error = function() end } })
		local total = 20000
		for _ = 1, total do
			assert(client:publish({ topic = topic .. "/t", payload = "old", qos = 1, expire = 0.001 }))
		end
		assert(client:publish({ topic = topic .. "/t", payload = "new", qos = 1 }))
		local loop, longest = ioloop.create({ sleep_max = 0.001 }), 0
		loop:add(client)
		loop:add(observer)
		local deadline = harness.deadline()
		while not payloads[1] do
			assert(harness.now() < deadline)
			local dropped = client:stats().dropped
			client._link:wait(0)
			longest = math.max(longest, client:stats().dropped - dropped)
			loop:iteration()
		end
		assert.equal("new", payloads[1])
		assert.equal(total, client:stats().dropped)
		assert.is_true(longest <= 1024, tostring(longest))
		loop:remove(client)
		loop:remove(observer)
		client:disconnect()
	end)
end)

describe("the tags of a store", function()
	after_each(function()
		collect()
		remove_paths()
	end)

	it("may have any bytes, and are strings", function()
		local path, id = new_path(), new_id()
		local client = keeper(path, { id = id })
		local tags = { "a\0b", "\255\254", "ü", ("x"):rep(65535) }
		for _, tag in ipairs(tags) do
			assert(client:publish({ topic = harness.topic(), qos = 1, tag = tag }))
		end
		-- An empty one is none.
		assert(client:publish({ topic = harness.topic(), qos = 1, tag = "" }))
		for _, bad in ipairs({ 17, true, ("x"):rep(65536) }) do
			local ok, err = pcall(client.publish, client, { topic = "t", qos = 1, tag = bad })
			assert.is_false(ok)
			assert.matches("expecting opts.tag to be a string", err, 1, true)
		end
		client = nil -- luacheck: ignore 311
		collect()
		client = keeper(path, { id = id })
		local answered, count = {}, 0
		client:on("acknowledge", function(ack)
			count = count + 1
			answered[#answered + 1] = ack.tag
		end)
		local all = list(client)
		for i, tag in ipairs(tags) do
			assert.equal(tag, all[i].tag)
		end
		assert.is_nil(all[5].tag)
		harness.serve({ client }, function()
			return count == 5
		end)
		assert.same(tags, answered)
		client:disconnect()
	end)

	it("come in handlers that raise errors, and that publish", function()
		local client = keeper(new_path())
		local tags = {}
		client:on("acknowledge", function(ack)
			tags[#tags + 1] = ack.tag
			if #tags <= 3 then
				assert(client:publish({ topic = "t", qos = 2, tag = "next " .. #tags }))
			end
			error("raised by the handler")
		end)
		for i = 1, 3 do
			assert(client:publish({ topic = "t", qos = 1, tag = "first " .. i }))
		end
		local deadline, raised = harness.deadline(), 0
		while #tags < 6 do
			assert(harness.now() < deadline)
			local ok, err = pcall(harness.serve, { client }, function()
				return #tags == 6
			end)
			raised = raised + (ok and 0 or 1)
			assert(ok or err:find("raised by the handler", 1, true), err)
		end
		table.sort(tags)
		assert.same({ "first 1", "first 2", "first 3", "next 1", "next 2", "next 3" }, tags)
		assert.is_true(raised > 0)
		client:disconnect()
	end)

	it("can be gone through while messages come and go, and not to the end", function()
		local client = keeper(new_path())
		local topic = harness.topic()
		local function publish(tag)
			assert(client:publish({ topic = topic, qos = 1, tag = tag }))
		end
		for i = 1, 200 do
			publish("old " .. i)
		end
		local seen, count = {}, 0
		for message in client:stored() do
			count = count + 1
			assert.is_nil(seen[message.tag])
			seen[message.tag] = true
			if count <= 100 then
				publish("new " .. count)
			end
		end
		for i = 1, 200 do
			assert.is_true(seen["old " .. i])
		end
		harness.connect(client)
		local iterator = client:stored()
		local first = iterator()
		harness.serve({ client }, function()
			return client:stats().in_flight == 0 and client:stats().queued == 0
		end)
		-- What has been sent since does not come; what was read before may.
		local rest = 0
		for _ in iterator do
			rest = rest + 1
		end
		assert.is_true(rest <= 300)
		assert.is_true(first == nil or first.tag ~= nil)
		client:disconnect()
		assert.same({}, list(client))
		publish("later")
		assert.equal("later", list(client)[1].tag)
	end)
end)

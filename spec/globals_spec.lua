-- The library takes what it needs of the standard library once, when it is loaded: a program may name its variables as
-- it likes, and reads none of the library's.

local broker = require("spec.support.broker")
local child = require("spec.support.child")

-- Returns what lists the byte code of a file, or nil.
local function lister()
	if rawget(_G, "jit") then
		return child.interpreter .. " -bl"
	end
	local compiler = child.interpreter:gsub("lua([%d.]*)$", "luac%1")
	local pipe = io.popen("command -v " .. compiler)
	local found = pipe:read("*l")
	pipe:close()
	return found and compiler .. " -l -p"
end

-- The names of the global variables that functions of a file use, not its main chunk, each with its line.
local function names_used(list, file)
	local names, is_main = {}, false
	local pipe = assert(io.popen(list .. " " .. file .. " 2>/dev/null"))
	for line in pipe:lines() do
		if line:find("^main <") or line:find("^function <") or line:find("^%-%- BYTECODE") then
			is_main = line:find("^main <") ~= nil or line:find(":0%-%d+$") ~= nil
		end
		local name = line:match("[GS]ETGLOBAL.*; ([%w_]+)") or line:match('[GS]ETTABUP.*; _ENV "([^"]*)"')
			or line:match('G[GS]ET .*; "([^"]*)"')
		if name and not is_main then
			names[#names + 1] = name .. (line:match("%[(%d+)%]") and ", line " .. line:match("%[(%d+)%]") or "")
		end
	end
	pipe:close()
	return names
end

describe("no function of", function()
	local list = lister()
	local pipe = assert(io.popen("find lua -name '*.lua' | sort"))
	for file in pipe:lines() do
		it(file .. " uses a global variable", function()
			if list then
				assert.same({}, names_used(list, file))
			else
				pending("nothing lists the byte code of this Lua")
			end
		end)
	end
	pipe:close()
end)

-- Loads the library's files with an environment each, which tells when a global is read by a function of the file later
-- on. The program comes after it. Prints what was told, and "end".
local WATCHED = [=[
local paths = {}
for path in package.path:gmatch("[^;]+") do
	paths[#paths + 1] = path
end
local told, loading = {}, {}
local real, rawget, setmetatable, print = _G, rawget, setmetatable, print
local ipairs, io, load, loadstring, setfenv = ipairs, io, load, loadstring, setfenv
local loaders = package.searchers or package.loaders
table.insert(loaders, 2, function(name)
	if not (name .. "."):find("^mqtt%%.") then
		return nil
	end
	for _, path in ipairs(paths) do
		local file = path:gsub("%%?", (name:gsub("%%.", "/")))
		local handle = io.open(file)
		if handle then
			local source = handle:read("*a")
			handle:close()
			local environment = setmetatable({}, {
				__index = function(_, key)
					if not loading[name] then
						told[name .. ": " .. key] = true
					end
					return real[key]
				end,
				__newindex = function(_, key)
					told[name .. " sets " .. key] = true
				end,
			})
			local chunk
			if setfenv then
				chunk = setfenv(assert(loadstring(source, "@" .. file)), environment)
			else
				chunk = assert(load(source, "@" .. file, "t", environment))
			end
			return function(...)
				loading[name] = true
				local result = chunk(...)
				loading[name] = false
				return result
			end
		end
	end
end)
function tell()
	local list = {}
	for text in pairs(told) do
		list[#list + 1] = text
	end
	table.sort(list)
	for _, text in ipairs(list) do
		print(text)
	end
	print("end")
end
local URI = %q
]=]

-- What most programs use of a client. In a function of its own, which runs with the globals that it has taken.
local PROGRAM = [=[
local assert, coroutine, pcall, print, require, tostring = assert, coroutine, pcall, print, require, tostring
local mqtt = require("mqtt")
local core = require("mqtt.core")
local ioloop = require("mqtt.ioloop")
local function use(connector, run, version)
	local done, thrown = false, 0
	local topic = "globals/" .. core.random_hex(12)
	local client = mqtt.client {
		uri = URI, clean = true, version = version, connector = connector, reconnect = { min = 0.01, max = 0.02 },
		auto_ack = true, queue = { max_messages = 10 }, resubscribe = true,
		will = { topic = topic .. "/will", payload = "gone" },
	}
	local connects = 0
	client:on {
		connect = function()
			connects = connects + 1
			if connects == 1 then
				assert(client:subscribe { topic = topic .. "/a", qos = 2, callback = function()
					assert(client:publish { topic = topic .. "/a", payload = "one", qos = 2 })
				end })
			elseif connects == 2 then
				assert(client:unsubscribe { topic = topic .. "/a", callback = function()
					done = true
					client:shutdown()
				end })
			end
		end,
		message = function(message)
			tostring(message)
			if message.topic == topic .. "/a" then
				client:close_connection("again")
			end
		end,
		error = function(message)
			thrown = message
		end,
	}
	client:on_topic(topic .. "/b/+", function() end)
	client:off_topic(topic .. "/b/+")
	tostring(client)
	client:stats()
	pcall(client.publish, client, { topic = 5 })
	pcall(client.subscribe, client, { topic = "a/#/b" })
	client:publish { topic = topic .. "/queued", payload = "1", qos = 1, properties = {}, user_properties = { a = "b" } }
	run(client)
	assert(done, "it has not ended as it should: " .. tostring(thrown))
end
local function in_loop(client)
	local loop = ioloop.create { sleep_max = 0.005 }
	local calls = 0
	local function func()
		calls = calls + 1
		loop:iteration()
		if not loop.clients[client] then
			loop:remove(func)
		end
	end
	pcall(loop.add, loop, 5)
	pcall(ioloop.create, { sleep_max = "long" })
	loop:add(client)
	loop:add(client)
	loop:add(func)
	loop:run_until_clients()
	assert(not loop.running and calls > 0)
end
local function waiting()
	local client = mqtt.client { uri = URI, clean = true, version = mqtt.v50 }
	assert(client:await("connect", { timeout = 5 }))
	assert(client:await("publish", { topic = "globals", qos = 1 }))
	local thread = coroutine.create(function()
		assert(client:await("subscribe", { topic = "globals/+" }))
		client:shutdown()
	end)
	assert(coroutine.resume(thread))
	mqtt.run_ioloop(client)
	client = mqtt.client { uri = "mqtt://127.0.0.1:1", clean = true }
	assert(not mqtt.run_sync(client))
	local _, err = mqtt.run_ioloop(client)
	assert(err)
	mqtt.log.set { debug = function() end }
	mqtt.log:debug("text")
end
]=]

-- The output without the lines of the log, which are written to stderr.
local function without_log(output)
	return (output:gsub("%l+: %[LuaMQTT%] [^\n]*\n", ""))
end

describe("the library", function()
	it("reads no global when it is at work", function()
		local output = child.run(WATCHED .. PROGRAM .. [=[
			require("mqtt.ngxsocket")
			use(nil, in_loop, mqtt.v50)
			use(nil, in_loop, mqtt.v311)
			use(require("mqtt.connector.luasocket"), in_loop, mqtt.v50)
			use(require("mqtt.luasocket"), in_loop, mqtt.v311)
			waiting()
			require("mqtt.loop").add(mqtt.client { uri = URI, clean = true, on = { connect = function(_, client)
				client:shutdown()
			end } })
			mqtt.run_ioloop()
			tell()
		]=], broker.uri)
		assert.equal("end\n", without_log(output))
	end)

	for _, version in ipairs({ 1, 4 }) do
		it("reads no global when it is at work under Copas " .. version, function()
			local output = child.run(WATCHED .. [=[
				local support = dofile("spec/support/copas.lua")
				local copas = support.load(%d)
				if not copas then
					print("none")
					os.exit(0)
				end
			]=] .. PROGRAM .. [=[
				local function under_copas(client)
					local ended
					assert(require("mqtt.loop").add(client))
					client:on("shutdown", function()
						ended = true
					end)
					local deadline = core.now() + 30
					while not ended and core.now() < deadline do
						copas.step(0.02)
					end
				end
				use(nil, under_copas, mqtt.v50)
				use(require("mqtt.connector.copas"), under_copas, mqtt.v311)
				tell()
			]=], broker.uri, version)
			if output == "none\n" then
				pending("no Copas " .. version .. " for this Lua")
			else
				assert.equal("end\n", without_log(output))
			end
		end)
	end

	it("works where nothing global is left", function()
		local output, status = child.run("local URI = %q\n" .. PROGRAM .. [=[
			local _G, next, error, setmetatable, write = _G, next, error, setmetatable, io.stdout
			local names = {}
			for name in next, _G do
				names[name] = true
			end
			for name in next, names do
				_G[name] = nil
			end
			local mt = { __index = function(_, name)
				error("global used at run time: " .. name, 2)
			end }
			setmetatable(_G, mt)
			use(nil, in_loop, 5)
			waiting()
			write:write("end\n")
		]=], broker.uri)
		-- The last lines print only if all went well.
		assert.equal("end\n", without_log(output))
		assert.equal(0, status)
	end)

	it("can be loaded whatever the program calls its variables", function()
		local output = child.run([=[
			debug, socket, ssl, log, copas, ngx, mqtt, core, host = function() end, 1, "ssl", {}, true, { timer = {} }, 5, 6, 7
			local URI = %q
		]=] .. PROGRAM .. [=[
			use(nil, in_loop, 4)
			waiting()
			ngx = function() end
			use(nil, in_loop, 5)
			ngx = "words"
			waiting()
			print("end")
		]=], broker.uri)
		assert.equal("end\n", without_log(output))
	end)
end)

it("the files that are loaded late take nothing of the program's globals", function()
	local output = child.run([[
		local mqtt, write = require("mqtt"), io.write
		for _, name in ipairs({
			"assert", "error", "ipairs", "next", "pairs", "setmetatable", "tostring", "type", "math", "string", "table",
		}) do
			_G[name] = "mine"
		end
		local client = mqtt.client({ uri = %q, clean = true })
		client:on("connect", function()
			mqtt.get_ioloop():after(0, function()
				client:disconnect()
			end)
		end)
		mqtt.run_ioloop(client)
		write(select(2, pcall(client.publish, client, { topic = "t", paylod = "22" })))
	]], broker.uri)
	assert.matches("did you mean payload?", output, 1, true)
end)

it("the files that are loaded late are found although the program has changed its search path or directory", function()
	local output = child.run([[
		local mqtt, write = require("mqtt"), io.write
		package.path, package.cpath = "", ""
		local client = mqtt.client({ uri = %q, clean = true })
		client:on("connect", function()
			mqtt.get_ioloop():after(0, function()
				assert(client:publish({ topic = "t", xyz = "own" }))
				client:disconnect()
			end)
		end)
		mqtt.log.set(false)
		mqtt.run_ioloop(client)
		write(select(2, pcall(client.publish, client, { topic = "t", paylod = "22" })))
	]], broker.uri)
	assert.matches("did you mean payload?", output, 1, true)
end)

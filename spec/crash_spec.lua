-- Whatever Lua code gets hold of, called with anything and in any order, raises or returns; it never ends the process.
-- All of that happens in processes of their own, whose exit status tells.

local broker = require("spec.support.broker")
local child = require("spec.support.child")
local lfs = require("lfs")

-- What every child begins with.
local PRELUDE = [==[
local core = require("mqtt.core")
local unpack = table.unpack or unpack
local has_ffi, ffi = pcall(require, "ffi")

-- The same numbers in every run.
local seed = 1
local function random(n)
	seed = (seed * 16807) % 2147483647
	return seed % n + 1
end

local handlers = {
	throws = function()
		error("thrown")
	end,
	yields = function()
		return coroutine.running() and coroutine.yield() or nil
	end,
	recurses = function(t, k)
		return t[k]
	end,
}

-- Tables whose metamethods do what they should not.
local function strange_tables()
	local tables = {}
	for _, handler in pairs(handlers) do
		local mt = {}
		for _, event in ipairs({ "__index", "__newindex", "__len", "__pairs", "__ipairs", "__call", "__tostring", "__eq" }) do
			mt[event] = handler
		end
		tables[#tables + 1] = setmetatable({ "a", topic = "t" }, mt)
	end
	local cycle = { topic = "t", qos = 1 }
	cycle[1], cycle.will, cycle.subscriptions = cycle, cycle, { cycle }
	cycle.properties, cycle.user_properties = cycle, cycle
	tables[#tables + 1] = cycle
	local wide = {}
	for i = 1, 100 do
		wide[i] = wide
	end
	tables[#tables + 1] = wide
	tables[#tables + 1] = { [1] = 1, [2] = 2, [1e300] = 3, [-1] = 4, [0.5] = 5, [true] = 6, [print] = 7, ["\0"] = 8 }
	tables[#tables + 1] = { type = 3, topic = "t", qos = 1, packet_id = 1, payload = 1, properties = { topic_alias = -1 } }
	tables[#tables + 1] = { type = 8, packet_id = 1, subscriptions = { { topic = "t" } },
		properties = { subscription_identifiers = { {} } } }
	tables[#tables + 1] = { type = 1, id = "", clean = true, keep_alive = 1e9, will = { topic = "", payload = "" } }
	return tables
end

-- Objects of ours, new ones.
local function objects()
	local made = {}
	local ok, link, handle = pcall(core.link, 5)
	if ok then
		made = { link, handle }
	end
	local tls
	ok, tls = pcall(core.tls or error, { verify = "none" })
	if ok then
		made[#made + 1] = tls
	end
	return made
end

-- Values of every kind.
local function values()
	local list = {
		true, false, 0, 1, 2, 4, 5, 15, 255, 65535, 65536, -1, 0.5, 2^31, 2^32, 2^53, -2^63, 2^63, 1e308, 1/0, -1/0, 0/0,
		"", "a", "t/+/#", "\0", "\255", ("x"):rep(65536), ("/"):rep(65535), "mqtt", "wss", "127.0.0.1", "1", "0x10",
		print, io.write, coroutine.create(function() end), io.stdout, io.stderr, _G, core,
	}
	if has_ffi then
		list[#list + 1] = ffi.new("char[64]")
		list[#list + 1] = ffi.cast("void *", 1)
		list[#list + 1] = ffi.new("uint64_t", -1)
	elseif newproxy then
		list[#list + 1] = newproxy()
	end
	for _, value in ipairs(strange_tables()) do
		list[#list + 1] = value
	end
	for _, object in ipairs(objects()) do
		list[#list + 1] = object
	end
	return list
end

-- All functions that can be got at from a value, and the objects that were met on the way.
local function reachable(...)
	local functions, seen, met = {}, {}, {}
	local function visit(value)
		local kind = type(value)
		if value == nil or kind ~= "table" and kind ~= "function" and kind ~= "userdata" or seen[value] then
			return
		end
		seen[value] = true
		if kind == "table" then
			for k, v in next, value do
				visit(k)
				visit(v)
			end
		elseif kind == "function" then
			functions[#functions + 1] = value
			for i = 1, 255 do
				local name, upvalue = debug.getupvalue(value, i)
				if not name then
					break
				end
				visit(upvalue)
			end
		else
			met[#met + 1] = value
			visit((debug.getuservalue or debug.getfenv)(value))
		end
		visit(debug.getmetatable(value))
	end
	-- What belongs to Lua is not what this is about.
	for _, known in ipairs({ _G, string, debug.getregistry(), debug.getmetatable(io.stdout), debug.getmetatable("") }) do
		seen[known] = true
	end
	for _, value in pairs(_G) do
		seen[value] = true
	end
	for _, root in ipairs({ ... }) do
		visit(root)
	end
	return functions, met
end

-- Keeps a wait from being long: there is always something, for any link and for the one that is waited for.
local bell, pop = core.link(4), core.pop
local wake = bell.wake

local function try(func, ...)
	pcall(pop, bell)
	pcall(pop, bell)
	pcall(wake, bell)
	pcall(wake, (...))
	return pcall(func, ...)
end

-- A list of so many values, each of which may be nil.
local function pick(from, count)
	local picked = {}
	for i = 1, count do
		picked[i] = from[random(#from + 5)]
	end
	return picked
end

-- Calls each function with values of every kind: with none, each alone, each after an object, and some at random.
local function bombard(functions, met, rounds)
	for _, func in ipairs(functions) do
		local all, own = values(), objects()
		try(func)
		for _, value in ipairs(all) do
			try(func, value)
			for _, object in ipairs(own) do
				try(func, object, value)
			end
		end
		for _, object in ipairs(met) do
			try(func, object)
			try(func, object, object)
		end
		for round = 1, rounds do
			if round % 20 == 0 then
				own = objects()
			end
			local count = random(10)
			local arguments = pick(all, count)
			if random(3) > 1 and own[1] then
				arguments[1] = own[random(#own)]
			end
			if random(10) == 1 then
				local thread = coroutine.create(function(...)
					return func(...)
				end)
				coroutine.resume(thread, unpack(arguments, 1, count))
				coroutine.resume(thread)
			else
				try(func, unpack(arguments, 1, count))
			end
		end
	end
end

local function is_finalizer(func, met)
	for _, object in ipairs(met) do
		if (debug.getmetatable(object) or {}).__gc == func then
			return true
		end
	end
end

local functions, met = reachable(core, require("mqtt.calls"), { core.filters() }, core.link(5), core.tls({}))
]==]

-- Runs a script, which may end as it likes, but not by a signal, nor late.
local function survives(script)
	-- Any string may become a directory, of a store.
	local directory = os.tmpname()
	os.remove(directory)
	assert(lfs.mkdir(directory))
	local enter = ("require('lfs').chdir(%q)\n"):format(directory)
	local output, status = child.run("%s", PRELUDE .. enter .. script .. "\nprint('survived')")
	os.execute("rm -rf '" .. directory .. "'")
	assert.matches("survived\n", output)
	assert.equal(0, status)
end

describe("mqtt.core survives", function()
	it("every function called with anything", function()
		survives([[
			local safe = {}
			for _, func in ipairs(functions) do
				if not is_finalizer(func, met) then
					safe[#safe + 1] = func
				end
			end
			assert(#safe > 50, "few functions were found: " .. #safe)
			bombard(safe, {}, 200)
		]])
	end)

	it("finalizers called with anything, and everything after that", function()
		survives([[
			local finalizers = {}
			for _, func in ipairs(functions) do
				if is_finalizer(func, met) then
					finalizers[#finalizers + 1] = func
				end
			end
			assert(#finalizers >= 2)
			bombard(finalizers, met, 100)
			for _, finalizer in ipairs(finalizers) do
				for _, object in ipairs(met) do
					try(finalizer, object)
					try(finalizer, object)
				end
			end
			collectgarbage()
			bombard(functions, met, 50)
		]])
	end)

	it("the call that the first reader tried", function()
		survives([[
			local link, handle = core.link(4)
			assert(getmetatable(handle) == false and getmetatable(link) == false)
			local finalize = debug.getmetatable(handle).__gc
			assert(pcall(finalize, 42))
			assert(pcall(finalize, handle))
			assert(pcall(finalize, handle))
			assert(select(2, link:token()):find("it has been collected", 1, true))
			assert(not pcall(debug.getmetatable(link).__index.token, io.stdout))
		]])
	end)

	it("upvalues that were replaced", function()
		survives([[
			for _, func in ipairs(functions) do
				for i = 1, 20 do
					local name, before = debug.getupvalue(func, i)
					if not name then
						break
					end
					for _, value in ipairs(values()) do
						debug.setupvalue(func, i, value)
						try(func)
						for _, object in ipairs(objects()) do
							try(func, object, { topic = "t", payload = "p" }, "p", 1, 1, 1)
						end
					end
					debug.setupvalue(func, i, nil)
					try(func)
					debug.setupvalue(func, i, before)
				end
			end
		]])
	end)

	it("metatables and user values that were replaced", function()
		survives([[
			local setuservalue = debug.setuservalue or debug.setfenv
			local metatables = { {}, debug.getmetatable(io.stdout), { __gc = function(object) pcall(core.pop, object) end } }
			for _, object in ipairs(met) do
				metatables[#metatables + 1] = debug.getmetatable(object)
			end
			for _ = 1, 20 do
				for _, mt in ipairs(metatables) do
					for _, object in ipairs(objects()) do
						pcall(setuservalue, object, { object })
						-- The library of Lua itself trusts its own.
						if mt ~= debug.getmetatable(io.stdout) then
							debug.setmetatable(object, mt)
						end
						pcall(function()
							object:token()
						end)
					end
					local file = io.tmpfile()
					if mt ~= metatables[3] then
						debug.setmetatable(file, mt)
					end
					for _, func in ipairs(functions) do
						try(func, file)
					end
				end
				collectgarbage()
			end
			for _, object in ipairs(met) do
				debug.setmetatable(object, nil)
			end
			collectgarbage()
		]])
	end)

	it("many arguments, and a full stack", function()
		survives([[
			local many = {}
			for i = 1, 7000 do
				many[i] = i
			end
			local object = core.link(5)
			local opts = { topic = "t", payload = "p", qos = 1, id = "i", clean = true, type = 8, packet_id = 1,
				subscriptions = { { topic = "t" } }, user_properties = { { "a", "b" }, { "a", "c" } } }
			local function try_all()
				for _, func in ipairs(functions) do
					try(func, object, opts)
					try(func, opts)
				end
			end
			for _, func in ipairs(functions) do
				try(func, unpack(many))
				try(func, object, unpack(many))
			end
			local function endless()
				return 1 + endless()
			end
			xpcall(endless, try_all)
			-- As deep as functions of C may call each other: there, and a little above.
			local left = 5
			local function deep()
				if not pcall(deep) and left > 0 then
					left = left - 1
					try_all()
				end
				error("up")
			end
			pcall(deep)
			assert(left == 0)
		]])
	end)

	it("calls from finalizers, also when the state closes", function()
		survives([[
			local function finalizer(func)
				local function finalize()
					for _, value in ipairs({ 1, "a", {}, bell }) do
						try(func, value, value)
						try(func, bell, { topic = "t" })
					end
				end
				if newproxy then
					local proxy = newproxy(true)
					getmetatable(proxy).__gc = finalize
					return proxy
				end
				return setmetatable({}, { __gc = finalize })
			end
			guards = {}
			for round = 1, 3 do
				for i, func in ipairs(functions) do
					guards[i] = finalizer(func)
				end
				guards = round < 3 and {} or guards
				collectgarbage()
			end
		]])
	end)

	it("calls of a client's own objects while it is connected", function()
		survives(([[
			local mqtt = require("mqtt")
			local client = mqtt.client({ uri = %q, clean = true, version = mqtt.v50 })
			assert(client:start_connecting())
			while not client.connection.connack do
				assert(client:_sync_iteration())
			end
			local link = client._link
			objects = function()
				return { link }
			end
			local safe = {}
			for _, func in ipairs(functions) do
				if not is_finalizer(func, met) then
					safe[#safe + 1] = func
				end
			end
			bombard(safe, {}, 100)
			debug.getmetatable(link).__gc(link)
			pcall(client.publish, client, { topic = "t", payload = "p" })
			pcall(client.step, client)
			pcall(client.disconnect, client)
		]]):format(broker.uri))
	end)
end)

describe("mqtt.calls", function()
	it("takes nothing for a link that is not one", function()
		survives([[
			local publish = require("mqtt.calls").publish
			for _, value in ipairs(values()) do
				try(publish, value, { topic = "t", payload = "p" })
				try(publish, value, { topic = "t", payload = "p", qos = 1 })
			end
			local acknowledge, mt = require("mqtt.calls").acknowledge, {}
			local link, handle = core.link(4)
			for _, value in ipairs(values()) do
				try(acknowledge, value, setmetatable({ packet_id = 1, qos = 1 }, mt), mt)
				try(acknowledge, handle, value, mt)
				try(acknowledge, handle, setmetatable({ packet_id = value, qos = 1 }, mt), mt)
				try(acknowledge, handle, setmetatable({ packet_id = 1, qos = value }, mt), mt)
			end
			assert(link and core.publish_address == nil and core.acknowledge_address == nil)
			if has_ffi then
				-- Loaded again, it publishes another way.
				package.loaded["mqtt.calls"] = nil
				assert(not require("mqtt.calls").publish)
			end
		]])
	end)
end)

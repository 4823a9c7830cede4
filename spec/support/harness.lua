--- What the specs of the client share: clients that end with their test, and waiting, with a deadline, for what must
-- happen.
local lfs = require("lfs")

local broker = require("spec.support.broker")
local core = require("mqtt.core")
local ioloop = require("mqtt.ioloop")
local mqtt = require("mqtt")

local unpack = table.unpack or unpack -- luacheck: ignore 143

-- How long anything that must happen may take, in seconds: far longer than it does.
local PATIENCE = 30

-- How long one wait for the network may take until what is waited for is looked at again, in seconds.
local PAUSE = 0.002

local M = {}

-- The clients made since the last `cleanup`.
local made = {}

--- Makes a client of the plain listener, unless told otherwise, that `cleanup` will end.
-- @tparam ?table opts options of `mqtt.client`
-- @return the client
function M.client(opts)
	local own = { uri = broker.uri, clean = true }
	for key, value in pairs(opts or {}) do
		own[key] = value
	end
	local client = mqtt.client(own)
	made[#made + 1] = client
	return client
end

--- Makes a client of the TLS listener, see `client`.
-- @tparam ?table opts options of `mqtt.client`
-- @return the client
function M.tls_client(opts)
	local own = { uri = broker.tls_uri, secure = { cafile = broker.cafile } }
	for key, value in pairs(opts or {}) do
		own[key] = value
	end
	return M.client(own)
end

--- Ends every client made since this was called last; to be called after each test.
function M.cleanup()
	for _, client in ipairs(made) do
		client.handlers.close, client.handlers.error = {}, {}
		client.opts.reconnect = false
		client:close_connection()
	end
	made = {}
end

local topics = 0

--- Makes a topic that no other test uses.
-- @treturn string the topic
function M.topic()
	topics = topics + 1
	return "spec/" .. core.random_hex(12) .. "/" .. topics
end

--- Serves clients in an ioloop until something has happened.
-- @tparam table items clients and functions
-- @tparam function done says whether it has happened
-- @tparam ?number patience seconds to wait for it at most
function M.serve(items, done, patience)
	local loop = ioloop.create({ sleep_max = PAUSE })
	local deadline = core.now() + (patience or PATIENCE)
	for _, item in ipairs(items) do
		loop:add(item)
	end
	while not done() do
		if core.now() > deadline then
			error("nothing came of it in time", 2)
		elseif not next(loop.clients) then
			error("all clients have ended", 2)
		end
		loop:iteration()
	end
	for _, item in ipairs(items) do
		if loop.clients[item] then
			loop:remove(item)
		end
	end
end

--- Serves clients until they have ended.
-- @param ... the clients
function M.serve_to_end(...)
	local clients = { ... }
	local loop = ioloop.create({ sleep_max = PAUSE })
	local deadline = core.now() + PATIENCE
	for _, client in ipairs(clients) do
		loop:add(client)
	end
	while next(loop.clients) do
		if core.now() > deadline then
			error("the clients do not end", 2)
		end
		loop:iteration()
	end
end

--- Serves clients until the broker has accepted all of them.
-- @param ... the clients
-- @return the clients
function M.connect(...)
	local clients = { ... }
	M.serve(clients, function()
		for _, client in ipairs(clients) do
			if not (client.connection and client.connection.connack) then
				return false
			end
		end
		return true
	end)
	return ...
end

--- Has a client subscribe, and serves it until the broker has said so.
-- @param client the client, connected
-- @param subscription topic filter, or options of `Client:subscribe`
-- @return the SUBACK
function M.subscribe(client, subscription)
	local suback
	local opts = type(subscription) == "string" and { topic = subscription, qos = 2 } or subscription
	opts.callback = function(packet)
		suback = packet
	end
	assert(client:subscribe(opts))
	M.serve({ client }, function()
		return suback
	end)
	return suback
end

--- Has a client publish a QoS 1 message, and serves it until the broker has acknowledged it; so everything that it sent
-- before has arrived.
-- @param client the client, connected
-- @tparam ?string topic a topic that somebody may wait for
function M.flush(client, topic)
	local acknowledged
	assert(client:publish({ topic = topic or M.topic(), qos = 1, callback = function()
		acknowledged = true
	end }))
	M.serve({ client }, function()
		return acknowledged
	end)
end

--- Records the events of a client.
-- @param client the client
-- @tparam ?table names names of events, all of them by default
-- @treturn table a list of `{ name, arguments of the handler... }`
function M.record(client, names)
	local events = {}
	names = names
		or { "connect", "subscribe", "unsubscribe", "message", "acknowledge", "error", "close", "auth", "shutdown" }
	for _, name in ipairs(names) do
		client:on(name, function(...)
			events[#events + 1] = { name, ... }
		end)
	end
	return events
end

--- Returns the names of recorded events.
-- @tparam table events from `record`
-- @treturn table a list of names
function M.names(events)
	local names = {}
	for i, event in ipairs(events) do
		names[i] = event[1]
	end
	return names
end

--- Calls a function that must raise an error.
-- @tparam function func the function
-- @param ... its arguments
-- @return the error
function M.failure(func, ...)
	local arguments, count = { ... }, select("#", ...)
	local ok, err = pcall(function()
		-- Not a tail call: that would cost the error its position.
		local result = func(unpack(arguments, 1, count))
		return result
	end)
	if ok then
		error("no error was raised", 2)
	end
	return err
end

--- Checks that an error is raised in the name of the caller: a string with a position in a spec.
-- @tparam string text the error without its position
-- @tparam function func what raises it
-- @param ... its arguments
function M.blames_caller(text, func, ...)
	local err = M.failure(func, ...)
	if type(err) ~= "string" then
		error("expected a string, got a " .. type(err), 2)
	end
	local position, message = err:match("^(.-:%d+): (.*)$")
	if message ~= text or not position:find("spec[/\\]") then
		error(("expected '%s' with a position in a spec, got '%s'"):format(text, err), 2)
	end
end

M.now = core.now

--- Returns the time when waiting for something that must happen is given up.
-- @treturn number seconds, of the clock of `now`
function M.deadline()
	return core.now() + PATIENCE
end

-- How long each thread of this process has been ready to run while others had the processor, in nanoseconds.
local waited = {}

--- Returns the time that counts: not that in which threads of this process, the library's too, were ready to run and
-- others had the processor.
-- @treturn number seconds since some moment
function M.own_time()
	local sum = 0
	for thread in lfs.dir("/proc/self/task") do
		local file = thread:find("^%d") and io.open("/proc/self/task/" .. thread .. "/schedstat")
		if file then
			local text = file:read("*a")
			file:close()
			-- A thread that ends meanwhile has an empty file.
			waited[thread] = text and tonumber(text:match("^%d+ (%d+)")) or waited[thread]
		end
	end
	for _, nanoseconds in pairs(waited) do
		sum = sum + nanoseconds
	end
	return core.now() - sum * 1e-9
end

-- Sets the pause of the garbage collector, and returns the former one.
local function set_pause(pause)
	if _VERSION < "Lua 5.5" then
		return collectgarbage("setpause", pause)
	end
	return collectgarbage("param", "pause", pause)
end

--- Calls a function while hardly any garbage is collected: how long that holds up a program depends on what all the
-- other specs have left.
-- @tparam function func the function
-- @return what it returns first
function M.without_collecting(func)
	collectgarbage()
	local pause = set_pause(1000)
	local ok, result = pcall(func)
	set_pause(pause)
	if not ok then
		error(result, 0)
	end
	return result
end

return M

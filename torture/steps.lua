--- The steps of the programs of the torture: a function for each. It takes the running program (see
-- `torture.interpreter`), the step, and the place of the step.

local core = require("mqtt.core")
local mqtt = require("mqtt")
local socket = require("socket")

local data = require("torture.data")
local model = require("torture.model")

local unpack = table.unpack or unpack -- luacheck: globals unpack

-- How many times a function of the program does anything.
local TIMES = 3
-- How long a nap takes at most, in seconds.
local NAP = 0.05
-- How long after the connect event a wait for the event may end, in seconds.
local LATE = 0.25
-- How many events there are.
local EVENTS = 9

local function nothing() end

-- The connector of a client. A connector in Lua raises an error at one call of one of its methods, if `raises` says so.
local function connector_of(name, raises)
	local connector = require(name)
	if not raises or name == "mqtt.connector.native" then
		return connector
	end
	local class, count = setmetatable({ super = connector }, connector), 0
	class.__index = class
	class[raises.method] = function(...)
		count = count + 1
		if count == raises.call then
			error("raised by the connector", 0)
		end
		return connector[raises.method](...)
	end
	return class
end

local STEPS = {}

function STEPS:create(step, ctx)
	local spec = self.program.clients[step.client]
	local rec = {
		spec = spec,
		handlers = {},
		record = model.record(function(kind, text)
			self:violation(kind, text)
		end, self.host.is_ordered),
	}
	rec.record.now, rec.record.unseen = core.now, spec.unseen or {}
	rec.record.created_at = core.now()
	rec.record.is_finalizing = function()
		return self.finalizing > 0
	end
	rec.record.is_first_clean = spec.opts.clean == "first"
	local opts = data.copy(spec.opts)
	opts.id = self:id_of(step.client)
	opts.uri = "mqtt://127.0.0.1:" .. self.ports[step.client]
	opts.connector = connector_of(self.host.connector, spec.raises)
	opts.on = self:observers(rec)
	local ok, client = self:guarded(ctx, mqtt.client, opts)
	if not ok then
		return self:violation("mqtt.client raises: " .. model.generalize(client), tostring(client))
	end
	rec.client = client
	rec.record.has_reconnected = opts.reconnect and true or false
	self.sample = client
	self.alive[client] = step.client
	self.records[step.client] = rec
end

function STEPS:create_badly(step) -- luacheck: ignore 212
	local ok, err = pcall(mqtt.client, step.opts)
	if not ok and model.is_internal(err) then
		self:violation("mqtt.client raises from inside: " .. model.generalize(err), tostring(err))
	end
end

function STEPS:on(step, ctx)
	local client, rec = self:who(step, ctx)
	if client then
		local handler, note = self:handler(rec, step.event, step.body)
		self:call(step, ctx, "on", nil, function()
			-- Both at once: the step's call may run in a thread of its own.
			client:on(step.event, handler)
			note()
		end)
	end
end

function STEPS:off(step, ctx)
	local client, rec = self:who(step, ctx)
	local handlers = rec and rec.handlers[step.event]
	if client and handlers and handlers[1] then
		self:call(step, ctx, "off", nil, client.off, client, step.event, table.remove(handlers, 1).func)
	end
end

-- Programs walk and change the lists of handlers.
function STEPS:insert_handler(step, ctx)
	local client, rec = self:who(step, ctx)
	if not client then
		return
	end
	local count = 0
	for event, list in pairs(client.handlers) do
		count = count + (type(event) == "string" and type(list) == "table" and 1 or 0)
	end
	if count ~= EVENTS then
		self:violation("client.handlers has not all nine events")
	end
	local handler, note = self:handler(rec, step.event, step.body)
	table.insert(client.handlers[step.event], handler)
	note()
end

function STEPS:on_topic(step, ctx)
	local client, rec = self:who(step, ctx)
	if not client then
		return
	end
	local count = 0
	local function handler(message)
		local dispatch, is_out = rec.record:entered_topic(message), false
		local place = {
			where = "handler",
			rec = rec,
			event = "message",
			no_wait = self.finalizing > 0,
			message = message,
			packet = message,
			leave = function()
				if not is_out then
					is_out = true
					rec.record:left(dispatch)
				end
			end,
		}
		count = count + 1
		if count <= TIMES then
			self:exec(step.body, place)
		end
		place.leave()
	end
	self:call(step, ctx, "on_topic", nil, client.on_topic, client, step.filter, handler, step.opts)
end

function STEPS:off_topic(step, ctx)
	local client = self:who(step, ctx)
	if client then
		self:call(step, ctx, "off_topic", nil, client.off_topic, client, step.filter)
	end
end

function STEPS:publish(step, ctx)
	local client, rec = self:who(step, ctx)
	if client then
		self:request(step, ctx, client, rec, "publish", "publish" .. step.qos,
			{ topic = "p/1", qos = step.qos, retain = step.retain })
	end
end

function STEPS:subscribe(step, ctx)
	local client, rec = self:who(step, ctx)
	if client then
		self:request(step, ctx, client, rec, "subscribe", "subscribe", { qos = step.qos })
	end
end

function STEPS:unsubscribe(step, ctx)
	local client, rec = self:who(step, ctx)
	if client then
		self:request(step, ctx, client, rec, "unsubscribe", "unsubscribe", {})
	end
end

function STEPS:request(step, ctx)
	local client, rec = self:who(step, ctx)
	if client and client.opts.version == mqtt.v50 and (step.callback or not ctx.no_wait) then
		self:request(step, ctx, client, rec, "request", "request",
			{ topic = "p/1", qos = step.qos, timeout = step.timeout })
	end
end

function STEPS:await(step, ctx)
	local client, rec = self:who(step, ctx)
	if not client or ctx.no_wait then
		return
	end
	self.last_tag = self.last_tag + 1
	local opts = { timeout = step.timeout, qos = step.qos }
	if step.what == "connect" then
		opts.qos = nil
		rec.record.may_connect = rec.record.may_connect + 1
	else
		opts.topic = "s/t" .. self.last_tag
	end
	local since = core.now()
	local thread = coroutine.running() or "main"
	local is_nested = self.waiting[thread]
	self.waiting[thread] = true
	local answer, err = self:call(step, ctx, "await", nil, client.await, client, step.what, opts)
	self.waiting[thread] = is_nested
	-- Handlers of the connect event come first, and may take their time.
	if step.what == "connect" and answer == nil and err == "timeout" and model.is_connected(client)
		and (rec.record.connected_at or 0) > since and core.now() > rec.record.connected_at + LATE then
		self:violation("await of connect does not end with the connect event")
	end
end

function STEPS:acknowledge(step, ctx)
	local client, rec = self:who(step, ctx)
	local message = ctx.rec == rec and ctx.message or rec and rec.message
	if client and message then
		local acknowledged, number = rec.record.acknowledged, message.topic:find("^m/") and tonumber(message.payload)
		local before = number and acknowledged[number]
		if number then
			-- The thread may be ended while it sends.
			acknowledged[number] = before or "perhaps"
		end
		local ok, err = self:call(step, ctx, "acknowledge", nil, client.acknowledge, client, message)
		-- For QoS 2, an acknowledgement counts between two connections, too: when there is no connection, when the session
		-- has given up a connection whose close event has yet to come, and when the connector cannot send it any more.
		local counts = ok or message.qos == 2 and err and (err:find("network connection is not opened", 1, true)
			or err:find("connector.send failed", 1, true))
		if number and not self.has_thrown then
			acknowledged[number] = counts and true or before
		end
	end
end

function STEPS:respond(step, ctx)
	local client, rec = self:who(step, ctx)
	local message = ctx.rec == rec and ctx.message or rec and rec.message
	if client and message and client.opts.version == mqtt.v50 then
		self:call(step, ctx, "respond", nil, client.respond, client, message, { payload = "r:" })
	end
end

-- The methods that are called without further work.
for _, name in ipairs({
	"auth", "disconnect", "close_connection", "shutdown", "send_pingreq", "check_keep_alive", "getfd", "stats",
	"start_connecting",
}) do
	STEPS[name] = function(self, step, ctx)
		local client, rec = self:who(step, ctx)
		if not client or name == "auth" and client.opts.version ~= mqtt.v50 then
			return
		end
		if name == "start_connecting" then
			if ctx.no_wait then
				return
			end
			rec.record.may_connect = rec.record.may_connect + 1
		end
		self:call(step, ctx, name, nil, client[name], client,
			unpack(step.args or {}))
	end
end

-- Does the work of start_connecting in two steps.
function STEPS:open_connection(step, ctx)
	local client, rec = self:who(step, ctx)
	if client and not ctx.no_wait then
		rec.record.may_connect = rec.record.may_connect + 1
		self:call(step, ctx, "open_connection", nil, client.open_connection, client)
		if client.connection and not client.connection.connect_sent then
			self:call(step, ctx, "send_connect", nil, client.send_connect, client)
		end
	end
end

-- Calls a method with bad arguments.
function STEPS:misuse(step, ctx)
	local client, rec = self:who(step, ctx)
	if client then
		if step.method == "await" and step.args[1] == "connect" then
			-- These arguments are good: the call connects.
			rec.record.may_connect = rec.record.may_connect + 1
		end
		self:call(step, ctx, step.method, nil, client[step.method], client, unpack(step.args, 1, step.count))
	end
end

function STEPS:step(step, ctx)
	local client = self:who(step, ctx)
	if not client or not self.host.is_ordered then
		return
	end
	for _ = 1, step.count or 1 do
		self:call(step, ctx, "step", nil, client.step, client)
	end
end

-- Loops.

function STEPS:add(step, ctx)
	local client = self:who(step, ctx)
	if client then
		self.host.add(self, step, ctx, client)
	end
end

function STEPS:remove(step, ctx)
	local client = self:who(step, ctx)
	if client then
		self.host.remove(self, step, ctx, client)
	end
end

function STEPS:serve(step, ctx)
	for _ = 1, step.count or 1 do
		if not ctx.no_wait then
			self.host.serve(self, ctx)
		end
	end
end

function STEPS:add_function(step)
	local loop = mqtt.get_ioloop()
	local count = 0
	if self.host.is_ordered then
		local function func()
			count = count + 1
			if count > TIMES then
				loop:remove(func)
				return
			end
			self:exec(step.body, { where = "function", leave = nothing })
			return step.delay
		end
		loop:add(func)
	end
end

-- Adds something that is neither a client nor a function.
function STEPS:add_badly(step, ctx)
	local loop = mqtt.get_ioloop()
	local before = #loop.clients
	if not self.host.is_ordered then
		return
	elseif step.how == "run_ioloop" then
		if before == 0 then
			self:call(step, ctx, "run", nil, mqtt.run_ioloop, step.value)
		end
	else
		self:call(step, ctx, step.how, nil, loop[step.how], loop, step.value)
	end
	local count = 0
	for _ in pairs(loop.clients) do
		count = count + 1
	end
	if step.how ~= "run_ioloop" and (#loop.clients ~= before or count ~= 2 * before) then
		self:violation("a loop has changed after bad arguments of " .. step.how)
	end
	if ctx.where == "main" and loop.running then
		self:violation("running is true after the loop has ended")
	end
end

function STEPS:run(step, ctx)
	local client, rec = self:who(step, ctx)
	if ctx.no_wait or self.is_running then
		return
	end
	if rec and step.how == "run_ioloop" then
		rec.record.may_connect = rec.record.may_connect + 1
	end
	self.is_running = true
	self.host.run(self, step, ctx, client)
	self.is_running = false
end

-- Coroutines.

function STEPS:coroutine(step, ctx)
	local thread
	local function body()
		self:exec(step.body, { where = "coroutine", rec = ctx.rec, leave = nothing })
	end
	if not self.host.is_ordered and (step.is_thread or self.host.connector == "mqtt.connector.copas") then
		-- Sockets of Copas are for threads of Copas only.
		table.insert(self.threads, package.loaded.copas.addthread(body))
		return
	end
	thread = coroutine.create(body)
	self.coroutines[thread] = "runs"
	self:resume(thread)
end

-- Ends the last thread of Copas that the program has begun.
function STEPS:kill()
	local thread
	repeat
		thread = table.remove(self.threads)
	until not thread or coroutine.status(thread) == "suspended"
	if thread then
		self:kill(thread)
	end
end

-- Ends the running thread of Copas.
function STEPS:kill_self(_, ctx)
	if ctx.where ~= "main" and not ctx.no_wait and self:kill(coroutine.running()) and ctx.packet then
		ctx.rec.record:unanswered(ctx.event, not ctx.message and ctx.packet.packet_id or nil)
	end
end

function STEPS:yield(_, ctx)
	if ctx.no_wait then
		return
	elseif self:is_own_coroutine() then
		self:yield()
	elseif not self.host.is_ordered then
		package.loaded.copas.pause(0.001)
	end
end

function STEPS:resume(_, ctx)
	if not ctx.no_wait then
		self:resume_all()
	end
end

function STEPS:throw(step, ctx)
	if ctx.where ~= "main" and ctx.where ~= "finalizer" then
		self:throw(ctx, step.table and self.thrown_table or self.thrown)
	end
end

-- Memory.

function STEPS:collect()
	self:collect()
end

-- An object whose finalizer calls the library.
function STEPS:object(step, ctx)
	local rec = ctx.rec
	if self.host.connector == "mqtt.connector.copas" then
		-- Sockets of Copas yield, which no finalizer can.
		return
	end
	local function finalize()
		self.finalizing, self.finalized = self.finalizing + 1, self.finalized + 1
		local ok, err = pcall(self.exec, self, step.body, { where = "finalizer", rec = rec, no_wait = true, leave = nothing })
		self.finalizing = self.finalizing - 1
		if not ok then
			self:caught(err)
		end
	end
	local proxy = newproxy -- luacheck: globals newproxy
	if proxy then
		getmetatable(proxy(true)).__gc = finalize
	else
		setmetatable({}, { __gc = finalize })
	end
end

-- The program lets go of a client.
function STEPS:drop(step, ctx)
	local _, rec = self:who(step, ctx)
	if rec then
		rec.client, rec.message = nil, nil
	end
end

-- Time.

-- Sleeps until everything that the broker has sent so far has been received. The native connection receives by itself,
-- so its answers are not lost.
function STEPS:nap()
	local deadline = core.now() + NAP
	local log, is_behind
	repeat
		socket.sleep(0.001)
		log, is_behind = self.control:log(), false
		for index, rec in pairs(self.records) do
			local connections = log[index].connections
			local last = connections[#connections]
			rec.has_all = nil
			if last and model.is_connected(rec.client) and self.host.connector == "mqtt.connector.native" then
				local is_here = rec.record.base + last.sent == rec.client:stats().bytes_received
				rec.has_all = is_here and #connections
				is_behind = is_behind or not is_here
			end
		end
	until not is_behind or core.now() > deadline
	for index, rec in pairs(self.records) do
		if rec.has_all then
			rec.record:received(log[index].answered, rec.has_all)
		end
	end
end

function STEPS.sleep(_, step)
	socket.sleep(step.ms / 1000)
end

return STEPS

--- Runs one program of the torture, and checks what is promised meanwhile and at the end.

local core = require("mqtt.core")
local mqtt = require("mqtt")
local socket = require("socket")

local data = require("torture.data")
local hosts = require("torture.hosts")
local model = require("torture.model")

local unpack = table.unpack or unpack -- luacheck: globals unpack
local running = coroutine.running

-- How many steps a program takes at most, and how often a handler does anything.
local BUDGET = 250
local TIMES = 3
-- How long what has to happen may take, in seconds, and how long a nap takes at most.
local PATIENCE = 1.2
local NAP = 0.05
-- The client identifiers' events.
local EVENTS = { "connect", "subscribe", "unsubscribe", "message", "acknowledge", "error", "close", "auth", "shutdown" }
-- What programs throw.
local THROWN = "thrown by the torture"

-- Lua 5.1 cannot yield across a pcall.
local no_yield_across_pcall = _VERSION == "Lua 5.1" and not rawget(_G, "jit")

local function pack(...)
	return { n = select("#", ...), ... }
end

local function in_coroutine()
	local thread, is_main = running()
	return thread and not is_main and thread or nil
end

-- Calls a function in a thread of Copas of its own, whose errors Copas catches. Returns what pcall would.
local function in_thread(f, ...)
	local copas = package.loaded.copas
	local arguments, results = pack(...), nil
	copas.addthread(function()
		copas.seterrorhandler(function(err)
			results = pack(false, err)
		end)
		results = pack(true, f(unpack(arguments, 1, arguments.n)))
	end)
	while not results do
		copas.pause(0.001)
	end
	return unpack(results, 1, results.n)
end

local function is_thrown(err)
	return err == THROWN or type(err) == "table" and err.torture or type(err) == "string" and err:find(THROWN, 1, true)
end

local function is_interrupt(err)
	return type(err) == "string" and err:find("interrupted!", 1, true)
end

local function nothing() end

-- The steps that connect, or have clients served.
local CONNECTS = { start_connecting = true, open_connection = true, await = true, run = true, add = true }

local M = {
	--- The clients of all programs that have not been collected.
	alive = setmetatable({}, { __mode = "k" }),
	--- Names of steps that programs go without, as a set.
	without = {},
}

local Run = {}
Run.__index = Run

function Run:violation(kind, text)
	self.has_failed = true
	if not self.violations[kind] then
		self.violations[kind] = true
		table.insert(self.violations, { kind = kind, text = text or "" })
	end
end

--- An error has come out where nothing else can be done about it.
function Run:caught(err)
	local text = type(err) == "string" and err or ""
	if is_thrown(err) then
		self.pending = nil
	elseif is_interrupt(err) then
		self.is_interrupted = true
		self:violation("it hangs", text)
	else
		-- Where errors cannot be caught at the call, in coroutines of Lua 5.1, the last one may be to blame.
		local last = self.last_call
		if not (no_yield_across_pcall and last and last.bad and not model.is_internal(err)) then
			self:violation("an error: " .. model.generalize(err), text)
		end
	end
end

--- Calls the library, and checks what it returns or raises.
-- @tparam table step the step that wants it: `bad` if its arguments may be to blame
-- @tparam table ctx where the step stands
-- @tparam string name of what is called, for `model.explain_returns`
-- @param detail for that too
-- @tparam function f what is called
-- @param ... its arguments
-- @return what it returns; nothing if it has raised an error
function Run:call(step, ctx, name, detail, f, ...)
	self.last_call = step
	self.has_thrown = false
	local results = pack(self:guarded(ctx, f, ...))
	if results[1] then
		local problem = not step.bad
			and model.explain_returns(name, detail, results.n - 1, results[2], results[3], results[4])
		if problem then
			self:violation("what is returned by " .. name, problem)
		end
		if self.pending and ctx.where == "main" and self.host.is_ordered and not in_coroutine() then
			self:violation("an error that a handler has raised does not come out of " .. name)
			self.pending = nil
		end
		return results[2], results[3]
	end
	local err = results[2]
	if is_interrupt(err) then
		self.is_interrupted = true
		error(err, 0)
	elseif is_thrown(err) then
		self.pending, self.has_thrown = nil, true
		self.waiting[running() or "main"] = nil
		if ctx.where ~= "main" and ctx.where ~= "finalizer" then
			self:throw(ctx, err)
		end
	elseif not step.bad then
		self:violation(("%s raises: %s"):format(name, model.generalize(err)), tostring(err))
	elseif model.is_internal(err) then
		self:violation(("%s raises from inside: %s"):format(name, model.generalize(err)), tostring(err))
	end
end

-- Raises an error of the program.
function Run:throw(ctx, err)
	ctx.leave()
	if (ctx.where == "handler" or ctx.where == "callback" or ctx.where == "function") and self.finalizing == 0
		and self.program.gc ~= "stress" then
		self.pending = true
	end
	error(err, 0)
end

function Run:is_own_coroutine()
	local thread = in_coroutine()
	return thread and self.coroutines[thread] ~= nil
end

-- Yields in a coroutine of the program.
function Run:yield()
	local thread = running()
	self.coroutines[thread] = "yields"
	coroutine.yield()
	self.coroutines[thread] = "runs"
end

-- Resumes a coroutine of the program.
function Run:resume(thread, ...)
	local results = pack(coroutine.resume(thread, ...))
	if not results[1] then
		self:caught(results[2])
	elseif coroutine.status(thread) ~= "dead" and results.n > 1 then
		self:violation("a coroutine yields values of somebody else")
	end
	if coroutine.status(thread) == "dead" then
		self.coroutines[thread] = nil
	end
end

-- Whether a coroutine of the program has not come to its end.
function Run:has_coroutines()
	for thread in pairs(self.coroutines) do
		if coroutine.status(thread) ~= "dead" then
			return true
		end
	end
	return false
end

-- Resumes those that wait for nothing else.
function Run:resume_all()
	local waiting = {}
	for thread, state in pairs(self.coroutines) do
		if state == "yields" and coroutine.status(thread) == "suspended" then
			waiting[#waiting + 1] = thread
		end
	end
	for _, thread in ipairs(waiting) do
		if self.coroutines[thread] == "yields" and coroutine.status(thread) == "suspended" then
			self:resume(thread)
		end
	end
end

function Run:exec(body, ctx)
	for _, step in ipairs(body) do
		self.budget = self.budget - 1
		if self.budget < 0 or self.is_over or self.is_interrupted then
			return
		end
		if not (M.without[step[1]] or self.is_ending and CONNECTS[step[1]]) then
			self.steps[step[1]](self, step, ctx)
		end
	end
end

-- Calls a function that may raise an error, and may yield. Returns what pcall would.
function Run:guarded(ctx, f, ...)
	if not (no_yield_across_pcall and in_coroutine()) or ctx.where == "finalizer" then
		return pcall(f, ...)
	elseif self:is_own_coroutine() or self.host.is_ordered then
		-- Errors end the coroutine.
		return true, f(...)
	end
	return in_thread(f, ...)
end

-- The client that a step is about, and its record.
function Run:who(step, ctx)
	local rec = step.client == 0 and ctx.rec or self.records[step.client]
	return rec and rec.client, rec
end

-- A handler of an event, with the body of a step.
function Run:handler(rec, event, body)
	self.last_id = self.last_id + 1
	local id, count = self.last_id, 0
	local function handler(first, second)
		local record = rec.record
		local dispatch = record:entered(event, id, first, second)
		local is_out = false
		local ctx = {
			where = "handler",
			rec = rec,
			message = event == "message" and first or nil,
			leave = function()
				if not is_out then
					is_out = true
					record:left(dispatch)
				end
			end,
		}
		count = count + 1
		if count <= TIMES then
			self:exec(body, ctx)
		end
		ctx.leave()
	end
	rec.handlers[event] = rec.handlers[event] or {}
	table.insert(rec.handlers[event], { id = id, func = handler })
	return handler
end

-- The first handlers of all events of a client.
function Run:observers(rec)
	local on = {}
	for _, event in ipairs(EVENTS) do
		on[event] = not (rec.spec.unseen and rec.spec.unseen[event]) and function(first, second)
			local client = event == "shutdown" and first or second
			if getmetatable(client) ~= getmetatable(self.sample) then
				self:violation("a handler gets no client: " .. event)
				return
			end
			local expected = {}
			for _, handler in ipairs(rec.handlers[event] or {}) do
				expected[#expected + 1] = handler.id
			end
			if event == "message" then
				rec.message = first
			end
			rec.record:begin(event, client, expected, first)
		end or nil
	end
	return on
end

-- A callback of a request, with the body of a step.
function Run:callback(rec, exchange, body)
	local callback
	callback = function(answer, reason)
		rec.record:answered(exchange, answer, reason)
		self:exec(body, { where = "callback", rec = rec, leave = nothing })
		self.finished[callback] = exchange.kind
	end
	return callback
end

-- Makes a request that the broker knows by a tag.
function Run:request(step, ctx, client, rec, method, kind, opts)
	self.last_tag = self.last_tag + 1
	local tag = "t" .. self.last_tag
	if method == "publish" or method == "request" then
		opts.payload = tag .. ":" .. ("x"):rep(step.size or 0)
	else
		opts.topic = "s/" .. tag
	end
	local exchange = rec.record:ask(tag, kind, step.callback ~= nil)
	if step.callback then
		opts.callback = self:callback(rec, exchange, step.callback)
	end
	local accepted = self:call(step, ctx, method, opts.qos or 0, client[method], client, opts)
	-- After an error of a callback or handler it is not known.
	if not self.has_thrown then
		rec.record:asked(exchange, client, accepted)
	end
end

-- Whether a client is connected, for what the broker sends.
local function is_connected(client)
	local connack = client and client.connection and client.connection.connack
	return connack and connack.rc == 0
end

-- Steps ---------------------------------------------------------------------------------------------------------------

local STEPS = {}
Run.steps = STEPS

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
	local opts = data.copy(spec.opts)
	opts.uri = "mqtt://127.0.0.1:" .. self.ports[step.client]
	opts.connector = require(self.host.connector)
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
		self:call(step, ctx, "on", nil, client.on, client, step.event, self:handler(rec, step.event, step.body))
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
	if count ~= #EVENTS then
		self:violation("client.handlers has not all nine events")
	end
	table.insert(client.handlers[step.event], self:handler(rec, step.event, step.body))
end

function STEPS:on_topic(step, ctx)
	local client, rec = self:who(step, ctx)
	if not client then
		return
	end
	local count = 0
	local function handler(message)
		count = count + 1
		if count <= TIMES then
			self:exec(step.body, { where = "handler", rec = rec, message = message, leave = nothing })
		end
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
	if client and client.opts.version == mqtt.v50 and (step.callback or ctx.where ~= "finalizer") then
		self:request(step, ctx, client, rec, "request", "request",
			{ topic = "p/1", qos = step.qos, timeout = step.timeout })
	end
end

function STEPS:await(step, ctx)
	local client, rec = self:who(step, ctx)
	if not client or ctx.where == "finalizer" then
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
	local thread = running() or "main"
	local is_nested = self.waiting[thread]
	self.waiting[thread] = true
	local answer, err = self:call(step, ctx, "await", nil, client.await, client, step.what, opts)
	self.waiting[thread] = is_nested
	if step.what == "connect" and answer == nil and err == "timeout" and is_connected(client)
		and rec.record.connected_at > since then
		self:violation("await of connect does not end with the connect event")
	end
end

function STEPS:acknowledge(step, ctx)
	local client, rec = self:who(step, ctx)
	local message = ctx.message or rec and rec.message
	if client and message then
		self:call(step, ctx, "acknowledge", nil, client.acknowledge, client, message)
	end
end

function STEPS:respond(step, ctx)
	local client, rec = self:who(step, ctx)
	local message = ctx.message or rec and rec.message
	if client and message and client.opts.version == mqtt.v50 then
		self:call(step, ctx, "respond", nil, client.respond, client, message, { payload = "r:" })
	end
end

-- The methods that are called as they are.
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
			if ctx.where == "finalizer" then
				return
			end
			rec.record.may_connect = rec.record.may_connect + 1
		end
		self:call(step, ctx, name, nil, client[name], client,
			unpack(step.args or {}))
	end
end

-- What start_connecting does, in two steps.
function STEPS:open_connection(step, ctx)
	local client, rec = self:who(step, ctx)
	if client and ctx.where ~= "finalizer" then
		rec.record.may_connect = rec.record.may_connect + 1
		self:call(step, ctx, "open_connection", nil, client.open_connection, client)
		if client.connection and not client.connection.connect_sent then
			self:call(step, ctx, "send_connect", nil, client.send_connect, client)
		end
	end
end

-- A method with arguments of no use.
function STEPS:misuse(step, ctx)
	local client = self:who(step, ctx)
	if client then
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
		if ctx.where ~= "finalizer" then
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

-- What is no client and no function.
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
	if ctx.where == "finalizer" or self.is_running then
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
	if self.host.connector == "mqtt.connector.copas" then
		-- Its sockets are for threads of Copas only.
		package.loaded.copas.addthread(body)
		return
	end
	thread = coroutine.create(body)
	self.coroutines[thread] = "runs"
	self:resume(thread)
end

function STEPS:yield(_, ctx)
	if ctx.where == "finalizer" then
		return
	elseif self:is_own_coroutine() then
		self:yield()
	elseif not self.host.is_ordered and in_coroutine() then
		package.loaded.copas.pause(0.001)
	end
end

function STEPS:resume(_, ctx)
	if ctx.where ~= "finalizer" then
		self:resume_all()
	end
end

function STEPS:throw(step, ctx)
	if ctx.where ~= "main" and ctx.where ~= "finalizer" then
		self:throw(ctx, step.table and { torture = true } or THROWN)
	end
end

-- Memory.

-- Collects all garbage. Errors that come out of it are the library's.
function Run:collect()
	self.finalizing = self.finalizing + 1
	local ok, err = pcall(collectgarbage)
	self.finalizing = self.finalizing - 1
	if not ok and is_interrupt(err) then
		error(err, 0)
	elseif not ok then
		self:violation("an error comes out of the collector: " .. model.generalize(err), tostring(err))
	end
end

function STEPS:collect()
	self:collect()
end

-- An object whose finalizer calls the library.
function STEPS:object(step, ctx)
	local rec = ctx.rec
	if self.host.connector == "mqtt.connector.copas" then
		-- Its sockets yield, which no finalizer can.
		return
	end
	local function finalize()
		self.finalizing = self.finalizing + 1
		local ok, err = pcall(self.exec, self, step.body, { where = "finalizer", rec = rec, leave = nothing })
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

-- Sleeps until what the broker has sent so far has been received, as the native connection does by itself; so its
-- answers are not lost.
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
			if last and is_connected(rec.client) and self.host.connector == "mqtt.connector.native" then
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

-- The end -------------------------------------------------------------------------------------------------------------

local MAIN = { where = "main", leave = nothing }
local NO_STEP = {}
-- Adding a client may be in vain: Copas has it already.
local ADD_AGAIN = { bad = true }

-- Returns what still has to happen, or nil: a kind, and a text.
function Run:missing()
	for index, rec in pairs(self.records) do
		local client = rec.client
		if not client then -- luacheck: ignore 542
			-- nobody holds it
		elseif is_connected(client) then
			local exchange = rec.record:missing(client)
			if rec.record.marked ~= tostring(client.connection) then
				return "no message arrives any more", "client " .. index
			elseif exchange then
				return "a callback is not called: " .. exchange.kind, exchange.tag
			elseif client:stats().in_flight > 0 then
				return "in_flight stays above 0"
			end
		elseif type(client.opts.reconnect) == "number" and client.opts.reconnect < 0.2 and not rec.spec.is_absent
			and (self.host.has(self, client) or client.connection) then
			return "a client does not reconnect", "client " .. index
		end
	end
end

-- Sees to it that all clients with a connection are served, also those that handlers have taken out of their loop.
function Run:serve_all()
	for _, rec in pairs(self.records) do
		if rec.client and rec.client.connection and not self.host.has(self, rec.client) then
			self.host.add(self, ADD_AGAIN, MAIN, rec.client)
		end
	end
end

function Run:settle()
	self.control:settle()
	self.is_settling = true
	local deadline = core.now() + self.patience
	self:resume_all()
	local kind, text = self:missing()
	while kind and core.now() < deadline and not self.is_interrupted do
		self:serve_all()
		self.host.serve(self, MAIN)
		self:resume_all()
		kind, text = self:missing()
	end
	if kind then
		self:violation(kind, text)
	end
	self:check_messages()
end

-- Whether the messages of the last connection have all come.
function Run:check_messages()
	local log = self.control:log()
	for index, rec in pairs(self.records) do
		local client, record = rec.client, rec.record
		if client and is_connected(client) then
			for _, message in ipairs(log[index].messages) do
				if message.connection == record.marker and record.marked == tostring(client.connection)
					and not record.delivered[message.serial] then
					self:violation("a message was not delivered: QoS " .. message.qos)
				end
			end
			if client.first_connect then
				self:violation("first_connect is true after the connect event")
			end
		end
	end
end

-- Whether there is a call of await that has not returned.
function Run:is_waiting()
	for thread in pairs(self.waiting) do
		if type(thread) ~= "thread" or coroutine.status(thread) ~= "dead" then
			return true
		end
	end
	return false
end

-- Whether anything holds on to the callbacks of requests that are over.
function Run:check_garbage()
	local jit = rawget(_G, "jit")
	if jit then
		jit.flush()
	end
	self:collect()
	self:collect()
	local _, kind = next(self.finished)
	if kind and not self:is_waiting() and not self:has_coroutines() then
		self:violation("the callback of a request that is over is kept: " .. kind)
	end
end

function Run:shut_down()
	self.is_ending = true
	local clients = {}
	for client in pairs(self.alive) do
		clients[#clients + 1] = client
	end
	for _, client in ipairs(clients) do
		self:call(NO_STEP, MAIN, "shutdown", nil, client.shutdown, client)
		-- Handlers may have begun again.
		if client.connection or client.opts.reconnect then
			client.handlers.close, client.handlers.shutdown, client.handlers.error = {}, {}, {}
			self:call(NO_STEP, MAIN, "shutdown", nil, client.shutdown, client)
		end
	end
	self.host.finish(self, MAIN)
	local deadline = core.now() + self.patience
	self:resume_all()
	while (self:has_coroutines() or self:is_waiting()) and core.now() < deadline and not self.is_interrupted do
		self.host.serve(self, MAIN)
		self:resume_all()
	end
	if self:has_coroutines() then
		self:violation("a coroutine waits for ever")
	elseif self:is_waiting() then
		self:violation("await does not return after shutdown")
	end
end

-- What must hold when all is over.
function Run:check_end()
	local log = self.control:log()
	for index, rec in pairs(self.records) do
		local record, client, what = rec.record, rec.client, log[index]
		record:check_dispatches()
		if record.opened > record.closed then
			self:violation("a connection without a close event")
		end
		if what.nonsense[1] then
			self:violation("the client sends nonsense: " .. what.nonsense[1])
		end
		self:check_attempts(rec, #what.connections)
		for _, exchange in pairs(record.exchanges) do
			if exchange.kind == "request" and exchange.is_accepted and exchange.has_callback and exchange.called == 0 then
				self:violation("the callback of a request is not called after shutdown")
			end
		end
		if client then
			if client.connection then
				self:violation("there is a connection after shutdown")
			elseif next(client._waits or {}) then
				self:violation("_waits is not empty after shutdown")
			end
			for _, callback in pairs(client._callbacks) do
				if self.finished[callback] then
					self:violation("_callbacks has a callback that was called")
				end
			end
		end
	end
end

-- Whether a client has connected more often than it may.
function Run:check_attempts(rec, count)
	local record, reconnect = rec.record, rec.spec.opts.reconnect
	local may = record.may_connect
	if type(reconnect) == "number" then
		may = may + math.floor((core.now() - record.created_at) / reconnect) + 1
	elseif reconnect then
		return
	end
	if count > may then
		self:violation(reconnect and "a client reconnects too soon" or "a client reconnects without being asked to",
			("%d connections, %d allowed"):format(count, may))
	end
end

--- Runs a program.
-- @tparam table program the program, see `torture.generate`
-- @param control the connection to the broker
-- @tparam number limit seconds until the watchdog ends this process
-- @tparam ?number patience seconds that what has to happen may take
-- @treturn table violations: a list of `{ kind=, text= }`
function M.run(program, control, limit, patience)
	local host = hosts[program.host]
	local run = setmetatable({
		program = program,
		host = host,
		control = control,
		violations = {},
		budget = BUDGET,
		patience = patience or PATIENCE,
		-- Clients, by number.
		records = {},
		alive = M.alive,
		stepped = setmetatable({}, { __mode = "k" }),
		coroutines = {},
		-- Callbacks that have been called, with the kind of their requests.
		finished = setmetatable({}, { __mode = "k" }),
		last_id = 0,
		last_tag = 0,
		-- How many finalizers are running, and the threads in which await has not returned.
		finalizing = 0,
		waiting = {},
		-- Whether an error of a handler still has to come out.
		pending = nil,
		has_thrown = false,
		-- Whether what has begun is brought to its end; programs may not connect any more; they may do nothing any more.
		is_settling = false,
		is_ending = false,
		is_over = false,
	}, Run)
	local plans = {}
	for i, spec in ipairs(program.clients) do
		plans[i] = { unpack(spec.plans) }
		plans[i].version, plans[i].is_absent = spec.opts.version, spec.is_absent
	end
	run.ports = control:begin(plans, limit)
	collectgarbage()
	if program.gc == "stop" then
		collectgarbage("stop")
	elseif program.gc == "stress" then
		collectgarbage("setpause", 10)
		collectgarbage("setstepmul", 400)
	end
	local function main()
		run:exec(program.main, MAIN)
		run.budget = BUDGET
		run:settle()
		run:check_garbage()
		run:shut_down()
	end
	local ok, err = pcall(hosts.start, run, main)
	run.is_over = true
	collectgarbage("restart")
	collectgarbage("setpause", 200)
	collectgarbage("setstepmul", 200)
	if not ok then
		run:caught(err)
	elseif not run.has_failed then
		run:check_end()
	end
	control:stop()
	return run.violations
end

return M

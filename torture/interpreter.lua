--- Runs one program of the torture, and checks the promises of the documentation meanwhile and at the end.

local finish = require("torture.finish")
local generate = require("torture.generate")
local hosts = require("torture.hosts")
local model = require("torture.model")
local steps = require("torture.steps")

local unpack = table.unpack or unpack -- luacheck: globals unpack
local running = coroutine.running

-- How many steps a program takes at most, and how many times a handler does anything.
local BUDGET = 250
local TIMES = 3
local EVENTS = { "connect", "subscribe", "unsubscribe", "message", "acknowledge", "error", "close", "auth", "shutdown" }
-- The errors that programs raise.
local THROWN = "thrown by the torture"

-- Lua 5.1 cannot yield across a pcall.
local no_yield_across_pcall = _VERSION == "Lua 5.1" and not rawget(_G, "jit")

local function pack(...)
	return { n = select("#", ...), ... }
end

-- Whether a coroutine runs. A coroutine in which coxpcall calls a function does not count.
local function in_coroutine()
	local thread, is_main = running()
	thread = thread and not is_main and thread or nil
	local coxpcall = package.loaded.coxpcall
	return thread and coxpcall and coxpcall.running and coxpcall.running(thread) or thread
end

-- Threads that other threads wait for, as a set.
local waited_for = setmetatable({}, { __mode = "k" })

local function is_thrown(err)
	return err == THROWN or type(err) == "table" and err.torture or type(err) == "string" and err:find(THROWN, 1, true)
end

local function is_interrupt(err)
	return type(err) == "string" and err:find("interrupted!", 1, true)
end

local function nothing() end

-- The steps that connect, or have clients served.
local CONNECTS = {
	start_connecting = true, open_connection = true, await = true, run = true, add = true, add_function = true,
}

-- The methods that wait. No finalizer can wait. Odd arguments of these may be good.
local WAITS = { await = true, request = true }

local M = {
	--- The clients of all programs that have not been collected.
	alive = setmetatable({}, { __mode = "k" }),
	--- Names of steps that programs leave out, as a set.
	without = {},
	--- A kind of failure, and the function to call at once when it is seen.
	expected = nil,
	on_expected = nil,
}

-- How many programs this process has run.
local programs = 0

-- A program that is running.
local Run = {
	steps = steps,
	thrown = THROWN,
	thrown_table = { torture = true },
}
Run.__index = Run
for name, method in pairs(finish) do
	Run[name] = method
end

-- Calls a function in its own thread of Copas, which catches its errors. Returns the results that pcall would return.
function Run:in_thread(f, ...)
	local copas, caller = package.loaded.copas, running()
	local arguments, results = pack(...), nil
	local thread = copas.addthread(function()
		copas.seterrorhandler(function(err)
			results, self.has_lost_thread = pack(false, err), true
		end)
		results = pack(true, f(unpack(arguments, 1, arguments.n)))
	end)
	waited_for[thread], self.calling[caller] = true, true
	while not results do
		copas.pause(0.001)
	end
	self.calling[caller] = nil
	return unpack(results, 1, results.n)
end

--- Returns the client identifier of a client.
-- @tparam number index the number of the client
-- @treturn string
function Run:id_of(index)
	return self.id .. "-" .. index
end

function Run:violation(kind, text)
	self.has_failed = true
	if not self.violations[kind] then
		self.violations[kind] = true
		table.insert(self.violations, { kind = kind, text = text or "" })
		if kind == M.expected then
			M.on_expected(text or "")
		end
	end
end

--- An error has come out in a place where nothing else can catch it.
function Run:caught(err)
	local text = type(err) == "string" and err or ""
	local is_blamed = self:take_blame(err)
	self.has_lost_thread = not self.host.is_ordered
	if is_thrown(err) then
		self.pending = nil
	elseif is_interrupt(err) then
		self.is_interrupted = true
		self:violation("it hangs", text)
	elseif not is_blamed then
		self:violation("an error: " .. model.generalize(err), text)
	end
end

-- Whether an error is an error about bad arguments that could not be caught at the call, in coroutines of Lua 5.1.
function Run:take_blame(err)
	local is_blamed = self.is_blamed and not model.is_internal(err)
	self.is_blamed = nil
	return is_blamed
end

--- Calls the library, and checks the values that it returns or the error that it raises.
-- @tparam table step the step that makes the call: `bad` if its arguments may be to blame
-- @tparam table ctx where the step stands
-- @tparam string name the name of the function, for `model.explain_returns`
-- @param detail for `model.explain_returns` too
-- @tparam function f the function
-- @param ... its arguments
-- @return its results; nothing if it has raised an error
function Run:call(step, ctx, name, detail, f, ...)
	self.has_thrown = false
	local was_blamed = self.is_blamed
	self.is_blamed = no_yield_across_pcall and step.bad or was_blamed
	local results = pack(self:guarded(ctx, f, ...))
	local is_blamed = not results[1] and self:take_blame(results[2])
	self.is_blamed = was_blamed
	if results[1] then
		local problem = not step.bad
			and model.explain_returns(name, detail, results.n - 1, results[2], results[3], results[4])
		if problem then
			self:violation("what is returned by " .. name, problem)
		end
		-- An error thrown in a coroutine that waits is not due yet.
		local is_due = self.pending and (self.pending == "main" or coroutine.status(self.pending) ~= "suspended")
		if is_due and ctx.where == "main" and self.host.is_ordered and not in_coroutine() then
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
	elseif not (step.bad or is_blamed) then
		self:violation(("%s raises: %s"):format(name, model.generalize(err)), tostring(err))
	elseif model.is_internal(err) then
		self:violation(("%s raises from inside: %s"):format(name, model.generalize(err)), tostring(err))
	else
		-- The error of a further handler does not come out.
		self.pending = nil
	end
end

-- Raises an error of the program.
function Run:throw(ctx, err)
	ctx.leave()
	if (ctx.where == "handler" or ctx.where == "callback" or ctx.where == "function") and self.finalizing == 0
		and self.program.gc ~= "stress" then
		self.pending = in_coroutine() or "main"
	end
	error(err, 0)
end

function Run:is_own_coroutine()
	local thread = in_coroutine()
	return thread and self.coroutines[thread] ~= nil
end

-- Yields in a coroutine of the program.
function Run:yield()
	local thread = in_coroutine()
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

--- Ends a thread of Copas. A running thread ends as soon as it waits.
-- @tparam thread thread the thread
-- @treturn boolean whether it has been ended
function Run:kill(thread)
	if self.host.is_ordered or thread == self.main_thread or waited_for[thread] or self:is_own_coroutine() then
		return false
	end
	package.loaded.copas.removethread(thread)
	self.killed[thread] = true
	for _, rec in pairs(self.records) do
		rec.record:killed(thread)
	end
	return true
end

-- Resumes the coroutines that wait for nothing else.
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
		local name = step[1] == "misuse" and step.method or step[1]
		if not (M.without[step[1]] or self.is_ending and CONNECTS[name] or ctx.no_wait and WAITS[step.method]) then
			self.steps[step[1]](self, step, ctx)
		end
	end
end

-- Calls a function that may raise an error, and may yield. Returns the results that pcall would return.
function Run:guarded(ctx, f, ...)
	if not (no_yield_across_pcall and in_coroutine()) or ctx.no_wait then
		return pcall(f, ...)
	elseif self:is_own_coroutine() or self.host.is_ordered then
		-- Errors end the coroutine.
		return true, f(...)
	end
	return self:in_thread(f, ...)
end

-- Returns the client of a step, and its record.
function Run:who(step, ctx)
	local rec = step.client == 0 and ctx.rec or self.records[step.client]
	return rec and rec.client, rec
end

-- Makes a handler of an event, with the body of a step. Also returns the function to call when the client has the
-- handler.
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
			event = event,
			-- Finalizers of the program and of the library cannot wait.
			no_wait = self.finalizing > 0 or type(first) == "table" and first.close_reason == "garbage",
			message = event == "message" and first or nil,
			packet = type(first) == "table" and first or nil,
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
	return handler, function()
		rec.handlers[event] = rec.handlers[event] or {}
		table.insert(rec.handlers[event], { id = id, func = handler })
	end
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

-- Makes a callback of a request, with the body of a step.
function Run:callback(rec, exchange, body)
	local callback
	callback = function(answer, reason)
		rec.record:answered(exchange, answer, reason)
		self:exec(body, { where = "callback", rec = rec, no_wait = self.finalizing > 0, leave = nothing })
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
	exchange.is_unsure = method == "request" and (opts.qos == 0 or opts.timeout < 1)
	if step.callback then
		opts.callback = self:callback(rec, exchange, step.callback)
	end
	local accepted = self:call(step, ctx, method, opts.qos or 0, client[method], client, opts)
	-- After an error of a callback or handler the result is not known.
	if not self.has_thrown then
		rec.record:asked(exchange, client, accepted)
	end
end

-- Collects all garbage. Errors that come out of the collector are the library's.
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

-- Has Copas let go of threads that have been ended. Copas holds each until the timeout of its wait, perhaps for half a
-- minute, and so holds the thread's client, and a message of megabytes.
local function forget_timeouts(threads)
	local wheel, timers
	for i = 1, math.huge do
		local name, value = debug.getupvalue(package.loaded.copas.timeout, i)
		if not name then
			break
		elseif name == "timerwheel" then
			wheel = value
		elseif name == "timeout_register" then
			timers = value
		end
	end
	for thread in pairs(threads) do
		if timers[thread] then
			wheel:cancel(timers[thread])
			timers[thread] = nil
		end
	end
end

local MAIN = { where = "main", leave = nothing }

-- Sets how eagerly garbage is collected: the pause and the speed, in percent.
local function tune_garbage(pause, speed)
	if _VERSION < "Lua 5.5" then
		collectgarbage("setpause", pause)
		collectgarbage("setstepmul", speed)
	else
		collectgarbage("param", "pause", pause)
		collectgarbage("param", "stepmul", speed)
	end
end

--- Runs a program.
-- @tparam table program the program, see `torture.generate`
-- @param control the connection to the broker
-- @tparam number limit seconds until the watchdog ends this process
-- @tparam number patience seconds that something that must happen may take
-- @treturn table violations: a list of `{ kind=, text= }`
function M.run(program, control, limit, patience)
	local host = hosts[program.host]
	if program.gc == "stress" then
		limit, patience = generate.STRESS * limit, generate.STRESS * patience
	end
	programs = programs + 1
	local run = setmetatable({
		program = program,
		-- The beginning of the client identifiers, which no other program has: `check_faults` tells of a client that
		-- outlives its program, and connects to a broker of another one that has got the same port.
		id = ("torture-%s-%d"):format(control.pid, programs),
		host = host,
		control = control,
		violations = {},
		budget = BUDGET,
		patience = patience,
		-- Clients, by number.
		records = {},
		alive = M.alive,
		stepped = setmetatable({}, { __mode = "k" }),
		coroutines = {},
		-- Threads of Copas that the program has begun, as a list; and the thread that runs its main chunk.
		threads = {},
		main_thread = nil,
		-- Threads that the program has ended, as a set.
		killed = setmetatable({}, { __mode = "k" }),
		-- Callbacks that have been called, with the kind of their requests.
		finished = setmetatable({}, { __mode = "k" }),
		last_id = 0,
		last_tag = 0,
		-- How many finalizers are running, and have run, and the threads in which await has not returned.
		finalizing = 0,
		finalized = 0,
		waiting = {},
		-- The threads that wait in `in_thread`, as a set.
		calling = setmetatable({}, { __mode = "k" }),
		-- Where an error has been thrown that has yet to come out: "main", or the coroutine.
		pending = nil,
		-- Whether bad arguments are to blame for the next error.
		is_blamed = nil,
		has_thrown = false,
		-- Whether an error has ended a thread of Copas.
		has_lost_thread = false,
		-- Whether everything begun is being brought to its end; whether programs may not connect any more; whether they
		-- may do nothing any more.
		is_settling = false,
		is_ending = false,
		is_over = false,
	}, Run)
	local plans = {}
	for i, spec in ipairs(program.clients) do
		plans[i] = { unpack(spec.plans) }
		plans[i].version, plans[i].is_absent = spec.opts.version, spec.is_absent
		plans[i].id = run:id_of(i)
		plans[i].receive_maximum = spec.opts.server_receive_maximum
	end
	run.ports = control:begin(plans, limit)
	collectgarbage()
	if program.gc == "stop" then
		collectgarbage("stop")
	elseif program.gc == "stress" then
		tune_garbage(10, 400)
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
	tune_garbage(200, 200)
	if not ok then
		run:caught(err)
	else
		run:check_faults()
		if not run.has_failed then
			run:check_end()
		end
	end
	if next(run.killed) then
		forget_timeouts(run.killed)
	end
	if no_yield_across_pcall and (next(run.killed) or run.has_lost_thread) then
		-- coxpcall notes the thread of each coroutine for as long as the coroutine lives. In Lua 5.1 both live for ever
		-- if the thread has the coroutine on its stack. A thread that was ended, or that an error has ended, still has
		-- it there.
		for client in pairs(M.alive) do
			M.alive[client] = nil
		end
	end
	control:stop()
	return run.violations
end

return M

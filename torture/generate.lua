--- Makes programs of the torture: lists of steps, as plain data.
-- A program is `{ host=, copas=, gc=, clients={...}, main={...} }`. A client has `opts`, and `plans` for its broker:
-- the behaviour on the first, second, ... connection, see `torture.broker`. A step is `{ NAME, ... }`; `body` and
-- `callback` are lists of steps. `client` is the number of a client; 0 stands for the client whose handler has the
-- step. `torture.interpreter` says what the steps do.

local data = require("torture.data")

local M = {
	--- By how much a program is slower while the collector is always at work.
	STRESS = 4,
}

local EVENTS = { "connect", "message", "acknowledge", "subscribe", "unsubscribe", "close", "error", "shutdown", "auth" }

local G = {}
G.__index = G

-- Picks by weight: a list of `weight, value, weight, value, ...`.
function G:pick(list)
	local sum = 0
	for i = 1, #list, 2 do
		sum = sum + list[i]
	end
	local at = self.random(sum)
	for i = 1, #list, 2 do
		at = at - list[i]
		if at <= 0 then
			return list[i + 1]
		end
	end
end

function G:chance(percent)
	return self.random(100) <= percent
end

function G:one(list)
	return list[self.random(#list)]
end

-- The length of a payload that a connection does not take at once.
local HUGE = 4000000

-- Values of no use as arguments. Not all of them are bad everywhere.
local ODD = { 5, -1, 1.5, "", "a/#", "x", true, false, "\0", 2 ^ 53 }

function G:odd()
	if self:chance(15) then
		return {}
	end
	return self:one(ODD)
end

-- Clients -------------------------------------------------------------------------------------------------------------

local BAD_ENDS = { "close", "reset", "half_close", "garbage", "disconnect" }

function G:plan()
	local plan = { connack = "ok", answers = {}, pushes = {} }
	plan.connack = self:pick({ 70, "ok", 6, "auth", 6, "withhold", 6, "late", 4, "refuse", 4, "kick",
		2, self:one(BAD_ENDS) })
	plan.accept = self:chance(6) and self:one({ "close", "reset", "deaf" }) or nil
	for i = 1, self.random(3) do
		plan.answers[i] = self:pick({ 60, "answer", 10, "withhold", 8, "late", 5, "refuse", 3, "answer_close",
			3, self:one(BAD_ENDS) })
	end
	for i = 1, self.random(4) - 1 do
		plan.pushes[i] = {
			after = self.random(4),
			what = self:pick({ 76, "messages", 6, "trickle", 8, "repeat", 3, "deaf", 6, self:one(BAD_ENDS) }),
			count = self.random(3), qos = self.random(3) - 1, topic = "m/" .. self.random(2),
		}
	end
	plan.session = self:chance(25) and "forget" or nil
	plan.limits = self:chance(20) and self:limits() or nil
	if plan.limits and plan.limits.receive_maximum and self:chance(60) then
		plan.answers = { "withhold" }
	end
	return plan
end

-- A connection that is lost when something is under way in both directions.
function G:lost_plan()
	local plan = self:plan()
	plan.connack, plan.accept = "ok", nil
	plan.answers = { "answer", self:one({ "withhold", "late", "answer" }) }
	plan.pushes = {
		{ after = 1, what = self:pick({ 4, "messages", 1, "trickle" }), count = self.random(3), qos = self.random(2),
			topic = "m/" .. self.random(2) },
		{ after = self.random(4), what = self:one(BAD_ENDS) },
	}
	return plan
end

-- The limits that a broker of 5.0 announces.
function G:limits()
	return self:pick({ 5, { receive_maximum = self.random(2) }, 2, { maximum_qos = self.random(2) - 1 },
		2, { maximum_packet_size = self:one({ 40, 300 }) } })
end

-- The timeout of a request that the broker answers, in seconds: longer than a program.
local LONG = 10

-- Events that may have no handler but the program's.
local UNSEEN = { "acknowledge", "subscribe", "unsubscribe", "error", "shutdown", "auth" }

function G:client(number)
	local opts = { version = self:one({ 4, 5 }), connect_timeout = 0.4 }
	opts.clean = self:pick({ 6, true, 3, false, 1, "first" })
	opts.reconnect = self:pick({ 5, false, 4, 0.02, 1, 10 })
	if self:chance(25) then
		opts.queue = { max_messages = self:one({ 2, 100 }), when_full = self:one({ "reject", "drop_oldest" }) }
	end
	opts.resubscribe = self:chance(15) or nil
	opts.auto_ack = self:chance(25) or nil
	opts.keep_alive = self:chance(10) and 1 or nil
	opts.server_receive_maximum = opts.version == 4 and self:chance(20) and self.random(2) or nil
	if opts.version == 5 and self:chance(40) then
		opts.properties = { authentication_method = "torture" }
	end
	local plans = {}
	for i = 1, self.random(3) - 1 do
		plans[i] = self:plan()
	end
	if opts.properties and self:chance(50) then
		plans[1] = plans[1] or self:plan()
		plans[1].connack = "auth"
	end
	if self:chance(25) then
		opts.reconnect, opts.clean, opts.queue = 0.02, self:chance(30), nil
		plans = { self:lost_plan(), self:chance(30) and self:lost_plan() or nil }
		-- A client of 5.0 may make requests, too.
		self.lost = opts.version == 5 and number or self.lost
	end
	local spec = { opts = opts, plans = plans, is_absent = self:chance(6) or nil }
	if self:chance(15) then
		-- A connector in Lua raises an error once, at a call of this method.
		spec.raises = { method = self:one({ "send", "receive" }), call = self.random(6) }
	end
	if self:chance(40) then
		-- Events for which the torture adds no handler of its own.
		spec.unseen = { [self:one(UNSEEN)] = true, [self:one(UNSEEN)] = true }
	end
	return spec
end

-- Steps ---------------------------------------------------------------------------------------------------------------

function G:which(where)
	if where ~= "main" and self:chance(70) then
		return 0
	end
	return self.random(self.count)
end

function G:callback(depth)
	if self:chance(25) then
		return nil
	elseif self:chance(60) then
		return {}
	end
	return self:body("callback", depth + 1)
end

-- The options of each request: one of them gets an odd value.
local FIELDS = {
	publish = { "topic", "payload", "qos", "retain", "dup", "properties", "user_properties", "callback" },
	subscribe = { "topic", "qos", "no_local", "retain_as_published", "retain_handling", "properties", "callback" },
	unsubscribe = { "topic", "properties", "user_properties", "callback" },
}

local STEPS = {}

function STEPS:publish(where, depth)
	return { "publish", client = self:which(where), qos = self:pick({ 2, 0, 5, 1, 2, 2 }), callback = self:callback(depth),
		size = self:chance(4) and 70000 or nil }
end

function STEPS:subscribe(where, depth)
	return { "subscribe", client = self:which(where), qos = self.random(3) - 1, callback = self:callback(depth) }
end

function STEPS:unsubscribe(where, depth)
	return { "unsubscribe", client = self:which(where), callback = self:callback(depth) }
end

function STEPS:request(where, depth)
	local callback = self:chance(80) and (self:callback(depth) or {}) or nil
	return { "request", client = self:which(where), qos = self.random(2) - 1, callback = callback,
		-- A request that is waited for holds up the program.
		timeout = (callback or where == "coroutine") and self:chance(60) and LONG or 0.02 }
end

function STEPS:await(where)
	return { "await", client = self:which(where), what = self:pick({ 5, "connect", 2, "subscribe", 2, "publish",
		1, "unsubscribe" }), timeout = self:one({ 0.01, 0.05 }), qos = self.random(2) - 1 }
end

function STEPS:on(where, depth)
	return { "on", client = self:which(where), event = self:one(EVENTS), body = self:body("handler", depth + 1) }
end

function STEPS:off(where)
	return { "off", client = self:which(where), event = self:one(EVENTS) }
end

function STEPS:insert_handler(where, depth)
	return { "insert_handler", client = self:which(where), event = self:one(EVENTS),
		body = self:body("handler", depth + 1) }
end

function STEPS:on_topic(where, depth)
	local filter = self:one({ "m/1", "m/+", "#", "m/#" })
	return { "on_topic", client = self:which(where), filter = filter, body = self:body("handler", depth + 1),
		opts = self:chance(40) and { subscribe = true, qos = 1 } or nil }
end

function STEPS:off_topic(where)
	return { "off_topic", client = self:which(where), filter = self:one({ "m/1", "m/+", "#", "m/#" }) }
end

for _, name in ipairs({
	"acknowledge", "respond", "shutdown", "send_pingreq", "check_keep_alive", "getfd", "stats", "start_connecting",
	"open_connection", "add", "remove", "drop",
}) do
	STEPS[name] = function(self, where)
		return { name, client = self:which(where) }
	end
end

function STEPS:auth(where)
	return { "auth", client = self:which(where), args = self:chance(60) and
		{ 0x18, { authentication_method = "torture" } } or nil }
end

function STEPS:disconnect(where)
	return { "disconnect", client = self:which(where), args = self:chance(20) and { 4 } or nil }
end

function STEPS:close_connection(where)
	return { "close_connection", client = self:which(where), args = self:chance(20) and { "tired" } or nil }
end

function STEPS:step(where)
	return { "step", client = self:which(where), count = self.random(3) }
end

function STEPS:serve()
	return { "serve", count = self.random(4) }
end

function STEPS:add_function(_, depth)
	return { "add_function", body = self:body("function", depth + 1), delay = self:one({ 0, 0.002 }) }
end

function STEPS:add_badly()
	local how = self:pick({ 3, "add", 2, "remove", 2, "run_ioloop" })
	local value
	if not self:chance(30) then
		value = self:odd()
	end
	return { "add_badly", how = how, value = value, bad = true }
end

function STEPS:run(where)
	return { "run", client = self:which(where), ms = self:one({ 5, 20 }),
		how = self:one({ "run_ioloop", "run_until_clients" }), ends = self:chance(25) and "remove" or nil }
end

function STEPS:misuse(where)
	local method = self:pick({ 4, "publish", 3, "subscribe", 2, "unsubscribe", 1, "on", 1, "off", 1, "acknowledge",
		1, "auth", 1, "disconnect", 1, "shutdown", 1, "close_connection", 2, "await", 2, "request", 1, "on_topic",
		1, "off_topic", 1, "respond" })
	local args
	local fields = FIELDS[method == "request" and "publish" or method]
	if fields and self:chance(80) then
		args = { { topic = "p/1" } }
		args[1][self:one(fields)] = self:odd()
	elseif method == "await" and self:chance(60) then
		args = { self:one({ "connect", "publish", "subscribe" }), { topic = "p/1", timeout = self:odd() } }
	else
		args = { self:odd(), self:odd() }
	end
	-- Arguments that are good by chance must not wait for long.
	if method == "request" and type(args[1]) == "table" then
		args[1].timeout = 0.01
	elseif method == "await" then
		args[2] = type(args[2]) == "table" and args[2] or {}
		if type(args[2].timeout) == "number" and args[2].timeout > 0 or args[2].timeout == nil then
			args[2].timeout = 0.01
		end
	end
	return { "misuse", client = self:which(where), method = method, args = args, count = self:chance(10) and 0 or 2,
		bad = true }
end

function STEPS:create_badly()
	local opts = { uri = "mqtt://127.0.0.1", clean = true }
	opts[self:one({ "uri", "clean", "version", "id", "keep_alive", "will", "reconnect", "queue", "on", "properties",
		"secure", "connector", "connect_timeout", "x" })] = self:odd()
	return { "create_badly", opts = opts }
end

function STEPS:coroutine(_, depth)
	return { "coroutine", body = self:body("coroutine", depth + 1), is_thread = self:chance(40) or nil }
end

function STEPS:object(_, depth)
	return { "object", body = self:body("finalizer", depth + 1) }
end

function STEPS:throw()
	return { "throw", table = self:chance(30) or nil }
end

function STEPS:sleep()
	return { "sleep", ms = self.random(5) }
end

for _, name in ipairs({ "yield", "resume", "collect", "nap", "kill", "kill_self" }) do
	STEPS[name] = function()
		return { name }
	end
end

-- Steps that make sense together only: each function returns several.
local PHRASES = {}

-- Leaves a connection while there may be answers that nobody has taken, and comes back.
function PHRASES:come_back(where, depth)
	local client = self:which(where)
	local steps = { STEPS.publish(self, where, depth), STEPS.publish(self, where, depth) }
	steps[#steps + 1] = self:chance(70) and { "nap" } or nil
	steps[#steps + 1] = { self:one({ "close_connection", "disconnect", "remove", "shutdown" }), client = client }
	steps[#steps + 1] = self:chance(30) and { "serve", count = 1 } or nil
	steps[#steps + 1] = { "start_connecting", client = client }
	for i = 1, 2 do
		steps[i].client = client
	end
	return steps
end

-- The program ends a thread of Copas that waits, or that cannot send all of a message.
function PHRASES:killed(where, depth)
	local client = self:which(where)
	local waits = self:one({
		{ "publish", client = client, qos = 1, size = HUGE },
		{ "await", client = client, what = "publish", qos = 1, timeout = 0.05 },
	})
	if not self.has_threads then
		-- Elsewhere the program itself would wait for half a minute until a deaf broker takes a huge message.
		waits.size = nil
	end
	return { { "coroutine", body = { waits }, is_thread = true }, { "serve", count = self.random(2) }, { "kill" },
		STEPS.publish(self, where, depth) }
end

-- Requests, perhaps by a connection that the client leaves, and then by another connection.
function G:requests(client)
	local function request()
		return { "request", client = client, qos = self:pick({ 3, 1, 1, 0 }), callback = {}, timeout = LONG }
	end
	local steps = { request(), { "nap" }, { "serve", count = self.random(4) }, request() }
	if self:chance(60) then
		steps[#steps + 1] = { "close_connection", client = client }
		steps[#steps + 1] = self:chance(50) and request() or nil
		steps[#steps + 1] = { "start_connecting", client = client }
	end
	steps[#steps + 1] = request()
	return steps
end

function PHRASES:requests(where)
	return self:requests(self:which(where))
end

-- Messages of which the broker may not take all at once, and packets of other kinds.
function PHRASES:burst(where)
	local client, qos, steps = self:which(where), self.random(2), {}
	for i = 1, 1 + self.random(2) do
		steps[i] = { "publish", client = client, qos = qos, callback = {} }
	end
	steps[#steps + 1] = { self:one({ "subscribe", "unsubscribe" }), client = client, qos = 1, callback = {} }
	return steps
end

-- The weight of each step, by the place where the step stands.
local WEIGHTS = {
	main = {
		3, "killed", 5, "requests", 5, "burst", 2, "kill",
		6, "come_back", 30, "serve", 14, "publish", 6, "subscribe", 3, "unsubscribe", 5, "request", 6, "await", 8, "on",
		2, "off",
		2, "insert_handler", 3, "on_topic", 1, "off_topic", 1, "acknowledge", 2, "shutdown", 1, "send_pingreq",
		1, "check_keep_alive", 1, "getfd", 1, "stats", 5, "start_connecting", 1, "open_connection", 3, "add", 1, "remove",
		2, "drop", 1, "auth", 3, "disconnect", 4, "close_connection", 2, "step", 3, "add_function", 2, "add_badly",
		3, "run", 4, "misuse", 1, "create_badly", 8, "coroutine", 2, "object", 2, "sleep", 2, "resume", 3, "collect",
		5, "nap",
	},
	handler = {
		6, "serve", 12, "publish", 5, "subscribe", 2, "unsubscribe", 2, "request", 3, "await", 2, "on", 2, "off",
		1, "insert_handler", 1, "on_topic", 1, "off_topic", 8, "acknowledge", 1, "respond", 3, "shutdown",
		2, "start_connecting", 1, "add", 1, "remove", 1, "drop", 2, "auth", 4, "disconnect", 6, "close_connection",
		2, "step", 1, "add_function", 1, "add_badly", 1, "run", 2, "misuse", 2, "coroutine", 1, "object", 16, "throw",
		2, "yield", 1, "resume", 2, "collect", 1, "sleep", 2, "kill", 4, "kill_self",
	},
	coroutine = {
		10, "yield", 20, "await", 8, "request", 8, "publish", 4, "subscribe", 2, "close_connection", 1, "disconnect",
		2, "start_connecting", 1, "shutdown", 4, "serve", 1, "collect", 1, "throw", 1, "step",
		1, "kill_self",
	},
	finalizer = {
		8, "publish", 4, "subscribe", 3, "disconnect", 4, "close_connection", 2, "shutdown", 1, "stats", 1, "acknowledge",
		1, "add", 1, "remove", 2, "misuse", 1, "on",
	},
}
WEIGHTS.callback, WEIGHTS["function"] = WEIGHTS.handler, WEIGHTS.handler

-- A list of a few steps.
function G:body(where, depth)
	local body = {}
	for _ = 1, self.random(depth > 3 and 1 or 3) do
		local name = self:pick(WEIGHTS[where])
		if depth > 3 and (name == "on" or name == "coroutine" or name == "add_function" or name == "object"
			or name == "on_topic" or name == "insert_handler") then
			name = "publish"
		end
		local steps = PHRASES[name] and PHRASES[name](self, where, depth) or { STEPS[name](self, where, depth) }
		for _, step in ipairs(steps) do
			body[#body + 1] = step
		end
	end
	return body
end

-- The steps that connect a client.
function G:connect(client)
	return self:pick({
		8, { { "add", client = client } },
		3, { { "start_connecting", client = client }, { "add", client = client } },
		2, { { "await", client = client, what = "connect", timeout = 0.05 }, { "add", client = client } },
		-- Perhaps it leaves before the CONNACK.
		2, { { "add", client = client }, { "serve", count = 1 },
			{ self:one({ "close_connection", "disconnect", "remove" }), client = client } },
		1, { { "start_connecting", client = client } },
		1, {},
	})
end

--- Makes a program.
-- @tparam number seed of the run
-- @tparam number number of the program in it
-- @tparam table hosts names of the hosts that there are
-- @tparam boolean has_copas whether Copas may be loaded
-- @treturn table the program
function M.program(seed, number, hosts, has_copas)
	local self = setmetatable({ random = data.random(seed, number) }, G)
	local program = { host = self:one(hosts), clients = {}, main = {} }
	self.has_threads = program.host:find("^copas") ~= nil
	program.copas = program.host:find("^copas") and true or has_copas and self:chance(35) or nil
	program.gc = self:pick({ 85, "stop", 10, "auto", 5, "stress" })
	self.count = self:pick({ 6, 1, 3, 2, 1, 3 })
	local main = program.main
	local function add(steps)
		for _, step in ipairs(steps) do
			main[#main + 1] = step
		end
	end
	for i = 1, self.count do
		program.clients[i] = self:client(i)
		main[#main + 1] = { "create", client = i }
		for _ = 1, self.random(3) - 1 do
			local on = STEPS.on(self, "main", 0)
			on.client = i
			main[#main + 1] = on
		end
		local first = program.clients[i].plans[1]
		if first and first.connack ~= "ok" and self:chance(40) then
			-- Before the CONNACK hardly any handler is called: add a handler of `auth`.
			main[#main + 1] = { "on", client = i, event = "auth", body = self:body("handler", 1) }
		end
		if program.host:find("^copas") and self:chance(15) then
			main[#main + 1] = { "on", client = i, event = self:one({ "connect", "message", "acknowledge", "subscribe" }),
				body = { { "kill_self" } } }
		end
		if self:chance(20) then
			add(self:body("main", 0))
		end
		add(self:connect(i))
	end
	if self:chance(80) then
		main[#main + 1] = { "serve", count = 2 + self.random(6) }
	end
	if self.lost and self:chance(60) then
		add(self:requests(self.lost))
	end
	for _ = 1, self.random(4) do
		add(self:body("main", 0))
	end
	return program
end

return M

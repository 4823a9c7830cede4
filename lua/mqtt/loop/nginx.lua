--- Adds clients and timers to the event loop of nginx.
-- Clients on the native connection share two timers of the worker: one wakes nginx (`mqtt.bell`), the other one calls
-- handlers. A client with a connector lives in timers of its own, a new timer for each connection: nginx frees the
-- memory of a timer only when the timer ends. Requests of the worker may use the clients too.
-- @module mqtt.loop.nginx

local semaphore = require("ngx.semaphore")

local bell = require("mqtt.bell")
local core = require("mqtt.core")
local expect = require("mqtt.loop.expect")
local host = require("mqtt.host")
local log = require("mqtt.log")
local timers = require("mqtt.loop.timer")

local each, rawget, select, setmetatable = pairs, rawget, select, setmetatable
local unpack = table.unpack or unpack -- luacheck: globals unpack
local now = core.now
local ngx = host.openresty()
local protected = host.protected
local spawn = ngx.thread.spawn

-- The longest wait, in seconds. nginx cannot wait for ever, so waiting begins anew after this time.
local LONG = 24 * 60 * 60
-- How long a client pauses after an error that its step has raised, in seconds.
local RETRY_PAUSE = 1
-- How often to look whether nginx has closed an ended connection, and whether the timers of clients with a connector
-- still exist, in seconds.
local PARTING_PAUSE, GUARD_PAUSE = 0.01, 1
-- How many steps of a client there are between looks at the clock, and how long all clients together may keep the
-- worker from its requests, in seconds.
local STEPS, TURN = 64, 0.001
-- After this many turns handlers are called in a new timer, and nginx frees the memory of the old one.
local TURNS_PER_TIMER = 100000

local loop = {}

-- The record of each client of this worker.
local registry = {}

local function wait_for(event)
	while not event:wait(LONG) do -- luacheck: ignore 542
		-- go on
	end
end

-- For the timers of both kinds of clients. Each has threads: `threads`, how many; `news`, a semaphore that idle threads
-- wait for; `told`, whether one of them has been told; and `stop`, a semaphore that ends the timer.

-- Has another thread look for work. To be called only in this timer and in the bell's.
local function tell(self)
	if not self.told then
		self.told = true
		self.news:post(1)
	end
end

-- A thread ends: the others do so too, and with the last one the timer.
local function thread_ended(self)
	self.threads = self.threads - 1
	self:tell()
	if self.threads == 0 then
		bell.release(self)
		self.stop:post(1)
	end
end

-- Waits until the timer is to end.
local function await_stop(self)
	wait_for(self.stop)
	if self.threads > 0 then
		-- The time of `worker_shutdown_timeout` is over: handlers that wait end here.
		ngx.exit(ngx.OK)
	end
end

-- Clients on the native connection.

-- A queue of work: records of clients that have news, and calls that others have handed over.
local queue, first, last = {}, 1, 0

local function push(item)
	if not item.queued then
		item.queued = true
		last = last + 1
		queue[last] = item
	end
end

local function take()
	if first > last then
		return nil
	end
	local item = queue[first]
	queue[first], first = nil, first + 1
	item.queued = false
	return item
end

-- The timer that handlers are called in. Its threads take turns. Each thread tells another one before it calls
-- handlers. If a handler waits, that other thread runs, and goes on with the work. So there are at most two threads
-- more than handlers have ever waited at once. A thread for each packet would be simpler, but leaves memory behind in
-- the timer.
local Server = {}
Server.__index = Server

local server
-- How many clients there are.
local count = 0

local function leave_native(record)
	local client = record.client
	registry[client] = nil
	count = count - 1
	bell.watch(record.token, nil)
	host.set_hand_over(client, nil)
	if ngx.worker.exiting() then
		bell.poke()
	end
	log:info("[LuaMQTT] client '%s' has left nginx", client.opts.id)
end

Server.tell = tell

-- Takes the turn from a thread that waits in a function of the program.
function Server:take_over()
	local item = self.item
	self.turn, self.item = nil, nil
	self.waiting = self.waiting + 1
	if item.client then
		item.client:_note_move()
		push(item)
	end
end

-- Ends a turn. Returns false if another thread has taken the turn over.
function Server:end_turn(turn)
	if self.turn == turn then
		self.turn, self.item = nil, nil
		return true
	end
	self.waiting = self.waiting - 1
	if ngx.worker.exiting() then
		bell.poke()
	end
	return false
end

-- Serves a client.
function Server:serve(record, turn, until_when)
	local client = record.client
	local ok, wait
	repeat
		ok, wait = protected(client._serve, client, STEPS)
	until not ok or wait ~= 0 or self.turn ~= turn or now() > until_when or registry[client] ~= record
	local goes_on = self:end_turn(turn)
	if registry[client] ~= record then -- luacheck: ignore 542
		-- The client has left meanwhile.
	elseif not ok and (client:_wants(0, RETRY_PAUSE)
		or record.has_failed and not client:_is_busy()) then
		record.has_failed = false
		client:_wake(RETRY_PAUSE)
	elseif not ok or wait == 0 or not goes_on then
		record.has_failed = not ok
		push(record)
	elseif not wait then
		leave_native(record)
	end
end

function Server:call(item, turn)
	protected(unpack(item, 1, item.n))
	self:end_turn(turn)
end

-- Works while it is this thread's turn. Lets nginx do something else from time to time.
function Server:take_turns()
	local until_when = now() + TURN
	while not self.turn do
		if first <= last and now() > until_when then
			-- The bell comes by nginx's event loop, and then tells a thread.
			return bell.poke()
		end
		local item = take()
		if not item then
			return
		end
		if self.idle == 0 then
			spawn(self.work, self)
		end
		local turn = {}
		self.turn, self.item, self.turns = turn, item, self.turns + 1
		self:tell()
		if item.client then
			self:serve(item, turn, until_when)
		else
			self:call(item, turn)
		end
	end
end

function Server:work()
	self.threads = self.threads + 1
	repeat
		self.idle = self.idle + 1
		wait_for(self.news)
		self.told = false
		self.idle = self.idle - 1
		if self.turn then
			self:take_over()
		end
		if not self.ended then
			self:take_turns()
			core.hurry()
		end
	until self.ended
	thread_ended(self)
end

-- The timer.
local function run(_, self)
	self.context = ngx.ctx
	self.is_there = true
	spawn(await_stop, self)
	self:work()
end

local function start_server()
	local new = setmetatable({
		-- Semaphores: posted when there is work; posted when the timer is to end, together with everything that waits
		-- in it.
		news = semaphore.new(),
		stop = semaphore.new(),
		-- The number of threads, of threads that wait for news, and of threads that wait in functions of the program.
		threads = 0,
		idle = 0,
		waiting = 0,
		-- Whether an idle thread has been told.
		told = false,
		-- A mark of the present turn, and its item of work.
		turn = nil,
		item = nil,
		-- The number of turns so far.
		turns = 0,
		ended = false,
		-- The timer's context, once the timer runs.
		context = nil,
		is_there = false,
	}, Server)
	local ok, err = ngx.timer.at(0, run, new)
	if not ok then
		return nil, err
	end
	bell.keep(new, function()
		new.stop:post(1)
	end)
	server = new
	return true
end

-- Whether something else has ended the timer. To be asked when the bell has rung: threads told before have run, so at
-- least one thread waits for news.
function Server:is_gone()
	return self.is_there and self.threads > 0 and self.news:count() >= 0
end

-- The bell has rung, or it looks after us.
local function before_news()
	if server and server:is_gone() then
		ngx.log(ngx.WARN, "MQTT: a handler has called ngx.exit, which has ended all that waited. The clients go on.")
		local gone = server
		server = nil
		bell.release(gone)
		for _, record in each(registry) do
			if record.token then
				push(record)
			end
		end
	end
end

local function after_news()
	if server and ngx.worker.exiting() and first > last and not server.turn and server.waiting == 0
		and count == 0 then
		server.ended = true
		server:tell()
		return false
	elseif first <= last then
		if server and server.turns > TURNS_PER_TIMER and not server.turn then
			-- Handlers that wait in the timer end.
			server.ended = true
			server:tell()
			server = nil
		end
		if not server then
			local ok, err = start_server()
			if not ok then
				-- The next ring tries again.
				ngx.log(ngx.ERR, "MQTT clients are not served, there is no timer for it: ", err)
				return true
			end
		end
		server:tell()
	end
	return first <= last or server ~= nil and (server.turn ~= nil or server.waiting > 0)
end

local function hand_over(func, ...)
	if server and server.context == host.nginx_context() then
		return false
	end
	push({ func, n = 1 + select("#", ...), ... })
	bell.poke()
	return true
end

local function add_native(client)
	local ok, err = bell.start(before_news, after_news)
	if not ok then
		return ok, err
	end
	local record = { client = client, token = client:_token(core), queued = false, has_failed = false }
	registry[client] = record
	count = count + 1
	host.set_hand_over(client, hand_over)
	bell.watch(record.token, function()
		push(record)
	end)
	-- The client connects when it is served.
	client:_wake()
	return true
end

-- Clients with a connector.

-- The threads that handle packets, each one packet after the other. While a thread waits in a handler, another thread
-- takes the next packet. So there is one thread more than handlers have ever waited at once. A thread for each packet
-- would be simpler, but leaves some memory behind in the timer.
local Workers = {}
Workers.__index = Workers

local function new_workers(handle)
	return setmetatable({
		handle = handle,
		-- Calls to be made: a queue.
		packets = {},
		first = 1,
		last = 0,
		threads = 0,
		idle = 0,
		news = semaphore.new(),
		-- Posted when the timer is to end, together with everything that waits in it. A thread waits for it all the
		-- time.
		stop = semaphore.new(),
		-- Whether an idle thread has been told of the queue.
		told = false,
		ended = false,
	}, Workers)
end

Workers.tell = tell

function Workers:work()
	self.threads = self.threads + 1
	repeat
		self.idle = self.idle + 1
		wait_for(self.news)
		self.told = false
		self.idle = self.idle - 1
		while self.first <= self.last do
			local packet = self.packets[self.first]
			self.packets[self.first], self.first = nil, self.first + 1
			-- If this thread waits, another one handles the next packet.
			if self.idle == 0 then
				spawn(self.work, self)
			end
			if self.first <= self.last then
				self:tell()
			end
			protected(self.handle, packet)
		end
	until self.ended
	thread_ended(self)
end

function Workers:add(packet)
	self.last = self.last + 1
	self.packets[self.last] = packet
	self:tell()
end

-- Starts the threads, in the timer that the caller runs in.
function Workers:start()
	spawn(self.work, self)
	spawn(await_stop, self)
	bell.keep(self, function()
		self.stop:post(1)
	end)
end

-- Has the threads end after the packets in the queue.
function Workers:finish()
	self.ended = true
	self:tell()
end

-- Whether something else has ended the timer.
function Workers:is_gone()
	return self.threads > 0 and self.stop:count() >= 0
end

local function leave(client)
	local record = registry[client]
	registry[client] = nil
	client:off("shutdown", record.wake)
	if client.handle_received_packet == record.current then
		client.handle_received_packet = record.replaced
	end
	if client.handle == record.handle then
		client.handle = record.replaced_handle
	end
	log:info("[LuaMQTT] client '%s' has left nginx", client.opts.id)
end

-- Starts the client's next timer. The client leaves if there is no timer.
local function start_timer(client, serve)
	local ok, err = ngx.timer.at(0, serve, client)
	if not ok then
		ngx.log(ngx.ERR, "MQTT client '", client.opts.id, "' has ended, there is no timer for it: ", err)
		leave(client)
	end
end

-- Waits until an ended connection does not use the timer any more, so that a client needs but one timer at a time.
local function await_parting(conn)
	while conn and conn.is_parting and conn:is_parting() do
		ngx.sleep(PARTING_PAUSE)
	end
end

-- The timer: serves a client until its connection is gone, then starts the next timer.
local function serve(premature, client)
	local record = registry[client]
	if premature then
		return leave(client)
	end
	host.serve_here()
	if client.handle_received_packet ~= record.current then
		-- The program has replaced the method meanwhile.
		record.handle_received_packet = client.handle_received_packet
		record.replaced = record.handle_received_packet
	end
	local handle_received_packet = record.handle_received_packet
	local workers = new_workers(function(packet)
		handle_received_packet(client, packet)
	end)
	workers:start()
	record.workers = workers
	function record.current(_, packet)
		workers:add(packet)
		return true
	end
	client.handle_received_packet = record.current
	if record.is_revived then
		record.is_revived = false
		protected(client.close_connection, client, "the timer of the connection was ended")
	end

	local ok, wait
	repeat
		ok, wait = protected(client.step, client)
		if not ok then
			ngx.sleep(RETRY_PAUSE)
			wait = 0
		elseif wait == -1 then
			client:_pause()
		elseif wait and wait > 0 then
			record.news:wait(wait)
		end
	until not wait or wait == 0 and not client:_is_busy()
	await_parting(client:_last_connection())
	record.workers = nil
	workers:finish()
	-- The other threads end first, so that this timer is over when the next one begins.
	ngx.sleep(PARTING_PAUSE)
	if wait then
		start_timer(client, serve)
	else
		leave(client)
	end
end

-- Makes the record of a client with a connector, and has errors of its handlers logged.
local function prepare(client)
	local record = {
		-- The method to call, the present one, and the instance's own one before.
		handle_received_packet = client.handle_received_packet,
		current = client.handle_received_packet,
		replaced = rawget(client, "handle_received_packet"),
		replaced_handle = rawget(client, "handle"),
		news = semaphore.new(),
		-- The threads of the client's timer; whether something else has ended the timer before.
		workers = nil,
		is_revived = false,
	}
	function record.wake()
		record.news:post(1)
	end
	registry[client] = record
	client:on("shutdown", record.wake)
	local handle = client.handle
	function record.handle(self, ...)
		return (protected(handle, self, ...))
	end
	client.handle = record.handle
end

-- Starts a new timer for each client whose timer has been ended. The connection ended with the old timer.
local function revive()
	for client, record in each(registry) do
		local workers = record.workers
		if workers and workers:is_gone() then
			ngx.log(ngx.WARN, "MQTT client '", client.opts.id,
				"': a handler has called ngx.exit, which has ended the connection. The client goes on.")
			bell.release(workers)
			record.workers, record.is_revived = nil, true
			local conn = client.connection
			if conn and conn.abandon then
				conn:abandon()
			end
			start_timer(client, serve)
		end
	end
end

-- Whether the guard's timer exists.
local is_guarded = false

-- The timer that looks after the timers of clients with a connector. No function of the program runs in it.
local function guard()
	local goes_on
	repeat
		ngx.sleep(GUARD_PAUSE)
		protected(revive)
		goes_on = false
		for _, record in each(registry) do
			goes_on = goes_on or record.token == nil
		end
	until not goes_on
	is_guarded = false
end

local function add_connector(client)
	local ok, err = bell.start()
	if ok and not is_guarded then
		ok, err = ngx.timer.at(0, guard)
		is_guarded = ok
	end
	if ok then
		ok, err = ngx.timer.at(0, serve, client)
	end
	if ok then
		prepare(client)
	end
	return ok, err
end

--- Adds a client to nginx; it leaves by itself when it has ended. To be called in `init_worker_by_lua`, timers and
-- requests.
--
-- All handlers are called in a timer, where `ngx.sleep`, cosockets and light threads are allowed. Received packets are
-- handled in order of arrival, each in a light thread that does nothing else meanwhile. So a handler may wait, even
-- until a message of its own is acknowledged, while the client goes on receiving. Errors that handlers raise are
-- logged.
--
-- When the worker begins to exit, as it does when nginx reloads its configuration, the client is shut down, see
-- `Client:shutdown`.
-- @tparam Client client the client
-- @return `true`, or `false` and an error message
function loop.add(client)
	expect.client(client)
	if registry[client] then
		log:warn("[LuaMQTT] client '%s' was already added to nginx", client.opts.id)
		return false, "MQTT client was already added to nginx"
	end
	local ok, err
	if client:_token(core) then
		ok, err = add_native(client)
	else
		ok, err = add_connector(client)
	end
	if not ok then
		return false, "MQTT client cannot be added to nginx, there is no timer for it: " .. err
	end
	host.shut_down_at_exit(client)
	return true
end

local set_timer

-- nginx's timer.
local function ring(premature, timer)
	if premature or not timer:_left() then
		return
	end
	timer:_advance()
	protected(timer._run, timer)
	if timer:_left() then
		local ok, err = set_timer(timer)
		if not ok then
			ngx.log(ngx.ERR, "MQTT: a timer of mqtt.loop has ended, there is no timer for it: ", err)
		end
	end
end

function set_timer(timer)
	local ok, err = ngx.timer.at(timer:_left(), ring, timer)
	if not ok then
		return false, err
	end
	return timer
end

--- Has a function called again and again, the first time after the given seconds, until it returns `false`, the timer
-- is cancelled or the worker exits. Each call has a timer of nginx, `ngx.timer.at`; the next one begins after the
-- function has returned. So the function may wait. An error that it raises is logged, and the timer goes on. nginx
-- keeps a cancelled timer until its time has come.
-- @tparam number seconds the time from one call to the next
-- @tparam function func the function
-- @treturn[1] Timer the timer
-- @treturn[2] boolean false: nginx has no timer left
-- @treturn[2] string error message
function loop.every(seconds, func)
	expect.timer(seconds, func)
	return set_timer(timers.new(seconds, func, seconds))
end

--- Has a function called once, after the given seconds, unless the worker exits before.
-- @tparam number seconds the time until the call
-- @tparam function func the function
-- @treturn[1] Timer the timer
-- @treturn[2] boolean false: nginx has no timer left
-- @treturn[2] string error message
function loop.after(seconds, func)
	expect.timer(seconds, func)
	return set_timer(timers.new(seconds, func))
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

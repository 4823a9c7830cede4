--- Adds clients and timers to Copas.
-- @module mqtt.loop.copas

local copas = require("copas")

local expect = require("mqtt.loop.expect")
local host = require("mqtt.host")
local log = require("mqtt.log")
local timers = require("mqtt.loop.timer")

local rawget, setmetatable, type = rawget, setmetatable, type
local coroutine_create, coroutine_resume, coroutine_running = coroutine.create, coroutine.resume, coroutine.running
local coroutine_status, coroutine_yield = coroutine.status, coroutine.yield
local geterrorhandler, gettimeouts, wakeup = copas.geterrorhandler, copas.gettimeouts, copas.wakeup
local give_way, is_turn_over = host.give_way, host.is_turn_over

local loop = {}

-- How many packets a client handles before it looks whether other threads must run: at first, and at most. The number
-- doubles after each look, as long as no other thread has to run.
local FEWEST_PACKETS = 8
local MOST_PACKETS = 64

-- The record of a client in Copas, `client._copas`, says how the client is served. No client may stop because a handler
-- raises an error or waits, or because the program removes a handler's thread. A thread for each packet would cost more
-- than all the rest. So the client has two threads. The *keeper* waits for the network, and runs no function of the
-- program: nobody knows it. The *worker* takes the client's steps and calls the handlers; the keeper resumes it, and
-- gets the values that it yields. When a handler waits, the keeper does with these values what Copas would do. Then
-- Copas resumes the worker, which is an ordinary thread from now on, and the client gets another worker.

-- Returns Copas' queue of sleeping threads, which a thread yields when it goes to sleep. Copas before 4.4 has no such
-- sleep: there each packet has a thread.
local function get_sleeping()
	if not copas.pauseforever then
		return nil
	end
	local _, _, queue = coroutine_resume(coroutine_create(copas.pauseforever))
	return type(queue) == "table" and queue.cancel and queue or nil
end

local sleeping = get_sleeping()
-- Copas 1.x starts a thread within `addthread`, and takes a thread that yields nothing for ended: it can start again.
local can_start_again = copas.sleep == nil

local function leave(record)
	local client = record.client
	if client.handle_received_packet == record.handle_packet then
		client.handle_received_packet = record.replaced
	end
	client:_set_copas(nil)
end

-- Called before packets are handled.
local function begin(record)
	record.handling, record.timeouts = true, gettimeouts()
end

-- Whether a thread that has handled a packet may handle another: it is still the worker, and no handler has left a
-- timeout, an error handler or a removal for it with Copas.
local function may_go_on(record, thread)
	return record.worker == thread and record.timeouts == gettimeouts()
		and geterrorhandler(thread) == record.error_handler and record.removed[thread] == nil
end

-- The worker: runs until a handler has waited or left something with Copas.
local function work(record)
	local thread, client, handle_packet = coroutine_running(), record.client, record.handle_packet
	host.know(thread)
	record.worker, record.error_handler = thread, geterrorhandler(thread)
	wakeup(record.keeper)
	host.pause_forever()
	while true do
		local wait
		if record.is_plain and client.handle_received_packet == handle_packet then
			begin(record)
			wait = client:_serve(record.most, record)
			if record.handling and record.worker == thread then
				record.handling = not may_go_on(record, thread)
			end
		else
			wait = client:step()
		end
		if record.worker ~= thread then
			return
		end
		record.wait = wait
		if record.handling then
			return
		end
		record.is_back = true
		coroutine_yield()
		if record.worker ~= thread then
			return
		end
	end
end

-- Ends the worker. In Lua 5.1 a suspended worker would keep the client from being collected: coxpcall holds the worker
-- as long as its stack holds a coroutine that has called a handler.
local function dismiss(record)
	local worker = record.worker
	if worker then
		record.worker = nil
		host.drive(worker, nil)
		coroutine_resume(worker)
	end
end

-- Makes a worker. Copas must not know that it sleeps.
local function hire(record)
	copas.addthread(work, record)
	while not record.worker do
		host.pause_forever()
	end
	sleeping:cancel(record.worker)
	host.drive(record.worker, record.client)
end

-- Calls Copas' error handler with an error, as Copas does: outside of its threads.
local function report(thread, err)
	coroutine_resume(coroutine_create(geterrorhandler(thread)), err, thread)
end

-- Leaves a worker to Copas that has yielded to a queue of Copas.
local function leave_to_copas(thread, key, queue)
	if type(queue) == "table" and type(queue.insert) == "function" and type(queue.push) == "function" then
		queue:insert(key)
		queue:push(key, thread)
	else
		report(thread, "coroutine.yield was called without a resume first, user-code cannot yield to Copas")
	end
end

-- Lets the worker take some steps. Returns false after an error that ends the client's stay in Copas.
local function take_turn(record)
	if not record.worker then
		hire(record)
	end
	local worker = record.worker
	record.wait, record.handling, record.is_back = 0, false, false
	local ok, key, queue = host.resume(worker)
	if record.is_back then
		return true
	end
	host.drive(worker, nil)
	record.worker = nil
	if not ok then
		report(worker, key)
		return record.handling
	elseif coroutine_status(worker) ~= "dead" then
		leave_to_copas(worker, key, queue)
	end
	return true
end

-- Takes a step without workers.
local function take_step(record)
	record.wait = record.client:step()
	return true
end

local take = sleeping and take_turn or take_step

-- The keeper: runs until the client has ended.
local function serve(record)
	local client = record.client
	record.keeper = coroutine_running()
	host.know(record.keeper)
	record.most = FEWEST_PACKETS
	repeat
		if not take(record) then
			return
		end
		local wait = record.wait
		if is_turn_over() then
			give_way(client)
			record.most = FEWEST_PACKETS
		elseif record.most < MOST_PACKETS then
			record.most = record.most * 2
		end
		if wait == -1 then
			client:_pause()
		elseif wait and wait > 0 then
			client:_wait(wait)
		end
	until not wait
	dismiss(record)
	leave(record)
end

-- A thread of Copas 1.x that can handle the next packet, unless it waits in a handler; or nil.
local idle

local function new_worker()
	local thread
	thread = coroutine_create(function(_, record, packet)
		while true do
			record.handle(record.client, packet)
			idle = thread
			_, record, packet = coroutine_yield()
		end
	end)
	return thread
end

-- Handles a packet in a thread that does nothing else meanwhile.
local function handle_apart(record, packet)
	if can_start_again then
		local worker = idle or new_worker()
		idle = nil
		copas.addthread(worker, record, packet)
	else
		copas.addthread(function()
			record.handle(record.client, packet)
		end)
	end
	return true
end

-- Returns the function that replaces `Client:handle_received_packet`.
local function packet_handler(record)
	if not sleeping then
		return function(_, packet)
			return handle_apart(record, packet)
		end
	end
	local handle = record.handle
	return function(client, packet)
		local thread, handling = record.worker, record.handling
		if not thread or coroutine_running() ~= thread then
			-- Another thread has read the packet: by `Client:feed`, keep alive or `start_connecting`.
			return handle_apart(record, packet)
		end
		begin(record)
		local ok, err = handle(client, packet)
		if may_go_on(record, thread) then
			record.handling = handling
		end
		return ok, err
	end
end

--- Adds a client to Copas; it leaves by itself when it has ended.
-- Received packets are handled in order of arrival. Each has a thread that does nothing else until the handlers have
-- returned, and then may handle the next packet. So a handler may yield, even until a message of its own is
-- acknowledged, while the client goes on. An error that it raises ends nothing else, nor does the program if it has
-- Copas remove the thread. All clients together let other threads run every few milliseconds. With Copas before 4.4, a
-- handler that is not called for a packet runs in the thread that serves the client. An error that such a handler
-- raises ends the client's stay in Copas: the client may be added again.
-- @tparam Client client the client
-- @return `true`, or `false` and an error message
function loop.add(client)
	expect.client(client)
	local record = client:_get_copas()
	if record and coroutine_status(record.keeper) == "dead" then
		leave(record)
	elseif record then
		log:warn("[LuaMQTT] client '%s' was already added to Copas", client.opts.id)
		return false, "MQTT client was already added to Copas"
	end
	record = {
		client = client,
		-- The client's own method, which is replaced, and the method to call.
		replaced = rawget(client, "handle_received_packet"),
		handle = client.handle_received_packet,
		-- The thread that waits for the network, and the thread that takes the client's steps.
		keeper = nil,
		worker = nil,
		-- Set by the worker: whether it has come back, whether a packet is being handled, the result of `step`.
		is_back = false,
		handling = false,
		wait = 0,
		-- How many packets the worker may handle.
		most = FEWEST_PACKETS,
		-- Of Copas: the worker's error handler, the number of timeouts of all threads, and the threads to drop.
		error_handler = nil,
		timeouts = 0,
		removed = host.removed_threads(copas),
		geterrorhandler = geterrorhandler,
		gettimeouts = gettimeouts,
	}
	client:_set_copas(record)
	-- Whether the method was not replaced before, so that the way to the handlers may be shorter.
	record.is_plain = sleeping ~= nil and not record.replaced
	record.handle_packet = packet_handler(record)
	client.handle_received_packet = record.handle_packet
	record.keeper = copas.addthread(function()
		serve(record)
	end)
	return true
end

-- The thread of a timer. A further thread makes each call: an error ends only this thread.
local function count_down(timer)
	local thread, caller = coroutine_running(), nil
	host.know(thread)
	timer._stop = wakeup and function()
		wakeup(thread)
	end
	local left = timer:_left()
	while left do
		host.pause(left)
		left = timer:_left()
		if left == 0 then
			timer:_advance()
			if not caller or coroutine_status(caller) == "dead" or host.is_removed(caller) then
				caller = host.note_thread(copas.addthread(function()
					timer:_run()
				end))
			end
			left = timer:_left()
		end
	end
	timer._stop = nil
end

local function start_timer(timer)
	copas.addthread(function()
		count_down(timer)
	end)
	return timer
end

--- Has a function called again and again, the first time after the given seconds, until it returns `false` or the timer
-- is cancelled. The function may wait; calls that fall into this time are left out. An error that it raises goes to
-- Copas, and the timer goes on.
-- @tparam number seconds the time from one call to the next
-- @tparam function func the function
-- @treturn Timer the timer
function loop.every(seconds, func)
	expect.timer(seconds, func)
	return start_timer(timers.new(seconds, func, seconds))
end

--- Has a function called once, after the given seconds. The function may wait.
-- @tparam number seconds the time until the call
-- @tparam function func the function
-- @treturn Timer the timer
function loop.after(seconds, func)
	expect.timer(seconds, func)
	return start_timer(timers.new(seconds, func))
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

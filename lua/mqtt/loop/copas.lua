--- Adds clients to Copas.
-- @module mqtt.loop.copas

local copas = require("copas")

local expect = require("mqtt.loop.expect")
local host = require("mqtt.host")
local log = require("mqtt.log")

local rawget, setmetatable = rawget, setmetatable
local math_huge = math.huge
local coroutine_create, coroutine_running = coroutine.create, coroutine.running
local coroutine_status, coroutine_yield = coroutine.status, coroutine.yield
local geterrorhandler, gettimeouts, wakeup = copas.geterrorhandler, copas.gettimeouts, copas.wakeup
local give_way, is_turn_over = host.give_way, host.is_turn_over

local loop = {}

-- How many packets a client handles before it looks whether it has to let others run: twice as many after each look,
-- as long as it need not.
local FEWEST_PACKETS = 8
local MOST_PACKETS = 64

-- The record of a client in Copas, `client._copas`, says how it is served. Errors and waits in handlers must stop no
-- client, and a thread for each packet would cost more than all the rest. So the thread that reads calls the handlers
-- too, while another, the stand-in, sleeps. That is woken once for all packets that are handled until Copas comes to
-- it. If the reader then has not come back from a handler, which waits or has raised an error, the stand-in goes on
-- reading, with a new stand-in behind it, and the reader ends with its handler.

-- Copas before 4.4 has no such sleep: there a thread handles a packet.
local has_stand_ins = copas.pauseforever ~= nil
-- Copas 1.x starts a thread within the one that adds it, and takes for ended what yields nothing: it can start again.
local can_start_again = copas.sleep == nil

local serve

local function stand_by(record)
	while not record.handling do
		record.is_called = false
		host.pause_forever()
		if record.client._copas ~= record then
			return
		end
	end
	serve(record)
end

local function leave(record)
	local client = record.client
	if client.handle_received_packet == record.handle_packet then
		client.handle_received_packet = record.replaced
	end
	client._steps = 0
	client._copas = nil
	if has_stand_ins then
		wakeup(record.stand_in)
	end
end

-- To be called before packets are handled: sees to it that somebody looks what becomes of that.
local function begin(record)
	record.handling = true
	if not record.is_called then
		record.is_called = true
		wakeup(record.stand_in)
		record.timeouts = gettimeouts()
	end
end

-- Makes the running thread the reader.
local function become_reader(record)
	local thread = coroutine_running()
	host.know(thread)
	record.reader, record.handling = thread, false
	if has_stand_ins then
		record.error_handler = geterrorhandler(thread)
		-- The stand-in looks when it starts.
		record.is_called, record.timeouts = true, gettimeouts()
		record.stand_in = copas.addthread(stand_by, record)
	end
	return thread
end

-- Whether a thread that has handled a packet may handle another: it still reads, and no handler has left something for
-- it with Copas.
local function may_go_on(record, thread)
	return record.reader == thread and record.timeouts == gettimeouts()
		and geterrorhandler(thread) == record.error_handler
end

-- What a thread does that reads for a client, until that has ended or another thread reads.
function serve(record)
	local thread, client, handle_packet = become_reader(record), record.client, record.handle_packet
	local most = FEWEST_PACKETS
	repeat
		local wait
		if record.is_plain and client.handle_received_packet == handle_packet and client.step == client._own_step then
			begin(record)
			wait = client:_serve(most, record)
			record.handling = record.handling and not may_go_on(record, thread)
		else
			wait = client:step()
		end
		if record.reader ~= thread or record.handling then
			return
		elseif is_turn_over() then
			give_way(client._link)
			most = FEWEST_PACKETS
		elseif most < MOST_PACKETS then
			most = most * 2
		end
		if wait == -1 then
			client:_pause()
		elseif wait and wait > 0 then
			client:_wait(wait)
		end
	until not wait
	leave(record)
end

-- The thread of Copas 1.x that handles the next packet, if there is one that does not wait in a handler.
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

-- Returns what takes the place of `Client:handle_received_packet`.
local function packet_handler(record)
	if not has_stand_ins then
		return function(_, packet)
			return handle_apart(record, packet)
		end
	end
	local handle = record.handle
	return function(client, packet)
		local thread, handling = record.reader, record.handling
		if coroutine_running() ~= thread then
			-- Read by another: what a connector's user feeds, what keep alive has found, or what `start_connecting` has.
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
-- Received packets are handled in order of arrival, each in a thread that does nothing else until its handlers have
-- returned, and then may handle the next one. So a handler may yield, even until a message of its own is acknowledged,
-- while the client goes on receiving, and an error that it raises ends nothing else. All clients together let other
-- threads run every few milliseconds. Handlers that are not called for a packet run in the thread that serves the
-- client: an error that one of them raises ends it, and the client may be added again.
-- @tparam Client client the client
-- @return `true`, or `false` and an error message
function loop.add(client)
	expect.client(client)
	local record = client._copas
	if record and not record.handling and coroutine_status(record.reader) == "dead" then
		leave(record)
	elseif record then
		log:warn("[LuaMQTT] client '%s' was already added to Copas", client.opts.id)
		return false, "MQTT client was already added to Copas"
	end
	record = {
		client = client,
		-- The client's own method, which is replaced, and the one to call.
		replaced = rawget(client, "handle_received_packet"),
		handle = client.handle_received_packet,
		-- The thread that reads, and whether it has gone to handle a packet.
		reader = nil,
		handling = false,
		-- The thread that stands by, and whether it is about to look.
		stand_in = nil,
		is_called = false,
		-- What Copas had for the reader: an error handler, and how many timeouts for all when the stand-in was called.
		error_handler = nil,
		timeouts = 0,
		geterrorhandler = geterrorhandler,
		gettimeouts = gettimeouts,
	}
	client._copas = record
	-- Whether nobody else has replaced it, so that the way to the handlers may be shorter.
	record.is_plain = has_stand_ins and not record.replaced
	record.handle_packet = packet_handler(record)
	client.handle_received_packet = record.handle_packet
	-- The thread that serves it gives way; its steps do not.
	client._steps = -math_huge
	record.reader = copas.addthread(function()
		serve(record)
	end)
	return true
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

--- Adds clients to the event loop of nginx.
-- A client lives in timers of the worker that adds it, a new one for each connection: nginx frees what a timer has used
-- only when that ends. Requests of the worker may use the client too.
-- @module mqtt.loop.nginx

local semaphore = require("ngx.semaphore")

local expect = require("mqtt.loop.expect")
local host = require("mqtt.host")
local log = require("mqtt.log")

local rawget, setmetatable = rawget, setmetatable
local ngx = host.openresty()
local protected = host.protected
local spawn = ngx.thread.spawn

-- How long waiting goes on before it is begun anew, in seconds: "forever" is not to be had.
local LONG = 24 * 60 * 60
-- When to go on after an error that a step has raised, in seconds.
local RETRY_PAUSE = 1
-- After how many packets on a native connection the worker does something else, for as many seconds.
local TURN_PACKETS, TURN_PAUSE = 100, 0.001

local loop = {}

-- What `serve` needs to know about each client of this worker.
local registry = {}

-- The threads that handle packets, each one packet after the other. While one waits in a handler another takes the next
-- packet, so there are as many as handlers have ever waited at once, and one more. A thread for each packet would be
-- simpler, but leaves some memory behind in the timer.
local Workers = {}
Workers.__index = Workers

local function new_workers(handle)
	return setmetatable({
		handle = handle,
		-- Calls to be made: a queue.
		packets = {},
		first = 1,
		last = 0,
		idle = 0,
		news = semaphore.new(),
		-- Whether one of the idle threads has been told of the queue.
		told = false,
		ended = false,
	}, Workers)
end

function Workers:tell()
	if not self.told then
		self.told = true
		self.news:post(1)
	end
end

function Workers:work()
	repeat
		self.idle = self.idle + 1
		while not self.news:wait(LONG) do -- luacheck: ignore 542
			-- go on
		end
		self.told = false
		self.idle = self.idle - 1
		while self.first <= self.last do
			local first = self.first
			local packet = self.packets[first]
			self.packets[first], self.first = nil, first + 1
			-- The next packet's turn comes when this thread waits.
			if self.idle == 0 then
				spawn(self.work, self)
			end
			if self.first <= self.last then
				self:tell()
			end
			protected(self.handle, packet)
		end
	until self.ended
	self:tell()
end

function Workers:add(packet)
	self.last = self.last + 1
	self.packets[self.last] = packet
	self:tell()
end

-- The threads end when they have handled what is in the queue.
function Workers:finish()
	self.ended = true
	self:tell()
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

-- The timer: serves a client until its connection is gone, then starts the next timer.
local function serve(premature, client)
	local record = registry[client]
	if premature then
		return leave(client)
	end
	if client.handle_received_packet ~= record.current then
		-- The program has replaced it meanwhile.
		record.handle_received_packet = client.handle_received_packet
		record.replaced = record.handle_received_packet
	end
	local handle_received_packet = record.handle_received_packet
	local workers = new_workers(function(packet)
		handle_received_packet(client, packet)
	end)
	spawn(workers.work, workers)
	function record.current(_, packet)
		workers:add(packet)
		return true
	end
	client.handle_received_packet = record.current

	local ok, wait
	local packets = 0
	repeat
		ok, wait = protected(client.step, client)
		packets = packets + 1
		if not ok then
			ngx.sleep(RETRY_PAUSE)
			wait = 0
		elseif wait == 0 and client:_token() and packets % TURN_PACKETS == 0 then
			ngx.sleep(TURN_PAUSE)
		elseif wait == -1 then
			client:_pause()
		elseif wait and wait > 0 then
			record.news:wait(wait)
		end
	until not wait or wait == 0 and not (client.connection or client._opening)
	workers:finish()

	local err
	if wait then
		wait, err = ngx.timer.at(0, serve, client)
	end
	if not wait then
		if err then
			ngx.log(ngx.ERR, "MQTT client '", client.opts.id, "' has ended, there is no timer for it: ", err)
		end
		leave(client)
	end
end

--- Adds a client to nginx; it leaves by itself when it has ended. To be called in `init_worker_by_lua`, timers and
-- requests.
--
-- All handlers are called in the client's timer, where `ngx.sleep`, cosockets and light threads are allowed. Each
-- received packet is handled in a light thread that does nothing else meanwhile, in order of arrival. So a handler may
-- wait, even until a message of its own is acknowledged, while the client goes on receiving. Errors that handlers raise
-- are logged.
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
	local ok, err = ngx.timer.at(0, serve, client)
	if not ok then
		return false, "MQTT client cannot be added to nginx, there is no timer for it: " .. err
	end
	local record = {
		-- The client's method, that of the instance, and what stands there now.
		handle_received_packet = client.handle_received_packet,
		current = client.handle_received_packet,
		replaced = rawget(client, "handle_received_packet"),
		replaced_handle = rawget(client, "handle"),
		news = semaphore.new(),
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
	host.shut_down_at_exit(client)
	return true
end

return setmetatable(loop, {
	__call = function(_, client)
		expect.client(client)
		return loop.add(client)
	end,
})

--- The steps of a client: what each event of its link leads to, and what loops call. Methods of `Client`.
--
-- Internal to `mqtt.client`.
--
-- A loop uses of a client: `_serve`, `_wait`, `_pause`, `_wake`, `_wants`, `_token`, `set_ioloop`, and what is
-- documented.

local ending = require("mqtt.client.ending")
local events = require("mqtt.transport.events")
local host = require("mqtt.host")
local incoming = require("mqtt.client.incoming")
local lifecycle = require("mqtt.client.lifecycle")
local log = require("mqtt.log")
local packet = require("mqtt.packet")
local protect = require("mqtt.protect")
local requests = require("mqtt.client.requests")

local math_huge, math_min = math.huge, math.min
local str_format = string.format
local tostring, type = tostring, type
local fail, gone = ending.fail, ending.gone
local raise, try = protect.raise, protect.try
local AUTH, CONNACK, DISCONNECT, PUBLISH = packet.types.AUTH, packet.types.CONNACK, packet.types.DISCONNECT,
	packet.types.PUBLISH

-- What `check_keep_alive` returns where there is no keep alive, in seconds.
local KEEP_ALIVE_OFF = 60
-- How often a client that nobody wakes is asked, in seconds.
local POLL_PAUSE = 0.01
-- How many steps of a client in a thread of the program's there are before other threads have their turn.
local STEPS_PER_TURN = 16
-- How many steps in a row a loop takes of a client whose `step` the program has replaced.
local STEPS_OF_PROGRAM = 64

local steps = {}

-- A message that had to wait will not be sent: the broker does not take it, as the message says. Its callback is not
-- called.
local function dropped(self, packet_id, message)
	local failure = try(nil, requests.forget, self, packet_id, message)
	message = str_format("failed to send what had to wait, packet id %d: %s", packet_id, message)
	log:error("[LuaMQTT] client '%s' %s", self.opts.id, message)
	raise(try(failure, self.handle, self, "error", message, self))
end

-- Deals with a received packet. Returns what `step` returns.
local function received(self, pck)
	if self._receive_packet ~= steps._receive_packet then
		-- The program wants to see what is received, or to change it.
		local err
		self._received = pck
		pck, err = self:_receive_packet()
		self._received = nil
		if not pck then
			local conn = self.connection
			if not conn or err == nil or err == conn.signal_idle then
				-- There may be more behind what the program keeps to itself.
				return conn and 0 or -1
			end
			err = "failed to receive next packet: " .. tostring(err)
			fail(self, err, "error")
			return gone(self, err)
		end
	end
	local ok, err = self:handle_received_packet(pck)
	if ok then
		return 0
	end
	return gone(self, err)
end

-- What each event but packets leads to. The functions return what `step` returns; by default that is 0.
local reactions = {
	opened = lifecycle.opened,
	open_failed = lifecycle.open_failed,
	closed = lifecycle.closed,
	failed = function(self, reason)
		fail(self, reason, "error")
		return gone(self, reason)
	end,
	broken = function(self, reason)
		-- For good.
		self.opts.reconnect = false
		fail(self, reason, "error")
		return gone(self, reason)
	end,
	dropped = function(self, packet_id, message)
		dropped(self, packet_id, message)
		return 0
	end,
	withdrawn = function(self, packet_id, correlation_data)
		requests.forget(self, packet_id)
		self._rpc:withdrawn(correlation_data)
		return 0
	end,
	unrenewed = function(self, message)
		log:error("[LuaMQTT] client '%s' %s", self.opts.id, message)
		self:handle("error", message, self)
		return 0
	end,
	woken = function(self)
		self:_woken()
		return 0
	end,
}

-- Deals with an event, given as `events.pop` returns it. Returns what `step` returns.
function steps:_handle_event(kind, what, more)
	local reaction = reactions[kind]
	if kind == PUBLISH then
		if self.opts.auto_ack then
			incoming.note(what)
		end
	elseif reaction then
		return reaction(self, what, more)
	elseif kind == CONNACK then
		if not what.sp then
			self._session_mt = packet.new_session_mt()
		end
		lifecycle.note_connack(self, what)
	elseif kind == DISCONNECT then
		-- Here, since a thread that handles it later may find another connection.
		return lifecycle.disconnect_received(self, what)
	end
	return received(self, what)
end

-- Calls the handlers and callbacks of a received packet. The Copas and OpenResty loops replace this on the instance, so
-- that handlers may wait while others read; in its thread the connection may be gone already.
-- Returns true, or false and an error message.
function steps:handle_received_packet(pck)
	local ptype = pck.type
	if ptype == PUBLISH then
		incoming.deliver(self, pck)
	elseif ptype == CONNACK then
		return lifecycle.connack_received(self, pck)
	elseif ptype == AUTH then
		self:handle("auth", pck, self)
	else
		incoming.answered(self, pck)
	end
	return true
end

-- Returns the packet that `step` is about to handle. Programs replace this on the instance to see or to change what is
-- received; in place of the packet theirs may return false and an error message, or the connection's `signal_idle`.
function steps:_receive_packet()
	local pck = self._received
	if pck then
		return pck
	end
	return false, self.connection and self.connection.signal_idle or ending.NOT_OPENED
end

-- The link's timer has fired, or somebody has woken those who wait for the link.
function steps:_woken()
	self._wake_at = nil
	if self._waits then
		self._waits:check()
	end
end

-- Ends the waits whose time is over.
local function check_waits(self)
	local waits = self._waits
	if waits and waits.next_timeout then
		waits:check()
	end
end

-- What `step` does with the event that it has got, or without one.
local function finish_step(self, kind, what, more)
	local transport = self._transport
	while not kind or kind == "woken" do
		if kind then
			self:_woken()
		elseif what then
			return what
		elseif not (self.connection or self._opening) then
			local wait, err = lifecycle.connect_in_time(self)
			if wait ~= -1 then
				if err == nil then
					return wait
				end
				return wait, err
			end
		elseif not transport.await(self) then
			return -1
		end
		kind, what, more = transport.next(self)
	end
	return self:_handle_event(kind, what, more)
end

function steps:step()
	local taken = self._steps
	if taken == STEPS_PER_TURN then
		taken = 0
		host.give_way(self)
	end
	self._steps = taken + 1
	local reason, waits = self._closing, self._waits
	if not reason then
		if waits and waits.next_timeout then
			waits:check()
		end
		return finish_step(self, self._transport.next(self))
	elseif ending.is_failing(self) then
		-- A handler waits that is told of the failure. The connection has nothing more to tell.
		check_waits(self)
		return -1
	end
	self.first_connect = ending.is_first_pass(self)
	self:close_connection(reason)
	return gone(self, reason)
end

-- Deals with what has been received up to the failure for which the session has given the connection up: a PINGRESP
-- that is missing, say. Returns the error message.
local function take_failure(self)
	local conn, err = self.connection, nil
	repeat
		local kind, what, more = events.pop(self)
		if kind then
			local _
			_, err = self:_handle_event(kind, what, more)
		end
	until not kind or err or self.connection ~= conn
	return err
end

function steps:check_keep_alive()
	local interval, transport = self.opts.keep_alive, self._transport
	if type(interval) ~= "number" or interval <= 0 then
		interval = KEEP_ALIVE_OFF
	end
	if not self.connection then
		return interval, ending.NOT_OPENED
	end
	local err, soon
	if not self._closing and not transport.hand_over(self, steps.check_keep_alive) then
		soon, err = transport.keep_alive(self)
		if err then
			local _
			_, err = self:_handle_event("failed", err)
		elseif not soon and self._link:is_failed() then
			err = take_failure(self)
		end
		check_waits(self)
	end
	local left = self:_at_most(soon or self._link:deadline() or interval)
	if err then
		return left, err
	end
	return left
end

-- For loops ----------------------------------------------------------------------------------------------------------

-- Takes up to `most` steps, as long as there is something to do and the client stays where it is: on its connection and
-- in its loop. `thread` is the record of a thread of `mqtt.loop.copas`; its field `handling` becomes false before a
-- step that is not for a packet. Returns what the last step returned.
function steps:_serve(most, thread)
	if self.step ~= steps.step then
		-- The program's.
		if thread then
			thread.handling = false
		end
		local loop, left = self.ioloop, thread and 1 or math_min(most, STEPS_OF_PROGRAM)
		local wait, err
		repeat
			wait, err = self:step()
			left = left - 1
		until wait ~= 0 or left == 0 or self.ioloop ~= loop
		return wait, err
	end
	local transport = self._transport
	if not self.connection or self._closing or self.handle ~= incoming.handle
		or self._receive_packet ~= steps._receive_packet
		or not thread and (host.in_copas() or self.handle_received_packet ~= steps.handle_received_packet) then
		if thread then
			thread.handling = false
		end
		return self:step()
	end
	local wait, kind, what, more = incoming.serve(self, most, thread)
	if wait then
		return wait
	elseif thread then
		thread.handling = false
	end
	if not (kind or transport.in_background) then
		kind, what, more = transport.next(self)
	end
	return finish_step(self, kind, what, more)
end

-- For a client with a `_token` whose last step has returned `wait`: returns in how many seconds a loop is to ask it
-- again, after `pause` seconds if there is no other time; nil: its link tells when there is something to do.
function steps:_wants(wait, pause)
	if self._closing or self.step ~= steps.step then
		-- The link has not been seen to be empty, and may wake nobody: a `step` of the program may do anything, and
		-- while a handler is told of a failure the client waits for the thread of that handler, which may die.
		return wait > 0 and wait or pause
	end
end

-- Returns the link's number in `core.next_ready`, or nil: a loop has to ask such a client.
function steps:_token()
	return self._transport.token(self)
end

-- Waits until `step` has something to do, or for some seconds; not while a connector has a connection, since only the
-- connector can tell.
function steps:_wait(seconds)
	self._transport.wait(self, seconds)
end

-- Has `step` called, by a loop that waits for the link: at once, or after some seconds.
function steps:_wake(seconds)
	if seconds then
		self._link:wake_after(seconds)
	else
		self._link:wake()
	end
end

-- Waits a little before the next step of a client that nobody wakes.
function steps:_pause()
	if not host.pause(POLL_PAUSE) then
		self._link:wait(POLL_PAUSE)
	end
end

-- In how many seconds something has to be looked at: the given time, or less if a wait ends before.
function steps:_at_most(seconds)
	if self._waits then
		return self._waits:at_most(seconds)
	end
	return seconds
end

-- Whether the client has a connection, or is opening one.
function steps:_is_busy()
	return (self.connection or self._opening) ~= nil
end

-- Returns the connection table of the last connector, or nil.
function steps:_last_connection()
	return self._connected
end

-- Remembers the loop that the client was added to.
function steps:set_ioloop(loop)
	self.ioloop = loop
	self:_note_move()
end

-- Notes by which record `mqtt.loop.copas` serves the client, or nil. The thread that serves it gives way then; its
-- steps do not.
function steps:_set_copas(record)
	self._copas, self._steps = record, record and -math_huge or 0
end

-- Returns that record, or nil.
function steps:_get_copas()
	return self._copas
end

-- Lets each `_serve` that is at work know that the client leaves its connection or its loop, or is not alone there.
function steps:_note_move()
	if self.connection then
		self._moves = self._moves + 1
	end
end

return steps

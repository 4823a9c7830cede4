--- The steps of a client: the reactions to each event of its link, and the methods that loops call. Methods of
-- `Client`.
--
-- Internal to `mqtt.client`.
--
-- A loop uses these methods of a client: `_serve`, `_wait`, `_pause`, `_wake`, `_wants`, `_token`, `set_ioloop`, and
-- the documented methods.

local core = require("mqtt.core")
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
local require, tostring, type = require, tostring, type
local fail, gone = ending.fail, ending.gone
local raise, try = protect.raise, protect.try
local AUTH, CONNACK, DISCONNECT, PUBLISH = packet.types.AUTH, packet.types.CONNACK, packet.types.DISCONNECT,
	packet.types.PUBLISH

-- The result of `check_keep_alive` where there is no keep alive, in seconds.
local KEEP_ALIVE_OFF = 60
-- How often a loop asks a client that nobody wakes, in seconds.
local POLL_PAUSE = 0.01
-- After this many steps of a client in a thread of the program, other threads have their turn.
local STEPS_PER_TURN = 16
-- How many steps in a row a loop takes of a client whose `step` the program has replaced.
local STEPS_OF_PROGRAM = 64

local steps = {}

-- The broker does not accept a message that had to wait, as the error message says: the message is dropped, and its
-- callback is not called.
local function dropped(self, packet_id, message)
	local failure = try(nil, requests.forget, self, packet_id, message)
	message = str_format("failed to send what had to wait, packet id %d: %s", packet_id, message)
	ending.log_error(self, message)
	raise(try(failure, self.handle, self, "error", message, self))
end

-- Deals with a received packet. Returns the results of `step`.
local function received(self, pck)
	if self._receive_packet ~= steps._receive_packet then
		-- The program has replaced the method, to see or to change received packets.
		local err
		self._received = pck
		pck, err = self:_receive_packet()
		self._received = nil
		if not pck then
			local conn = self.connection
			if not conn or err == nil or err == conn.signal_idle then
				-- The program may have kept a packet to itself: there may be more behind it.
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

-- The reaction to each event that is no packet. The functions return the result of `step`.
local reactions = {
	opened = lifecycle.opened,
	open_failed = lifecycle.open_failed,
	closed = lifecycle.closed,
	failed = function(self, reason)
		fail(self, reason, "error")
		return gone(self, reason)
	end,
	broken = function(self, reason)
		-- A broken link stays broken: no reconnect.
		self.opts.reconnect = false
		fail(self, reason, "error")
		return gone(self, reason)
	end,
	dropped = function(self, packet_id, message)
		dropped(self, packet_id, message)
		return 0
	end,
	identified = function(self, packet_id, kept)
		self._keeping.identified(self, packet_id, kept.sequence, kept.tag)
		return 0
	end,
	discarded = function(self, message)
		require("mqtt.client.dropped")(self, { message })
		return 0
	end,
	withdrawn = function(self, packet_id, correlation_data)
		requests.forget(self, packet_id)
		self._rpc:withdrawn(correlation_data)
		return 0
	end,
	unrenewed = function(self, message)
		ending.log_error(self, message)
		self:handle("error", message, self)
		return 0
	end,
	unacknowledged = function(self, count)
		log:warn("[LuaMQTT] client '%s' has %d messages that wait for Client:acknowledge: the broker may send no more "
			.. "before. Acknowledge each message, or set the option auto_ack", self.opts.id, count)
		return 0
	end,
	woken = function(self)
		self:_woken()
		return 0
	end,
}

-- Handles an event, given as `events.pop` returns it. Returns the result of `step`.
function steps:_handle_event(kind, what, more)
	if kind == PUBLISH then
		if self.opts.auto_ack then
			incoming.note(what)
		end
	elseif reactions[kind] then
		return reactions[kind](self, what, more)
	elseif kind == CONNACK then
		if not what.sp then
			self._session_mt = packet.new_session_mt()
		end
		lifecycle.note_connack(self, what)
	elseif kind == DISCONNECT then
		-- At once: a thread that handles the packet later may find another connection.
		return lifecycle.disconnect_received(self, what)
	end
	return received(self, what)
end

-- Calls the handlers and callbacks of a received packet. The Copas and OpenResty loops replace this on the instance, so
-- that handlers may wait while others read. In such a thread the connection may be gone already. Returns true, or false
-- and an error message.
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

-- Returns the packet that `step` is about to handle. Programs replace this on the instance to see or to change received
-- packets. Instead of the packet, a program's function may return false and an error message, or the connection's
-- `signal_idle`.
function steps:_receive_packet()
	local pck = self._received
	if pck then
		return pck
	end
	return false, self.connection and self.connection.signal_idle or ending.NOT_OPENED
end

-- The link's timer has fired, or somebody has woken the link's waiters.
function steps:_woken()
	self._wake_at = nil
	if self._waits then
		self._waits:check()
	end
end

-- Handles the event that `step` has got, or takes one.
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
	if reason and not ending.is_failing(self) then
		self.first_connect = ending.is_first_pass(self)
		self:close_connection(reason)
		return gone(self, reason)
	end
	if waits and waits.next_timeout then
		waits:check()
	end
	if reason then
		-- A handler is still being told of the failure, and waits. The connection has nothing more to tell.
		return -1
	end
	return finish_step(self, self._transport.next(self))
end

-- Handles everything received before the failure for which the session has given the connection up, such as a missing
-- PINGRESP. Returns the error message.
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
	local err, soon, waits
	if not self._closing and not transport.hand_over(self, steps.check_keep_alive) then
		soon, err = transport.keep_alive(self)
		if err then
			local _
			_, err = self:_handle_event("failed", err)
		elseif not soon and self._link:is_failed() then
			err = take_failure(self)
		end
		waits = self._waits
		if waits and waits.next_timeout then
			waits:check()
		end
	end
	local left = self:_at_most(soon or self._link:deadline() or interval)
	if err then
		return left, err
	end
	return left
end

-- For loops ----------------------------------------------------------------------------------------------------------

-- Takes up to `most` steps, as long as there is something to do and the client stays on its connection and in its loop.
-- `thread` is the record of a thread of `mqtt.loop.copas`; its field `handling` becomes false before a step that
-- handles no packet. Returns the results of the last step.
function steps:_serve(most, thread)
	if self.step ~= steps.step then
		-- The program has replaced `step`.
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

-- For a client with a `_token` whose last step has returned `wait`: returns the seconds after which a loop is to ask
-- the client again, `pause` if there is no other time. Nil means that the link tells when there is something to do.
function steps:_wants(wait, pause)
	if self._closing or self.step ~= steps.step then
		-- The link has not been seen to be empty, and may wake nobody. A `step` of the program may do anything. While a
		-- handler is told of a failure, the client waits for the handler's thread, which may die.
		return wait > 0 and wait or pause
	end
end

-- Returns the link's number in `core.next_ready`. Nil if a loop has to ask the client, also if the loop is of another
-- copy of the library, which has another `core`.
function steps:_token(of)
	return of == core and self._transport.token(self) or nil
end

-- Waits until `step` has something to do, or for some seconds. Does not wait while a connector has a connection, since
-- only the connector can tell.
function steps:_wait(seconds)
	self._transport.wait(self, seconds)
end

-- Has a loop that waits for the link call `step`: at once, or after some seconds.
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

-- The seconds until something is due: the given time, or less if a wait ends before.
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

-- Notes the record by which `mqtt.loop.copas` serves the client, or nil. The thread that serves the client gives way
-- then; the steps of the client do not.
function steps:_set_copas(record)
	self._copas, self._steps = record, record and -math_huge or 0
end

-- Returns that record, or nil.
function steps:_get_copas()
	return self._copas
end

-- Tells each `_serve` at work that the client leaves its connection or its loop, or shares its loop from now on.
function steps:_note_move()
	if self.connection then
		self._moves = self._moves + 1
	end
end

return steps

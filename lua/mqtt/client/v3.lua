-- What only programs for luamqtt 3.x call, and `mqtt.run_sync`: methods of `Client`.
-- Internal to `mqtt.client`.

local math_min = math.min
local select = select

-- How long one wait for anything takes, in seconds.
local IDLE_WAIT = 1

local Client = {}

-- Remembers the loop that the client was added to.
function Client:set_ioloop(loop)
	self.ioloop = loop
	self:_note_move()
end

-- Returns true, or false and an error message when the client has ended.
local function result_of(wait, err)
	if err == nil then
		return wait ~= nil
	end
	return wait ~= nil, err
end

-- One step of a loop; without a loop it waits for something to do. Returns true, or false and an error message when the
-- client has ended.
function Client:_ioloop_iteration()
	if not self.ioloop then
		return self:_sync_iteration()
	end
	return result_of(self:step())
end

-- Waits for something to do and does it. Returns true, or false and an error message when the client has ended.
function Client:_sync_iteration()
	local conn = self.connection
	-- What the program has given to the connector's `settimeout`.
	local longest = conn and conn.longest_wait
	self:_wait(longest or IDLE_WAIT)
	conn = not self._token and self.connection
	if conn then
		-- For connectors that can wait: until keep alive wants something, or the program has waited long enough.
		local deadline = self._link:deadline()
		conn.receive_timeout = self:_at_most(longest and math_min(longest, deadline or longest) or deadline) or false
	end
	local wait, err = self:step()
	if conn then
		conn.receive_timeout = nil
	end
	if wait == -1 and not self._token then
		self:_pause()
		err = select(2, self:check_keep_alive())
		if err then
			return false, err
		end
	end
	return result_of(wait, err)
end

return Client

--- Methods of `Client` that only programs for luamqtt 3.x call, and `mqtt.run_sync`.
-- Internal to `mqtt.client`.

-- How long one wait for anything takes, in seconds.
local IDLE_WAIT = 1

local v3 = {}

-- Returns true, or false and an error message when the client has ended.
local function result_of(wait, err)
	if err == nil then
		return wait ~= nil
	end
	return wait ~= nil, err
end

-- One step of a loop; without a loop it waits for something to do. Returns true, or false and an error message when the
-- client has ended.
function v3:_ioloop_iteration()
	if not self.ioloop then
		return self:_sync_iteration()
	end
	return result_of(self:step())
end

-- Waits for something to do and does it. Returns true, or false and an error message when the client has ended.
function v3:_sync_iteration()
	-- The time limit that the program has set by the connector's `settimeout`.
	local own = self.connection and self.connection.longest_wait
	return result_of(self._transport.iterate(self, own or IDLE_WAIT, own))
end

return v3

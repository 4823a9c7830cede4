--- How to wait for a link without blocking the program that the client lives in.
-- Internal: programs use `Client:step` and `Client:getfd`.

local coroutine_running = coroutine.running

local host = {}

-- What Copas takes for a socket: its descriptor is the link's, and there is something to read when the link has news.
-- Copas closes what it thinks is a connection when a thread ends, hence `close`.
local Readable = {}
Readable.__index = Readable

function Readable:getfd()
	return self.fd
end

function Readable.dirty()
	return false
end

function Readable.settimeout() end
function Readable.close() end

function Readable:receive()
	if self.link:has_events() then
		return true
	end
	return nil, "timeout"
end

--- Tells whether the caller may yield to its event loop: in a Copas thread.
-- @return Copas, or nil
function host.can_yield()
	local copas = package.loaded.copas
	if copas then
		local thread, is_main = coroutine_running()
		return thread and not is_main and copas or nil
	end
end

--- Waits for news of a link by yielding, if that can be done.
-- @param link the link
-- @treturn boolean whether it has waited
function host.wait(link)
	local copas = host.can_yield()
	if not copas then
		return false
	end
	copas.receive(setmetatable({ link = link, fd = assert(link:getfd()) }, Readable), 1)
	return true
end

return host

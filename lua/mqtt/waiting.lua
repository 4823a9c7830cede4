--- Waiting for the answers to requests: methods of the client.
-- @submodule Client

local arguments = require("mqtt.client.arguments")
local v50 = require("mqtt.const").v50
local host = require("mqtt.host")

local core = require("mqtt.core")

local codec = core.codec
local error, tostring, type = error, tostring, type

-- The least reason code that refuses.
local REFUSED = core.reason_codes.refused

local Client = {}

-- Returns the packet that answers a request, or nil, an error message and the packet if the request was refused.
function Client._judge(answer)
	local rc = answer.rc
	if type(rc) == "table" then
		rc = rc[1]
	end
	if not rc or rc < REFUSED then
		return answer
	end
	local names = answer.reason_strings and answer:reason_strings()
	return nil, names and names[1] or codec[v50].reason_names(answer.type)[rc] or "Unknown: " .. rc, answer
end

-- Whether there is no connection, and will be none unless the program does something for it.
function Client:_has_ended()
	return not (self.connection or self._opening or self.opts.reconnect or self.first_connect)
end

--- Makes a request and returns when it has been answered.
--
-- In a thread of Copas, in nginx and in any other coroutine this yields, so the client has to be served by a loop. A
-- coroutine that belongs to nobody else is resumed by the client; see the guide on waiting. Outside of coroutines it
-- serves the client itself meanwhile, and nothing else: in a handler, further packets are handled before this returns.
--
-- What is waited for goes on over a lost connection if the client reconnects. It fails if there will be no other
-- connection, or at `Client:disconnect`.
-- @tparam string what "connect", "subscribe", "unsubscribe" or "publish". A client that has no connection, and would
-- not open one, begins to connect by "connect"; one that has been accepted already waits for nothing
-- @tparam[opt] table opts options of that method; also:
-- @tparam[opt] number opts.timeout so many seconds it may take; that does not take the request back
-- @treturn[1] table the answer: CONNACK, SUBACK, UNSUBACK, PUBACK or PUBREC; true for a message of QoS 0
-- @return[2] nil
-- @treturn[2] string error message; "timeout"
-- @treturn[2] table the packet that says so, if there is one: a CONNACK that refuses, an answer with a reason code of
-- 0x80 or above, the broker's DISCONNECT
-- @usage
-- assert(client:await("connect"))
-- assert(client:await("subscribe", { topic = "jobs/#", qos = 1 }))
-- local puback, err = client:await("publish", { topic = "hello", qos = 1, timeout = 5 })
function Client:await(what, opts)
	opts = opts or what == "connect" and {} or opts
	local problem
	if what ~= "connect" and not arguments.is_request(what) then
		problem = "expecting 'connect', 'subscribe', 'unsubscribe' or 'publish', got: " .. tostring(what)
	elseif type(opts) ~= "table" then
		problem = "expecting opts to be a table"
	else
		problem = arguments.timeout(opts.timeout)
			or what ~= "connect" and arguments.request(what, opts, self._version)
	end
	if problem then
		error(problem, 2)
	end
	local sleep, wake = host.sleeper()
	if sleep == false then
		return nil, wake
	elseif what == "connect" then
		local connack = self.connection and self.connection.connack
		if connack and connack.rc == 0 then
			return connack
		elseif self:_has_ended() then
			self.first_connect = true
		end
		return self:_wait_for(self:_begin_wait(opts.timeout, "connect"), sleep, wake)
	elseif self:_has_ended() then
		return nil, "network connection is not opened"
	end
	local wait = self:_begin_wait(opts.timeout)
	local ok, err = self:_ask(what, opts, function(answer, lost)
		if lost then
			self:_end_wait(wait, nil, lost)
		elseif type(answer) == "table" then
			self:_end_wait(wait, self._judge(answer))
		else
			self:_end_wait(wait, true)
		end
	end)
	if not ok then
		self:_end_wait(wait, nil, err)
	end
	return self:_wait_for(wait, sleep, wake)
end

return Client

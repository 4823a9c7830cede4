--- Waiting for the answers to requests. `Client:await` is documented in `mqtt.client`.
-- Internal to `mqtt.client`.

local arguments = require("mqtt.client.arguments")
local core = require("mqtt.core")
local ending = require("mqtt.client.ending")
local fields = require("mqtt.client.fields")
local host = require("mqtt.host")
local requests = require("mqtt.client.requests")
local v50 = require("mqtt.const").v50
local Waits = require("mqtt.client.waits")

local codec = core.codec
local error, ipairs, tostring, type = error, ipairs, tostring, type

local await = {
	--- The least reason code of a refusal.
	REFUSED = core.reason_codes.refused,
}

--- Judges the answer to a request.
-- @tparam table answer the packet
-- @treturn[1] table the packet
-- @return[2] nil: the request was refused
-- @treturn[2] string error message
-- @treturn[2] table the packet
function await.judge(answer)
	local rc = answer.rc
	if type(rc) == "table" then
		rc = rc[1]
	end
	if not rc or rc < await.REFUSED then
		return answer
	end
	local names = answer.reason_strings and answer:reason_strings()
	return nil, names and names[1] or codec[v50].reason_names(answer.type)[rc] or "Unknown: " .. rc, answer
end

--- Whether there is no connection, and will be none unless the program opens one.
-- @tparam Client client the client
-- @treturn boolean
function await.has_ended(client)
	return not (client.connection or client._opening or client.opts.reconnect or client.first_connect)
end

-- The options by what is waited for: the options of the method, and `timeout`.
local OPTIONS = { connect = { timeout = true } }
for _, method in ipairs({ "publish", "subscribe", "unsubscribe" }) do
	OPTIONS[method] = fields.with(fields[method], OPTIONS.connect)
end

function await.await(client, what, opts)
	opts = opts or what == "connect" and {} or opts
	local problem
	if not OPTIONS[what] then
		problem = "expecting 'connect', 'subscribe', 'unsubscribe' or 'publish', got: " .. tostring(what)
	elseif type(opts) ~= "table" then
		problem = "expecting opts to be a table"
	else
		problem = fields.strict("opts", opts, OPTIONS[what]) or arguments.timeout(opts.timeout)
			or what ~= "connect" and arguments.request(what, opts, client._version)
	end
	if problem then
		error(problem, 2)
	end
	local sleep, wake = host.sleeper()
	if sleep == false then
		return nil, wake
	elseif what == "connect" then
		local connack = client.connection and client.connection.connack
		if connack and connack.rc == 0 then
			return connack
		elseif await.has_ended(client) then
			client.first_connect = true
		end
		local waits = Waits.of(client)
		return waits:await(waits:begin(opts.timeout, "connect"), sleep, wake)
	elseif await.has_ended(client) then
		return nil, ending.NOT_OPENED
	end
	local waits = Waits.of(client)
	local wait = waits:begin(opts.timeout)
	local ok, err = requests.ask(client, what, opts, function(answer, lost)
		if lost then
			waits:finish(wait, nil, lost)
		elseif type(answer) == "table" then
			waits:finish(wait, await.judge(answer))
		else
			waits:finish(wait, true)
		end
	end)
	if not ok then
		waits:finish(wait, nil, err)
	end
	return waits:await(wait, sleep, wake)
end

return await

-- The client of this worker, and the handlers of the locations in nginx.conf.

local mqtt = require("mqtt")
local add_client = require("mqtt.loop").add

local app = {}

local client
local messages = {}

-- Called once for each worker. The client connects, and reconnects, in the background.
function app.start()
	client = mqtt.client {
		uri = os.getenv("MQTT_URI") or "mqtt://localhost",
		clean = true,
		reconnect = 5,
	}
	client:on {
		connect = function(connack)
			if connack.rc == 0 then
				assert(client:subscribe { topic = "luamqtt/#", qos = 1 })
			end
		end,
		message = function(message)
			messages[#messages + 1] = message.topic .. " " .. (message.payload or "")
			client:acknowledge(message)
		end,
		error = function(err)
			ngx.log(ngx.WARN, err)
		end,
	}
	assert(add_client(client))
end

-- Publishes what has been POSTed, and waits for the broker's acknowledgement.
function app.publish()
	ngx.req.read_body()
	local acknowledged = require("ngx.semaphore").new()
	local packet_id, err = client:publish {
		topic = ngx.var.arg_topic or "luamqtt/test",
		payload = ngx.req.get_body_data(),
		qos = 1,
		callback = function()
			acknowledged:post(1)
		end,
	}
	if not packet_id then
		ngx.status = ngx.HTTP_SERVICE_UNAVAILABLE
		ngx.say(err)
	elseif not acknowledged:wait(10) then
		ngx.status = ngx.HTTP_GATEWAY_TIMEOUT
		ngx.say("no acknowledgement yet")
	else
		ngx.say("published")
	end
end

-- Shows the received messages.
function app.show_messages()
	for _, message in ipairs(messages) do
		ngx.say(message)
	end
end

return app

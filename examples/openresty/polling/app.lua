-- The client of this worker, and the handlers of the locations in nginx.conf.

local mqtt = require("mqtt")

local app = {}

local client
local messages = {}

-- The timer of the client. It never blocks the worker: connecting, TLS and keep alive run in the background.
local function serve(premature)
	local wait = 0
	while wait and not premature do
		local packets = 0
		repeat
			wait = client:step()
			packets = packets + 1
		until wait ~= 0 or packets == 100
		-- Lets the worker do other work, then looks again.
		ngx.sleep(wait == 0 and 0.001 or 0.01)
		if ngx.worker.exiting() then
			client:shutdown()
		end
	end
end

-- Called once for each worker.
function app.start()
	client = mqtt.client {
		uri = os.getenv("MQTT_URI") or "mqtt://localhost",
		clean = true,
		reconnect = 5,
		connector = require("mqtt.connector.native"),
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
	assert(ngx.timer.at(0, serve))
end

-- Publishes the body of a POST. The client repeats the message until it is acknowledged.
function app.publish()
	ngx.req.read_body()
	local packet_id, err = client:publish {
		topic = ngx.var.arg_topic or "luamqtt/test",
		payload = ngx.req.get_body_data(),
		qos = 1,
	}
	if packet_id then
		ngx.say("published")
	else
		ngx.status = ngx.HTTP_SERVICE_UNAVAILABLE
		ngx.say(err)
	end
end

-- Shows the received messages.
function app.show_messages()
	for _, message in ipairs(messages) do
		ngx.say(message)
	end
end

return app

-- A dashboard: the handlers of the locations in nginx.conf. The client of this worker collects the last message of each
-- topic, and pages get each message as it comes, by Server-Sent Events.

local mqtt = require("mqtt")
local semaphore = require("ngx.semaphore")

local app = {}

-- How many topics are kept for pages that are opened later, and how many messages for a slow page.
local MOST_TOPICS = 1000
local MOST_WAITING = 1000

-- The last payload by topic, and the number of topics.
local last, topics = {}, 0
-- The open pages: `{ waiting = { message, ... }, signal = semaphore }` each.
local pages = {}

-- Returns a message as an event: lines of data, the topic first. Line ends inside become lines of their own.
local function to_event(topic, payload)
	return "data: " .. (topic .. "\n" .. payload):gsub("\r\n?", "\n"):gsub("\n", "\ndata: ") .. "\n\n"
end

-- Called once for each worker. The client connects, and reconnects, in the background.
function app.start()
	local client = mqtt.client {
		uri = os.getenv("MQTT_URI") or "mqtt://localhost",
		clean = true,
		reconnect = 5,
	}
	client:on {
		connect = function(connack)
			if connack.rc == 0 then
				assert(client:subscribe { topic = os.getenv("MQTT_TOPIC") or "#" })
			end
		end,
		message = function(message)
			local topic, payload = message.topic, message.payload or ""
			if last[topic] or topics < MOST_TOPICS then
				topics = last[topic] and topics or topics + 1
				last[topic] = payload
			end
			for page in pairs(pages) do
				if #page.waiting < MOST_WAITING then
					table.insert(page.waiting, to_event(topic, payload))
					page.signal:post(1)
				end
			end
		end,
		error = function(err)
			ngx.log(ngx.WARN, err)
		end,
	}
	assert(require("mqtt.loop").add(client))
end

-- Sends messages to a page until it is closed.
function app.send_events()
	ngx.header.content_type = "text/event-stream"
	ngx.header.cache_control = "no-store"
	local page = { waiting = {}, signal = semaphore.new() }
	for topic, payload in pairs(last) do
		table.insert(page.waiting, to_event(topic, payload))
	end
	pages[page] = true
	repeat
		-- Without a message the page gets a comment, which fails if the page has been closed.
		local text = page.waiting[1] and table.concat(page.waiting) or ":\n\n"
		page.waiting = {}
		local ok = ngx.print(text) and ngx.flush(true)
		if ok and not page.waiting[1] then
			-- The signal has a post for each message; all waiting messages are sent at once.
			page.signal:wait(1)
			page.signal:wait(0)
		end
	until not ok or ngx.worker.exiting()
	pages[page] = nil
end

return app

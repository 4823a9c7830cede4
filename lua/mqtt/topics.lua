-- Checks topic names and topic filters, and matches a name against a filter. The rules are in `src/codec/topic.rs`.

--- Topic names and topic filters (4.7).
-- @module mqtt.topics
local topics = {}

local type = type
local core = require("mqtt.core")

local function validate(topic, check)
	if type(topic) ~= "string" then
		return false, "expecting topic to be a string, got: " .. type(topic)
	end
	local err = check(topic)
	if err then
		return false, err
	end
	return topic
end

--- Checks a topic filter, as `subscribe` takes it: wildcards are allowed (4.7.1).
-- @tparam string topic topic filter
-- @treturn[1] string the topic filter
-- @treturn[2] boolean false
-- @treturn[2] string the broken rule
-- @usage local filter = assert(mqtt.validate_subscribe_topic("home/+/thermostat/#"))
function topics.validate_subscribe_topic(topic)
	return validate(topic, core.check_topic_filter)
end

--- Checks a topic name, as `publish` takes it: wildcards are not allowed [MQTT-3.3.2-2].
-- @tparam string topic topic name
-- @treturn[1] string the topic name
-- @treturn[2] boolean false
-- @treturn[2] string the broken rule
-- @usage local topic = assert(mqtt.validate_publish_topic("home/living/thermostat/setpoint"))
function topics.validate_publish_topic(topic)
	return validate(topic, core.check_topic_name)
end

-- The Lua pattern of each wildcard.
local WILDCARDS = { ["+"] = "([^/]-)", ["#"] = "(.-)" }

local function level_pattern(level)
	return WILDCARDS[level] or level:gsub("[%^%$%(%)%%%.%[%*%+%-%?\\]", "%%%0")
end

--- Translates a topic filter into a Lua pattern. The pattern captures the levels that the wildcards stand for.
-- @tparam string topic topic filter
-- @treturn[1] string Lua pattern
-- @treturn[2] boolean false
-- @treturn[2] string the rule that the topic filter breaks
-- @usage
-- local pattern = mqtt.compile_topic_pattern("homes/+/+/#")
-- local home, room, rest = ("homes/mine/living/light/level"):match(pattern)
function topics.compile_topic_pattern(topic)
	local ok, err = topics.validate_subscribe_topic(topic)
	if not ok then
		return false, err
	end
	if topic == "#" then -- a topic name has at least one character [MQTT-4.7.3-1]
		return "^(.+)$"
	end
	return "^" .. topic:gsub("[^/]+", level_pattern) .. "$"
end

-- The levels of a part of a topic name.
local function split(part)
	local levels = {}
	for level in (part .. "/"):gmatch("([^/]*)/") do
		levels[#levels + 1] = level
	end
	return levels
end

--- Matches a topic name against a topic filter, and returns the levels that the wildcards stand for.
-- @tparam string topic topic name
-- @tparam table opts options
-- @tparam[opt] string opts.topic topic filter; may be absent if there is a pattern
-- @tparam[opt] string opts.pattern Lua pattern from `compile_topic_pattern`. If it is absent, it is compiled from
--   `opts.topic` and stored in this field for the next call
-- @tparam[opt] table opts.keys names of the wildcards, in their order
-- @treturn[1] table the part of the topic name for each wildcard, as an array and by the names of `opts.keys`
-- @treturn[1] table the levels that `#` stands for; empty if the filter has no `#`
-- @treturn[2] boolean false: no match
-- @treturn[3] boolean false: bad arguments
-- @treturn[3] string error
-- @usage
-- local opts = { topic = "homes/+/+/#", keys = { "home", "room" } }
-- local fields, levels = mqtt.topic_match("homes/mine/living/light/level", opts)
-- print(fields.home, fields[2], fields[3]) --> mine living light/level
-- print(levels[1], levels[2]) --> light level
function topics.topic_match(topic, opts)
	if type(topic) ~= "string" then
		return false, "expecting topic to be a string, got: " .. type(topic)
	end
	if type(opts) ~= "table" then
		return false, "expecting opts to be a table, got: " .. type(opts)
	end
	local keys = opts.keys
	if keys ~= nil and type(keys) ~= "table" then
		return false, "expecting opts.keys to be a table, got: " .. type(keys)
	end
	local pattern = opts.pattern
	if not pattern then
		if opts.topic == nil then
			return false, "expecting opts.topic or opts.pattern to be set"
		end
		local err
		pattern, err = topics.compile_topic_pattern(opts.topic)
		if not pattern then
			return false, "invalid opts.topic: " .. err
		end
		opts.pattern = pattern
	end

	local fields = { topic:match(pattern) }
	local count = #fields
	if count == 0 then
		return false
	end
	if keys then
		for i = 1, count do
			local key = keys[i]
			if key ~= nil then
				fields[key] = fields[i]
			end
		end
	end
	if pattern:find("%(%.[%-%+]%)%$$") then -- ends in the capture of `#`
		return fields, split(fields[count])
	end
	return fields, {}
end

return topics

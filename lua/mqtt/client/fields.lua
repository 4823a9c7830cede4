--- The fields of the tables that a program gives to the methods of a client: a misspelt field is no silent loss.
-- Internal. A field that is close to a known field raises an error; any other unknown field is said once in the log,
-- since programs for the originals may keep fields of their own in such tables. Fields that come from a metatable are
-- not looked at.

local log = require("mqtt.log")

require("mqtt.later") { "mqtt.client.spelling" }

local each, ipairs, raw_next, require, tostring, type = pairs, ipairs, next, require, tostring, type

local fields = {}

-- The names of known fields, by what they are fields of: true for a name that a program may have misspelt, false for a
-- field that is allowed and not looked for.
local PUBLISH = {
	topic = true, payload = true, qos = true, retain = true, properties = true, user_properties = true, callback = true,
	-- Of a received message that a program passes on.
	type = false, dup = false, packet_id = false,
	-- Of clients with a store.
	tag = false, expire = false,
}
local SUBSCRIBE = {
	topic = true, qos = true, no_local = true, retain_as_published = true, retain_handling = true, properties = true,
	user_properties = true, callback = true,
}
local UNSUBSCRIBE = { topic = true, properties = true, user_properties = true, callback = true }
-- The table of the subscription may serve for both.
for name in each(SUBSCRIBE) do
	UNSUBSCRIBE[name] = UNSUBSCRIBE[name] or false
end
fields.publish, fields.subscribe, fields.unsubscribe = PUBLISH, SUBSCRIBE, UNSUBSCRIBE
fields.will = {
	topic = true, payload = true, qos = true, retain = true, properties = true, user_properties = true,
}

--- Returns a copy of a table with further fields.
-- @tparam ?table table the table
-- @tparam table more further fields
-- @treturn table the copy
function fields.with(table, more)
	local copy = {}
	for key, value in each(table or {}) do
		copy[key] = value
	end
	for key, value in each(more) do
		copy[key] = value
	end
	return copy
end

--- Returns the end of an error message on an unknown field: which field the program may have meant.
-- @param name the name of the unknown field
-- @tparam table known the known names
-- @treturn string the words; empty where no known name is near
function fields.hint(name, known)
	return require("mqtt.client.spelling").hint(name, known)
end

--- Checks a table in which every field has to be known. Returns an error message, or nil.
-- @tparam string what what the error message calls the table
-- @tparam table opts the table
-- @tparam table known the known names
-- @treturn string the error message
function fields.strict(what, opts, known)
	for name in raw_next, opts do
		if known[name] == nil then
			return "unexpected key in " .. what .. ": " .. tostring(name) .. fields.hint(name, known)
		end
	end
end

-- By the table of known names: the names of unknown fields that the log has, as keys and as a list, and of these the
-- names that are no misspellings. A program may make names without end.
local said, harmless = {}, {}
local MOST_SAID = 100

for _, method in ipairs({ "publish", "subscribe", "unsubscribe", "will" }) do
	said[fields[method]], harmless[fields[method]] = {}, {}
end

--- Fields that `Client:publish` does not read, and that need no check any more: true for each.
fields.ignored = harmless[PUBLISH]
fields.ignored.type = true

local function say(method, name)
	local names = said[fields[method]]
	if not names[name] and #names < MOST_SAID then
		names[name], names[#names + 1] = true, name
		log:warn("[LuaMQTT] unknown key in the table for %s: %s%s", method, name, fields.hint(name, fields[method]))
		return true
	end
end

--- Checks a table in which a program may keep fields of its own. A misspelt field gives an error message unless the
-- table has the known field too; other unknown fields are said in the log, once for each name.
-- @tparam string method what the table is for: "publish", "subscribe", "unsubscribe" or "will"
-- @tparam table opts the table
-- @treturn string the error message, or nil
function fields.lenient(method, opts)
	local known = fields[method]
	for name in raw_next, opts do
		if known[name] ~= nil or harmless[known][name] then -- luacheck: ignore 542
			-- Most fields end here.
		elseif type(name) ~= "string" then
			say(method, "[" .. (type(name) == "number" and tostring(name) or type(name)) .. "]")
		else
			local meant = require("mqtt.client.spelling").closest(name, known)
			if meant and opts[meant] == nil then
				local what = known == fields.will and "will" or "opts"
				return "unexpected key in " .. what .. ": " .. name .. fields.hint(name, known)
			elseif say(method, name) and not meant then
				harmless[known][name] = true
			end
		end
	end
end

return fields

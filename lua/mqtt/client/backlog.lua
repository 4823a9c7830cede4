--- The fields of the options `queue` and `store`.
-- Internal to `mqtt.client`. Loaded when a client has such an option.

local fields = require("mqtt.client.fields")

local each, ipairs, tostring, type = pairs, ipairs, tostring, type
local math_floor, math_huge, str_format, table_concat = math.floor, math.huge, string.format, table.concat

-- The fields of the options queue and store: the largest whole number, the allowed strings, or what it is in words.
local WHEN_FULL = { "reject", "drop_oldest" }
local QUEUE = {
	max_messages = 0xFFFFFFFF, max_bytes = 0xFFFFFFFF, when_full = WHEN_FULL,
	expire = "a number of seconds above 0", keep = { "latest" }, rate = 0xFFFFFFFF,
}
local STORE = {
	path = "the path of a directory", sync = { "process", "power" }, qos0 = "a boolean", recover = { "skip" },
	max_messages = 2 ^ 53, max_bytes = 2 ^ 53, when_full = WHEN_FULL,
	expire = QUEUE.expire, keep = QUEUE.keep, rate = QUEUE.rate,
}
-- The checks for the words.
local CHECKS = {
	[QUEUE.expire] = function(value)
		return type(value) == "number" and value > 0 and value < math_huge
	end,
	[STORE.path] = function(value)
		return type(value) == "string" and value ~= ""
	end,
	[STORE.qos0] = function(value)
		return type(value) == "boolean"
	end,
}

-- Checks a field of an option. Returns nil, or what was expected in words.
local function unlike(value, expected)
	if type(expected) == "number" then
		local is_whole = type(value) == "number" and value >= 1 and value <= expected and math_floor(value) == value
		return not is_whole and str_format("a whole number from 1 to %.0f", expected) or nil
	elseif type(expected) == "string" then
		return not CHECKS[expected](value) and expected or nil
	end
	for _, name in ipairs(expected) do
		if value == name then
			return nil
		end
	end
	return "'" .. table_concat(expected, "' or '") .. "'"
end

-- Returns a check of an option that is a table with these fields.
local function check_fields(option, known)
	return function(value)
		for key, field in each(value) do
			local expected = known[key]
			if not expected then
				return "unexpected key in " .. option .. ": " .. tostring(key) .. fields.hint(key, known)
			end
			local words = unlike(field, expected)
			if words then
				return str_format("expecting %s.%s to be %s", option, key, words)
			end
		end
	end
end

local backlog = {
	--- The fields, for the spec that compares them with the documentation.
	tables = { queue = QUEUE, store = STORE },
	--- Checks the option `queue`, a table. Returns an error message, or nil.
	check_queue = check_fields("queue", QUEUE),
}

local check_store_table = check_fields("store", STORE)

--- Checks the option `store`. Returns an error message, or nil.
-- @param store the option, a string or a table
-- @treturn ?string the error message
function backlog.check_store(store)
	if type(store) == "string" then
		store = { path = store }
	end
	return check_store_table(store) or store.path == nil and "expecting store.path to be " .. STORE.path or nil
end

return backlog

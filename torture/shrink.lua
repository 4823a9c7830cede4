--- Makes a failing program as short as possible: removes steps and makes the rest plainer, as long as it still fails.

local data = require("torture.data")

local M = {}

-- The keys of a table in an order that is always the same, with the steps of the main chunk first.
local function keys_of(value)
	local keys = {}
	for key in pairs(value) do
		keys[#keys + 1] = key
	end
	table.sort(keys, function(a, b)
		if a == "main" or b == "main" then
			return b ~= "main"
		elseif type(a) == type(b) then
			return a < b
		end
		return type(a) == "number"
	end)
	return keys
end

local LISTS = { main = true, body = true, callback = true, plans = true, pushes = true, answers = true }

-- Returns all lists in a program that may lose items.
local function lists(value, found)
	for _, key in ipairs(keys_of(value)) do
		local item = value[key]
		if type(item) == "table" then
			if LISTS[key] and item[1] ~= nil then
				found[#found + 1] = item
			end
			lists(item, found)
		end
	end
	return found
end

-- A list without some of its items.
local function without(list, from, count)
	local rest = {}
	for i, item in ipairs(list) do
		if i < from or i >= from + count then
			rest[#rest + 1] = item
		end
	end
	return rest
end

-- Removes the steps of a client, and reduces the numbers of later clients by one.
local function forget_client(value, number)
	for key, item in pairs(value) do
		if type(item) == "table" then
			if key == "main" or key == "body" or key == "callback" then
				for i = #item, 1, -1 do
					if item[i].client == number then
						table.remove(item, i)
					end
				end
			end
			forget_client(item, number)
		elseif key == "client" and item > number then
			value[key] = item - 1
		end
	end
end

local function replace(list, items)
	for i = 1, math.max(#list, #items) do
		list[i] = items[i]
	end
end

-- All tables of a program, whose fields may be made plainer.
local function tables(value, found)
	found[#found + 1] = value
	for _, key in ipairs(keys_of(value)) do
		if type(value[key]) == "table" then
			tables(value[key], found)
		end
	end
	return found
end

-- Plainer values of fields, and fields that may be removed.
local PLAINER = {
	count = { 1 }, gc = { "stop" }, connack = { "ok" }, qos = { 0, 1 }, reconnect = { false }, clean = { true },
	version = { 4 }, ms = { 5 }, client = { 1 }, topic = { "m/1" },
}
local MAY_GO = {
	copas = true, size = true, callback = true, opts = true, resubscribe = true, auto_ack = true, keep_alive = true,
	queue = true, properties = true, reconnect = true, session = true, accept = true, args = true, table = true,
	raises = true, limits = true, is_thread = true, server_receive_maximum = true, receive_maximum = true,
	unseen = true, ends = true, is_absent = true, retain = true, max_messages = true, when_full = true, count = true,
}

local FIELDS = {}
for key in pairs(PLAINER) do
	FIELDS[#FIELDS + 1] = key
end
for key in pairs(MAY_GO) do
	if not PLAINER[key] then
		FIELDS[#FIELDS + 1] = key
	end
end
table.sort(FIELDS)

local function size(program)
	return #data.write(program)
end

--- Shrinks a program.
-- @tparam table program the program, which fails
-- @tparam function fails whether a program fails in the same way
-- @treturn table the shortest program found
function M.shrink(program, fails)
	local best = data.copy(program)

	-- Has a function change a copy; keeps the copy if it still fails.
	local function try(change)
		local candidate = data.copy(best)
		if change(candidate) == false or size(candidate) >= size(best) and data.write(candidate) == data.write(best)
			or not fails(candidate) then
			return false
		end
		best = candidate
		return true
	end

	-- Removes items from the lists: all of them first, then halves, then ever fewer.
	local function thin_out()
		local is_thinner = false
		local index = 1
		while lists(best, {})[index] do
			local count = #lists(best, {})[index]
			local chunk = count
			while chunk >= 1 do
				local from = 1
				while from <= #(lists(best, {})[index] or {}) do
					local is_out = try(function(candidate)
						local list = lists(candidate, {})[index]
						replace(list, without(list, from, chunk))
					end)
					is_thinner = is_thinner or is_out
					from = is_out and from or from + chunk
				end
				chunk = chunk > 1 and math.floor(chunk / 2) or 0
			end
			index = index + 1
		end
		return is_thinner
	end

	-- Removes whole clients.
	local function leave_clients()
		local is_less = false
		for number = #best.clients, 1, -1 do
			is_less = #best.clients > 1 and try(function(candidate)
				table.remove(candidate.clients, number)
				forget_client(candidate, number)
			end) or is_less
		end
		return is_less
	end

	-- Puts the body of a step in the place of the step.
	local function unwrap()
		local is_flatter = false
		for index = 1, #lists(best, {}) do
			for i = 1, #(lists(best, {})[index] or {}) do
				is_flatter = try(function(candidate)
					local list = lists(candidate, {})[index]
					local step = list and list[i]
					local inner = type(step) == "table" and (step.body or step.callback)
					if not inner or step[1] == "on" then
						return false
					end
					local items = without(list, i, 1)
					for j, item in ipairs(inner) do
						table.insert(items, i + j - 1, item)
					end
					replace(list, items)
				end) or is_flatter
			end
		end
		return is_flatter
	end

	-- Gives a field of a table its plainest value, or removes it.
	local function simplify(index, key)
		local function set(value)
			return try(function(candidate)
				tables(candidate, {})[index][key] = value
			end)
		end
		local now = tables(best, {})[index][key]
		if now == nil then
			return false
		elseif MAY_GO[key] and set(nil) then
			return true
		end
		for _, value in ipairs(PLAINER[key] or {}) do
			if now == value then
				return false
			elseif set(value) then
				return true
			end
		end
		return false
	end

	local function make_plainer()
		local is_plainer = false
		for index = 1, #tables(best, {}) do
			for _, key in ipairs(FIELDS) do
				if tables(best, {})[index] then
					is_plainer = simplify(index, key) or is_plainer
				end
			end
		end
		return is_plainer
	end

	repeat
		local is_shorter = thin_out()
		is_shorter = leave_clients() or is_shorter
		is_shorter = unwrap() or is_shorter
		is_shorter = make_plainer() or is_shorter
	until not is_shorter
	return best
end

return M

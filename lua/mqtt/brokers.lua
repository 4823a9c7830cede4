--- Decides which broker a client tries next, and when.
-- Internal to `mqtt.client`. A state machine without I/O; it asks the time only to see for how long a connection held.
-- In each pass the brokers of a list are tried in turn. A delay follows a pass only if all brokers have failed in it.
-- Brokers that a broker refers to come first.

local core = require("mqtt.core")
local fields = require("mqtt.client.fields")

local math_huge, math_max, math_min = math.huge, math.max, math.min
local each, ipairs, setmetatable, tonumber, tostring, type = pairs, ipairs, setmetatable, tonumber, tostring, type
local table_insert, table_remove = table.insert, table.remove

-- The defaults of the table `reconnect`, in seconds and as a part of them.
local MIN, MAX, JITTER = 1, 60, 0.5
-- The names of its fields.
local RECONNECT = { min = true, max = true, jitter = true }
-- The delay is doubled this many times at most.
local DOUBLINGS = 64
-- A connection has held if it lasted as long as the next delay, and at least this many seconds. A connection that did
-- not hold counts as a failure: a broker may accept a client and then end its connection, again and again.
local HELD = 5
-- The largest number of references that are taken from a packet.
local REFERENCES = 8

-- A broker is a table. A broker of the list has its `uri` and its `position` in the list. A broker that another has
-- referred to has the `uri` of the other, its own `host` and perhaps `port`.
local Brokers = {
	-- How many passes in a row have failed, and the random number for the delay after the last pass.
	_failures = 0,
	_chance = 0,
	-- The position in the list of the broker that has accepted last: passes begin with it.
	_first = 1,
	-- Brokers that another has referred to, and whether the reference holds for ever. They come before the list.
	_references = nil,
	_moved = false,
	-- The brokers that are still to be tried in this pass; nil before the next pass.
	_queue = nil,
	-- Whether the next broker is to be tried without delay.
	_at_once = false,
	-- The broker that is being tried or has accepted, whether it has accepted, and when.
	_current = nil,
	_accepted = false,
	_since = 0,
	-- The last delay, without its random part.
	_last_delay = 0,
	-- When an accepted connection was last lost.
	lost_at = nil,
	-- Fields of the client, kept here since each field makes the client's own table larger: the time of the last attempt,
	-- and the object whose finalizer tells of the client's collection.
	last_attempt = nil,
	guard = nil,
	-- How many accepted connections the broker has ended since a time: see `mqtt.client.lifecycle`.
	taken = 0,
	taken_since = nil,
}
Brokers.__index = Brokers

local brokers = {
	--- The delay of `reconnect = true`, in seconds.
	DELAY = 30,
}

--- Makes the state of a client that has tried nothing.
-- @tparam[opt] function random returns a number of at least 0 and less than 1
-- @tparam[opt] function now returns the time in seconds, by a clock that only goes forward
-- @treturn Brokers the state
function brokers.new(random, now)
	return setmetatable({ _random = random, _now = now }, Brokers)
end

-- A random number. The program's `math.random` may give the same numbers in every process.
function Brokers._random()
	return tonumber(core.random_hex(8), 16) / 2 ^ 32
end

Brokers._now = core.now

local function is_seconds(value)
	return type(value) == "number" and value > 0 and value < math_huge
end

--- Checks a table of the option `reconnect`.
-- @tparam table reconnect the value
-- @treturn string the fault, or nil
function brokers.check_reconnect(reconnect)
	for key, value in each(reconnect) do
		if key == "min" or key == "max" then
			if not is_seconds(value) then
				return ("expecting reconnect.%s to be a number of seconds above 0, got: %s"):format(key, tostring(value))
			end
		elseif key ~= "jitter" then
			return ("unexpected key in reconnect: %s = %s%s"):format(tostring(key), tostring(value),
				fields.hint(key, RECONNECT))
		elseif not (type(value) == "number" and value >= 0 and value <= 1) then
			return "expecting reconnect.jitter to be a number from 0 to 1, got: " .. tostring(value)
		end
	end
	local min, max = reconnect.min, reconnect.max
	if min and max and min > max then
		return ("expecting reconnect.min to be at most reconnect.max, got: %s and %s"):format(min, max)
	end
end

--- Checks a list of the option `uri`, but not the uris in it.
-- @tparam table uris the value
-- @treturn string the fault, or nil
function brokers.check_uris(uris)
	local count = 0
	for key in each(uris) do
		if type(key) ~= "number" then
			return "expecting uri to be a string or a list of strings, got a table with the key " .. tostring(key)
		end
		count = count + 1
	end
	for i = 1, count do
		if type(uris[i]) ~= "string" then
			return ("expecting uri[%d] to be a string, got: %s"):format(i, type(uris[i]))
		end
	end
	if count == 0 then
		return "expecting uri to be a string or a list of strings, got an empty list"
	end
end

-- The brokers of clients with a single uri, by uri. Clients share them; nobody changes them.
local only = setmetatable({}, { __mode = "v" })

-- The brokers of a pass, in turn.
local function queue(self, uris)
	if type(uris) == "string" and not self._references then
		local broker = only[uris] or { uri = uris, position = 1 }
		only[uris] = broker
		return { broker }
	end
	uris = type(uris) == "table" and uris or { uris }
	local list = {}
	for _, reference in ipairs(self._references or {}) do
		list[#list + 1] = reference
	end
	for i = 0, #uris - 1 do
		local position = (self._first - 1 + i) % #uris + 1
		list[#list + 1] = { uri = uris[position], position = position }
	end
	return list
end

--- Returns the broker to try now, and notes that it is being tried.
-- @tparam string|table uris the option `uri`; another value than last time begins anew
-- @treturn string the broker's uri, or the uri of the broker that has referred to it
-- @treturn string the host of the reference, or nil
-- @treturn number the port of the reference, or nil
function Brokers:next(uris)
	if self._uris == nil then
		self._uris = uris
	elseif uris ~= self._uris then
		self._uris = uris
		self._failures, self._first, self._references, self._moved, self._queue = 0, 1, nil, false, nil
	end
	self._queue = self._queue or queue(self, uris)
	local current = self._queue[1]
	self._current, self._accepted = current, false
	return current.uri, current.host, current.port
end

--- Notes that the broker has accepted the client.
function Brokers:succeeded()
	local current = self._current
	self._accepted = current ~= nil
	self._since = self._now()
	if self._at_once then
		self._at_once = false
	end
	if current then
		-- No other broker of this pass is tried.
		self._queue = nil
	end
	if current and current.position and (current.position ~= self._first or self._references) then
		self._first, self._references = current.position, nil
	end
end

-- The pass is over: a delay comes before the next attempt.
local function end_pass(self)
	self._queue, self._at_once = nil, false
	self._chance = self._random()
end

local function remove(list, item)
	for i, other in ipairs(list) do
		if other == item then
			return table_remove(list, i)
		end
	end
end

-- The delay after a number of failures, by the table `reconnect`, without its random part.
local function longest_delay(reconnect, failures)
	local min = reconnect.min or math_min(MIN, reconnect.max or MAX)
	local max = reconnect.max or math_max(MAX, min)
	return math_min(min * 2 ^ math_min(math_max(failures - 1, 0), DOUBLINGS), max)
end

-- The connection was lost: the next pass begins with the same broker. If the connection had held, the delays start
-- anew.
local function lost(self, is_wanted)
	local current, references = self._current, self._references
	self.lost_at = not is_wanted and self._now() or nil
	if is_wanted or self._now() - self._since >= math_max(2 * self._last_delay, HELD) then
		self._failures = 0
	else
		self._failures = self._failures + 1
	end
	if not current.position then
		table_insert(references, 1, remove(references, current))
	end
	end_pass(self)
end

-- The attempt has failed: the next broker has its turn.
local function failed(self)
	local current = table_remove(self._queue, 1)
	if not (current.position or self._moved) then
		-- The reference was for this time only.
		remove(self._references, current)
	end
	self._at_once = self._queue[1] ~= nil
	if not self._at_once then
		self._failures = self._failures + 1
		end_pass(self)
	end
end

-- The broker has referred to others, which come next. They come at once, unless a reference led to the broker itself:
-- brokers may refer to each other for ever.
local function referred(self)
	local current, left = self._current, self._queue
	self._references, self._moved, self._pending = self._pending.list, self._pending.moved, nil
	if not current.position then
		if not self._accepted then
			self._failures = self._failures + 1
		end
		return end_pass(self)
	elseif self._accepted then
		end_pass(self)
	else
		table_remove(left, 1)
		for i, reference in ipairs(self._references) do
			table_insert(left, i, reference)
		end
	end
	self._at_once = true
end

--- Notes that the connection to the broker, or the attempt to connect, has ended. Does nothing if there was neither.
-- @tparam[opt] boolean is_wanted whether the program has ended it
function Brokers:ended(is_wanted)
	if not self._current then -- luacheck: ignore 542
		-- noted before
	elseif self._pending then
		referred(self)
	elseif self._accepted then
		lost(self, is_wanted)
	else
		failed(self)
	end
	self._current, self._accepted = nil, false
end

-- Reads a server reference (4.11). Returns a list of brokers, and a list of ignored words.
local function read(text, uri)
	local list, ignored = {}, {}
	for word in text:gmatch("%S+") do
		local ok, scheme, username, _, host, port = core.parse_uri(word)
		if ok and host and not (scheme or username) and #list < REFERENCES then
			list[#list + 1] = { uri = uri, host = host, port = port }
		else
			ignored[#ignored + 1] = word
		end
	end
	return list, ignored
end

--- Takes the server reference (4.11) with which the broker ends the connection, or the attempt to connect. The
-- reference counts from the call of `ended` on.
-- @tparam string text references separated by blanks: hosts, perhaps with a colon and a port; IPv6 addresses in
-- brackets
-- @tparam boolean moved whether the references hold from now on; otherwise they hold for this time only
-- @treturn table the ignored references, a list of strings
function Brokers:refer(text, moved)
	if not self._current then
		return {}
	end
	local list, ignored = read(text, self._current.uri)
	if list[1] then
		self._pending = { list = list, moved = moved }
	end
	return ignored
end

--- Takes a server reference that has held in an earlier process.
-- @tparam string text the references
-- @tparam string uri the uri of the broker that has moved
function Brokers:moved(text, uri)
	self._references, self._moved = read(text, uri), true
end

--- Whether the next broker is to be tried without delay: this pass is not over.
function Brokers:is_midway()
	return self._at_once
end

--- Returns the delay between the last attempt and the next.
-- @tparam boolean|number|table reconnect the option `reconnect`, not false
-- @treturn number seconds
function Brokers:delay(reconnect)
	if self._at_once then
		return 0
	elseif type(reconnect) ~= "table" then
		return reconnect == true and brokers.DELAY or reconnect
	end
	local longest = longest_delay(reconnect, self._failures)
	self._last_delay = longest
	return longest * (1 - (reconnect.jitter or JITTER) * self._chance)
end

return brokers

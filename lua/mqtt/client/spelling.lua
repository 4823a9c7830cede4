--- Which field a program means that has misspelt one. Internal to `mqtt.client.fields`, which loads this when needed.

local math_floor, math_min = math.floor, math.min
local each, type = pairs, type

local spelling = {}

-- What other libraries call a field.
local ELSEWHERE = {
	message = "payload", msg = "payload", body = "payload", data = "payload",
	cleansession = "clean", cleanstart = "clean",
	clientid = "id", identifier = "id",
	user = "username", pass = "password",
	tls = "secure", ssl = "secure", cafile = "secure", ca = "secure",
	broker = "uri", reconnectperiod = "reconnect",
}

-- A name without the differences that nobody means.
local function fold(name)
	return (name:lower():gsub("[_%-]", ""))
end

-- How many letters to insert, delete, change or swap with their neighbours make one word the other.
local function distance(a, b)
	local before, last = nil, {}
	for j = 0, #b do
		last[j] = j
	end
	for i = 1, #a do
		local row = { [0] = i }
		for j = 1, #b do
			local is_same = a:byte(i) == b:byte(j)
			row[j] = math_min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (is_same and 0 or 1))
			if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
				row[j] = math_min(row[j], before[j - 2] + 1)
			end
		end
		before, last = last, row
	end
	return last[#b]
end

--- Returns the known name that a name is a misspelling of, or nil: the first letter is right, and a third of the
-- letters may be wrong, three at most.
-- @tparam string name the name
-- @tparam table known the known names: true for a name that is looked for
-- @treturn ?string the known name
function spelling.closest(name, known)
	local folded, best, least = fold(name), nil, nil
	-- Nobody misspells a word as a text.
	if #folded > 30 then
		return nil
	end
	for other, is_looked_for in each(known) do
		local word = is_looked_for and fold(other)
		if word and word:byte() == folded:byte() then
			local count = distance(folded, word)
			if count <= math_min(math_floor(#word / 3), 3) and (not least or count < least
				or count == least and other < best) then
				best, least = other, count
			end
		end
	end
	return best
end

--- Returns the end of an error message on an unknown field: which field the program may have meant.
-- @param name the name of the unknown field
-- @tparam table known the known names
-- @treturn string the words; empty where no known name is near
function spelling.hint(name, known)
	if type(name) ~= "string" then
		return ""
	end
	local meant = spelling.closest(name, known)
	if not meant then
		local other = ELSEWHERE[fold(name)]
		meant = other and known[other] and other
	end
	return meant and ", did you mean " .. meant .. "?" or ""
end

return spelling

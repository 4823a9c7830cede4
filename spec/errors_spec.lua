-- The table of docs/errors.md has every error text of the sources, and no other.

-- Literals that look like error texts and are none: names of fields and of headers, types of connectors, requests of
-- HTTP, names of reasons that are no refusal, and parts of error texts.
local NO_ERRORS = {}
for name in ([[
protocol name;protocol version;connect flags;connect acknowledge flags;keep alive;user name;will topic;will payload;
reason code;subscription options;topic filter;topic ...;property length;property list;property identifier;first byte;
a property;a reason code;an AUTH packet;a subscription option other than the QoS;for that packet type;in a will;
keys of ...;key of ...;a boolean;an integer from ... to ...;a number of seconds;
Connection Accepted;Success - Maximum QoS 0;Success - Maximum QoS 1;Success - Maximum QoS 2;Normal disconnection;
Granted QoS 0;Granted QoS 1;Granted QoS 2;Disconnect with Will Message;No matching subscribers;No subscription existed;
Lua aligns userdata to 8 bytes;CONNECT ... HTTP/1.1\r\nHost: ...\r\n;Proxy-Authorization: Basic ...\r\n;
Proc-Type: 4,ENCRYPTED;not specified;another client;perhaps another client;connection failed;a boolean, or 'first';
a number: mqtt.v311 or mqtt.v50;a boolean or table;a boolean or number;a string or table;
..., offset ...;another process;another client of this process;MQTT store;a table with events and callbacks;
buffered, blocking i/o;non-buffered, yielding i/o;buffered, yielding i/o;bytes moved by the program;
luamqtt 3.x functions;loop function;a number of seconds above 0;the path of a directory;
a whole number from 1 to ...;expecting ....... to be ...;
double (*)(uint32_t link, const char *topic, uint32_t, const char *payload, uint32_t, uint32_t flags)
]]):gmatch("[^;]+") do
	NO_ERRORS[name:match("^%s*(.-)%s*$")] = true
end

local function read(path)
	local file = assert(io.open(path))
	local text = file:read("*a")
	file:close()
	return text
end

local function files(pattern)
	local pipe = assert(io.popen("find " .. pattern .. " | LC_ALL=C sort"))
	local names = {}
	for name in pipe:lines() do
		names[#names + 1] = name
	end
	pipe:close()
	return names
end

-- Whether the literal behind this code is not shown to a user of the library, though it may be to its authors.
local function is_for_authors(before)
	return before:find("expect%(%s*$") or before:find("reason = $") or before:find("panic!%(%s*$")
		or before:find("assert[%w_]*!%([^;]*$") or before:find("unreachable!%(%s*$") or before:find("log:%l+%(%s*$")
		or before:find("cfg[%w_]*%(.-$") or before:find("feature = $")
end

-- The string literals of a source, each with the code before it. Comments are no code, and Rust's tests are left out.
local function literals(source, is_rust)
	local found, position, from = {}, 1, 1
	if is_rust then
		source = source:gsub("#%[cfg%(test%)%]%s+mod tests.*$", "")
	end
	while true do
		local start = source:find(is_rust and "[\"'/]" or "[\"'%-%[]", position)
		if not start then
			return found
		end
		local char, two = source:sub(start, start), source:sub(start, start + 1)
		if two == (is_rust and "//" or "--") then
			position = source:find("\n", start, true) or #source + 1
			from = position
		elseif char == '"' or not is_rust and char == "'" then
			local text, last = {}, start + 1
			while source:sub(last, last) ~= char do
				local escaped = source:sub(last, last) == "\\"
				text[#text + 1] = source:sub(last, last + (escaped and 1 or 0))
				last = last + (escaped and 2 or 1)
			end
			local literal = table.concat(text):gsub("\\\n%s*", ""):gsub("\\([\"'])", "%1")
			found[#found + 1] = { text = literal, before = source:sub(math.max(from, start - 60), start - 1) }
			position, from = last + 1, last + 1
		elseif is_rust and char == "'" then
			-- A character, or the name of a lifetime.
			local _, last = source:find("^'\\?[^\n]'", start)
			position = (last or start) + 1
		else
			position = start + 1
		end
	end
end

-- A text with "..." where the library puts a value.
local function with_gaps(text, is_rust)
	if is_rust then
		text = text:gsub("{[^{}]*}", "...")
	else
		text = text:gsub("%%[%d%.]*[sdqfX]", "..."):gsub("%%%%", "%%")
	end
	return text
end

-- The error texts of the sources: a list of tables with `text` and `file`; and all literals.
local function collect()
	local texts, all = {}, {}
	local rust = "src -name '*.rs' ! -name tests.rs ! -path '*/tests/*'"
	for _, pattern in ipairs({ rust, "lua -name '*.lua'" }) do
		for _, name in ipairs(files(pattern)) do
			local is_rust = name:find("%.rs$")
			for _, literal in ipairs(literals(read(name), is_rust)) do
				local text = with_gaps(literal.text, is_rust)
				all[#all + 1] = text
				local words = select(2, text:gsub("%S+", ""))
				-- In Lua, the beginning of a text stands for all of it.
				local goes_on = not is_rust and (literal.before:find("%.%.%s*$") or text:find("^'"))
				if words >= 2 and text:find("^[%w.']") and text:find("%l%l") and #text > 8 and not goes_on
					and not text:find("[LuaMQTT]", 1, true) and not is_for_authors(literal.before) then
					texts[#texts + 1] = { text = text, file = name }
				end
			end
		end
	end
	return texts, all
end

-- The texts of the table's first column.
local function rows()
	local found = {}
	for line in read("docs/errors.md"):gmatch("[^\n]+") do
		local cell = line:match("^| (`.-`) | ")
		for text in (cell or ""):gmatch("`(.-)`") do
			found[#found + 1] = text
		end
	end
	return found
end

local function to_pattern(row)
	return "^" .. row:gsub("[%(%)%.%%%+%-%*%?%[%]%^%$]", "%%%0"):gsub("%%%.%%%.%%%.", ".-") .. "$"
end

-- A function that tells whether a row of the table is about a text: whether the text is the row's, without the place
-- that the row may name before it, or its beginning.
local function matcher(row)
	local forms = {}
	for _, place in ipairs({ "^", "^NAME: ", "^%.%.%. ", "^NAME: %.%.%. " }) do
		local form = row:gsub(place, "")
		-- A row of gaps alone would be about everything.
		local is_certain = #form:gsub("[^%a]", "") >= 8
		forms[#forms + 1] = { text = form, pattern = is_certain and to_pattern(form) or "^$" }
	end
	return function(text)
		for _, form in ipairs(forms) do
			if form.text:sub(1, #text) == text or text:find(form.pattern) then
				return true
			end
		end
	end
end

describe("docs/errors.md #unix", function()
	local texts, all = collect()
	local known, matchers = rows(), {}
	for i, row in ipairs(known) do
		matchers[i] = matcher(row)
	end

	it("has every error text of the sources", function()
		assert.is_true(#texts > 300 and #known > 200)
		local missing = {}
		for _, item in ipairs(texts) do
			local found = NO_ERRORS[item.text]
			for _, is_about in ipairs(matchers) do
				found = found or is_about(item.text)
			end
			if not found then
				missing[#missing + 1] = item.file .. ": " .. item.text
			end
		end
		assert.same({}, missing)
	end)

	it("has no text that the sources have not", function()
		local stale = {}
		for i, row in ipairs(known) do
			local found = false
			for _, text in ipairs(all) do
				found = found or #text > 4 and matchers[i](text)
			end
			if not found then
				stale[#stale + 1] = row
			end
		end
		assert.same({}, stale)
	end)

	it("is complete without the exceptions that the spec makes", function()
		local present = {}
		for _, item in ipairs(texts) do
			present[item.text] = true
		end
		for text in pairs(NO_ERRORS) do
			assert.is_true(present[text], text)
		end
	end)
end)

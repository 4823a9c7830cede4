-- Topic names and filters: which are valid, and what a filter captures of a name.

local topics = require("mqtt.topics")

local validators = {
	{
		name = "validate_publish_topic",
		valid = { "hello", "hello/world", "hello/world/", "/hello/world", "/", "//////", "a b", "$SYS/x", "é" },
		invalid = {
			[""] = "topic must not be empty",
			["hello/world/#"] = "topic must not contain wildcards",
			["hello/+/world"] = "topic must not contain wildcards",
			["hello+"] = "topic must not contain wildcards",
			["a\0b"] = "topic must not contain U+0000",
			["\255"] = "topic must be well-formed UTF-8",
			[("x"):rep(65536)] = "topic must be at most 65535 bytes long, got 65536",
		},
	},
	{
		name = "validate_subscribe_topic",
		valid = {
			"hello/world", "hello/world/", "/hello/world", "/", "//////", "#", "/#", "+", "+/hello/#", "+/+/+/+/+",
			"/+", "$share/group/a/+",
		},
		invalid = {
			[""] = "topic must not be empty",
			["hello/#/world"] = 'topic must have "#" only as its last level',
			["hello#"] = 'topic must have "#" only as its last level',
			["#/#"] = 'topic must have "#" only as its last level',
			["hello/+there/world"] = 'topic must have "+" only as a whole level',
			["++"] = 'topic must have "+" only as a whole level',
			["$share/group"] = 'topic must be "$share/NAME/FILTER"',
		},
	},
}

for _, validator in ipairs(validators) do
	describe(validator.name, function()
		local validate = topics[validator.name]

		it("returns what is valid", function()
			for _, topic in ipairs(validator.valid) do
				assert.same({ topic }, { validate(topic) })
			end
		end)

		it("says what is wrong with the rest", function()
			for topic, message in pairs(validator.invalid) do
				local ok, err = validate(topic)
				assert.is_false(ok)
				assert.equal(message, err:sub(1, #message))
			end
		end)

		it("takes strings only", function()
			for _, topic in ipairs({ true, 1, {} }) do
				assert.same({ false, "expecting topic to be a string, got: " .. type(topic) }, { validate(topic) })
			end
			assert.same({ false, "expecting topic to be a string, got: nil" }, { validate(nil) })
		end)
	end)
end

describe("compile_topic_pattern", function()
	for topic, pattern in pairs({
		["#"] = "^(.+)$",
		["/#"] = "^/(.-)$",
		["+"] = "^([^/]-)$",
		["+/+/#"] = "^([^/]-)/([^/]-)/(.-)$",
		["/"] = "^/$",
		["+/dash-dash/+/+/back\\slash/+"] = "^([^/]-)/dash%-dash/([^/]-)/([^/]-)/back%\\slash/([^/]-)$",
		["(a).b*c?d[e]f^g$h%i"] = "^%(a%)%.b%*c%?d%[e]f%^g%$h%%i$",
	}) do
		it("of " .. topic, function()
			assert.equal(pattern, topics.compile_topic_pattern(topic))
		end)
	end

	it("finds the characters that have a meaning in patterns", function()
		local topic = "(a).b*c?d[e]f^g$h%i-j\\k"
		assert.equal("x", (topic .. "/x"):match(topics.compile_topic_pattern(topic .. "/+")))
	end)

	it("refuses what is not a topic filter", function()
		local ok, err = topics.compile_topic_pattern("a/#/b")
		assert.is_false(ok)
		assert.matches("last level", err)
	end)
end)

describe("topic_match", function()
	for _, case in ipairs({
		{ "+", "hello", { "hello" } },
		{ "+/+", "hello/world", { "hello", "world", first = "hello", second = "world" }, keys = { "first", "second" } },
		{ "+/+/+", "//", { "", "", "", a = "", b = "", c = "" }, keys = { "a", "b", "c" } },
		{ "+/+", "a/b", { "a", "b", second = "b" }, keys = { nil, "second" } },
		{ "a/+", "a/b", { "b", only = "b" }, keys = { "only", "too many" } },
		{ "#", "hello/there/world", { "hello/there/world" }, { "hello", "there", "world" } },
		{ "/#", "/hello/world", { "hello/world" }, { "hello", "world" } },
		{ "+/+/#", "a/b/c/d", { "a", "b", "c/d", rest = "c/d" }, { "c", "d" }, keys = { nil, nil, "rest" } },
		{ "+/+/#", "hello/there/world/", { "hello", "there", "world/" }, { "world", "" } },
		{ "a/#", "a/", { "" }, { "" } },
		{ "hello/world", "hello/world", { "hello/world" } },
	}) do
		it(case[1] .. " on " .. case[2], function()
			local fields, levels = topics.topic_match(case[2], { topic = case[1], keys = case.keys })
			assert.same(case[3], fields)
			assert.same(case[4] or {}, levels)
		end)
	end

	it("returns only false where there is no match", function()
		for topic, filter in pairs({ ["hello/world"] = "+/+/+", ["a/b/c"] = "a/+", b = "a", ["a"] = "a/#" }) do
			assert.same({ false, n = 1 }, { n = select("#", topics.topic_match(topic, { topic = filter })),
				topics.topic_match(topic, { topic = filter }) })
		end
	end)

	it("keeps the compiled pattern, and goes by it", function()
		local opts = { topic = "+/x" }
		assert.same({ "a" }, topics.topic_match("a/x", opts))
		assert.equal("^([^/]-)/x$", opts.pattern)
		opts.topic = nil
		assert.same({ "b" }, topics.topic_match("b/x", opts))
	end)

	it("says what is wrong with the arguments", function()
		for _, case in ipairs({
			{ "expecting topic to be a string, got: nil", nil, { topic = "+" } },
			{ "expecting opts to be a table, got: nil", "a" },
			{ "expecting opts.topic or opts.pattern to be set", "a", { keys = {} } },
			{ "expecting opts.keys to be a table, got: string", "a", { topic = "+", keys = "key" } },
			{ 'invalid opts.topic: topic must have "+" only as a whole level, got "a+"', "a", { topic = "a+" } },
		}) do
			assert.same({ false, case[1] }, { topics.topic_match(case[2], case[3]) })
		end
	end)
end)

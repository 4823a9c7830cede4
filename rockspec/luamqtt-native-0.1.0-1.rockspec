rockspec_format = "3.0"
package = "luamqtt-native"
version = "0.1.0-1"
source = {
	url = "git+file://.",
}
description = {
	summary = "An MQTT 3.1.1 and 5.0 client with the luamqtt API, in Rust",
	detailed = [[
		Programs written for luamqtt run unchanged; the protocol, TCP, TLS and timers are native code.
		It is compiled on installation: that takes Rust 1.88 or newer and a C compiler.
	]],
	license = "MIT",
	labels = { "mqtt", "network", "iot" },
}
supported_platforms = { "linux", "macosx", "windows" }
dependencies = {
	"lua >= 5.1",
}
build = {
	type = "make",
	variables = {
		LUA = "$(LUA)",
		INST_LUADIR = "$(LUADIR)",
		INST_LIBDIR = "$(LIBDIR)",
		-- With LICENSE, docs, examples and types.
		INST_DOCDIR = "$(PREFIX)",
		-- LuaRocks has the paths, so `make install` need not tell them.
		HINT = "",
	},
}

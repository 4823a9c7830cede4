-- The log that the other modules write to. This file decides which logger gets it.

--- The library's log: errors, warnings, connections that come and go, and requests.
-- If the program has loaded LuaLogging before this library, the log goes to LuaLogging's default logger. Otherwise
-- warnings and errors go to stderr, inside nginx to its error log, but for errors that a handler of `error` gets.
-- `log.set` chooses another logger, or none. What no logger takes is not formatted.
-- @module mqtt.log
-- @usage
-- local mqtt = require("mqtt")
-- mqtt.log.set {
-- 	warn = function(_, text) io.stderr:write("warning: ", text, "\n") end,
-- 	error = function(_, text) io.stderr:write("error: ", text, "\n") end,
-- }
-- mqtt.log.set(false) -- silence

local host = require("mqtt.host")
local protect = require("mqtt.protect")

local error, ipairs, pcall, select, setmetatable = error, ipairs, pcall, select, setmetatable
local tostring, type = tostring, type
local str_format = string.format
local loaded = package.loaded
local io = loaded.io

local LEVELS = { "debug", "info", "warn", "error" }

local log = {}

-- The logger, or nil.
local current

local function discard() end

-- Writes a line to stderr, which the program may have closed. Bytes of a terminal's commands may come from a broker.
local function write_line(level, text)
	io.stderr:write(level, ": ", (tostring(text):gsub("%c", "?")), "\n")
end

-- A function that writes a text to nginx's error log or to stderr.
local function write(level, nginx_level)
	return function(_, text)
		local ngx = host.openresty()
		if ngx then
			ngx.log(ngx[nginx_level], text)
		elseif io then
			pcall(write_line, level, text)
		end
	end
end

-- The logger where the program has chosen none.
local STANDARD = { warn = write("warning", "WARN"), error = write("error", "ERR") }

-- LuaLogging's default logger, if the program has loaded LuaLogging.
local function default()
	local logging = loaded.logging
	if type(logging) == "table" and type(logging.defaultLogger) == "function"
		and tostring(logging._VERSION):find("LuaLogging", 1, true) then
		return logging.defaultLogger()
	end
end

-- Calls a function of the logger as `pcall` does, in all coroutines. In Lua 5.1 it may only yield with coxpcall, which
-- Copas loads.
local function protected(...)
	return (loaded.coxpcall and protect.call or pcall)(...)
end

-- Whether the error of a logger has been told.
local told = false

-- Returns the results of a method of the logger, or writes the error that it has raised to stderr, the first one.
local function results(ok, ...)
	if ok then
		return ...
	elseif not told then
		told = true
		STANDARD.error(nil, "[LuaMQTT] the logger has raised an error: " .. tostring((...)))
	end
end

-- A function that calls a method of the logger with the same arguments, if the logger has the method at that time. A
-- logger that raises an error must not keep the library from its work.
local function forward(name)
	return function(_, ...)
		local method = current[name]
		if method then
			return results(protected(method, current, ...))
		end
	end
end

-- A function that does the same with the formatted text.
local function forward_text(name)
	return function(_, text, ...)
		local method = current[name]
		if method then
			results(protected(method, current, select("#", ...) > 0 and str_format(text, ...) or text))
		end
	end
end

-- Sends the log to a logger. With `formats` the logger formats by itself; otherwise it gets text.
local function set(logger, formats)
	current, told = logger, false
	for _, level in ipairs(LEVELS) do
		log[level] = not logger and discard or formats and forward(level) or forward_text(level)
	end
end

-- Sends the log where it goes unless the program says otherwise.
local function set_default()
	local logger = default()
	set(logger or STANDARD, logger ~= nil)
end

--- Logs the error of a client. Internal. Without a logger of the program's, an error that a handler gets is not logged.
-- @param is_handled whether a handler of `error` gets it too
-- @param ... as of `log:error`
function log.report(is_handled, ...)
	if not (is_handled and current == STANDARD) then
		log:error(...)
	end
end

--- Sends the log to a logger from now on. Raises an error if the argument is no logger.
-- @tparam[opt] table|boolean logger with any of the methods `debug`, `info`, `warn` and `error`, called as
-- `logger:warn(text)`. Levels without a method are discarded. A logger of LuaLogging, recognised by its method
-- `setLevel`, gets the format and its arguments, and formats only texts that its level lets through. With false there
-- is no log. Without an argument the log goes to the default logger of LuaLogging if that is loaded, or to stderr
function log.set(logger)
	if logger == nil then
		return set_default()
	elseif logger == false then
		return set(nil, true)
	elseif type(logger) ~= "table" then
		error("expecting logger to be a table with methods, got: " .. type(logger), 2)
	end
	for _, level in ipairs(LEVELS) do
		if logger[level] ~= nil and type(logger[level]) ~= "function" then
			error("expecting logger." .. level .. " to be a function, got: " .. type(logger[level]), 2)
		end
	end
	set(logger, type(logger.setLevel) == "function")
end

set_default()

return setmetatable(log, {
	-- The other fields of LuaLogging's logger.
	__index = function(_, name)
		local value = current and current[name]
		if value == nil then
			return discard
		elseif type(value) == "function" then
			return function(_, ...)
				return value(current, ...)
			end
		end
		return value
	end,
})

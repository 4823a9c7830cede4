--- Carries the bytes of a client. There are two transports: with `native`, `mqtt.core` opens, reads and writes the
-- connection in the background; `bridge` does so through a connector in Lua.
-- Internal to `mqtt.client`.
--
-- A transport is a table of these functions, each of which takes the client first. `conn` is a connection table.
--
-- - `adopt(client, conn)` gives a connection table its metatable and returns it; raises if the transport cannot go
--   there.
-- - `check(client, conn)` does the same, and raises on unusable settings too.
-- - `open(client, conn)` opens a connection and sets `client._opening`. Returns true when it is open; false and an
--   error message; or nil: the event "opened" or "open_failed" will come. Raises on unusable settings.
-- - `await_open(client)` waits, for a while, until the event that `open` has promised comes.
-- - `opened(client)` is called when `client.connection` has been set.
-- - `direct(client)` returns `client._handle` if requests may go to it without `send`, else nil.
-- - `hand_over(client, func, ...)` has a function called in the connection's context, if the caller runs in another
--   context; in OpenResty a request cannot use the sockets of a timer. Returns whether the function will be called.
-- - `send(client, again, what)` writes the bytes that the session has to send. Returns true, or false and an error
--   message. If the caller runs in another context than the connection, `again` is called there, with the client and
--   `what`.
-- - `next(client)` returns the next event, as `events.pop` does; or nil, and 0 if there may be more.
-- - `await(client)` waits for an event by yielding. Returns false where it cannot yield.
-- - `keep_alive(client)` does the work of keep alive that is due. Returns nil or the seconds until the next look, and
--   an error message if the connection has failed.
-- - `look_soon(client)` has keep alive looked at soon.
-- - `wait(client, seconds)` waits until `step` has something to do, or for some seconds.
-- - `iterate(client, longest, own)` waits for something to do, for `longest` seconds at most, and takes a step. `own`
--   is the limit that the program has set with the connection's `settimeout`, or nil. Returns the results of `step`.
-- - `may_block(client)` says whether waiting in `mqtt.core` would hold up no other client.
-- - `wait_for_room(client, seconds)` waits, for a while, until the connection takes more. Returns false if waiting is
--   in vain.
-- - `wait_until_sent(client, seconds)` waits likewise for messages that the broker's receive maximum keeps back.
-- - `settle(client)` waits until other threads have finished writing.
-- - `close(client, conn)` closes a connection that the client has let go of.
-- - `token(client)` returns the link's number in `core.next_ready`, or nil if a loop has to ask the client.
-- - `getfd(client)` returns a descriptor to wait for, or nil and an error message.
-- - `in_background` says whether the core opens, reads and writes by itself: then it has all events at hand.

local native = require("mqtt.transport.native")

local require = require

local transport = {}

--- Returns the transport of a client.
-- @tparam table opts its options
-- @tparam boolean is_secure whether TLS is used for any of its brokers
-- @treturn table the transport
function transport.of(opts, is_secure)
	-- A TLS module of the program's own takes a connector.
	if native.is_of(opts.connector) and not (is_secure and (opts.ssl_module or "ssl") ~= "ssl") then
		return native
	end
	-- Not for every program that loads the library.
	return require("mqtt.transport.bridge")
end

return transport

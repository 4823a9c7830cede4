--- What carries the bytes of a client. There are two transports: `native`, where `mqtt.core` opens, reads and writes
-- the connection in the background, and `bridge`, which does so through a connector in Lua.
-- Internal to `mqtt.client`.
--
-- A transport is a table of these functions, all of which take the client first. `conn` is a connection table.
--
-- - `adopt(client, conn)` gives a connection table its metatable and returns it; raises if the transport cannot go
--   there.
-- - `check(client, conn)` does so too, and raises on settings that are of no use.
-- - `open(client, conn)` opens a connection and sets `client._opening`. Returns true when it is open; false and an
--   error message; or nil: the event "opened" or "open_failed" will come. Raises on settings that are of no use.
-- - `await_open(client)` waits, for a while, until the event comes that `open` has promised.
-- - `opened(client)` is called when `client.connection` has been set.
-- - `direct(client)` returns what requests may go to without `flush`: `client._handle` or nil.
-- - `hand_over(client, func, ...)` has a function called in the context that the connection belongs to, if the caller
--   runs in another one; in OpenResty a request cannot use the sockets of a timer. Returns whether it will be called.
-- - `send(client, again, what)` writes what the session has to send, unless that is being done. Returns true, or false
--   and an error message. `again` is called with the client and `what` in the context of the connection, if that is
--   another.
-- - `next(client)` returns the next event, as `events.pop` does; or nil, and 0 if there may be more.
-- - `await(client)` waits for an event by yielding. Returns false where that cannot be done.
-- - `keep_alive(client)` does what keep alive wants now. Returns nil or in how many seconds to look again, and an error
--   message if the connection has failed.
-- - `look_soon(client)` has keep alive looked at soon.
-- - `wait(client, seconds)` waits until `step` has something to do, or for some seconds.
-- - `iterate(client, longest, own)` waits for something, for `longest` seconds at most, and takes a step. `own` is what
--   the program has set with the connection's `settimeout`, or nil. Returns what `step` returns.
-- - `may_block(client)` says whether waiting in `mqtt.core` would hold up no other client.
-- - `wait_for_room(client, seconds)` waits, for a while, until the connection takes more. Returns false if that is in
--   vain.
-- - `wait_until_sent(client, seconds)` waits likewise for what the broker's receive maximum keeps back.
-- - `settle(client)` waits until other threads have written what they are at.
-- - `close(client, conn)` closes a connection that the client has let go of.
-- - `token(client)` returns the link's number in `core.next_ready`, or nil: a loop has to ask.
-- - `getfd(client)` returns a descriptor to wait for, or nil and an error message.
-- - `in_background` says whether the core opens, reads and writes by itself: then all events are at hand there.

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

--- Runs before all specs, which share this log: what they provoke is not to be written to stderr.

require("mqtt.log").set(false)

-- busted forgets the modules of a file behind it, but not those of this one: the process keeps its ports.
require("spec.support.listen")

-- scripts/test tells where a run that did not end has been.
local running = os.getenv("TEST_RUNNING")
if running then
	require("busted").subscribe({ "test", "start" }, function(element)
		local file = assert(io.open(running, "w"))
		file:write(element.trace and element.trace.short_src or "?", ": ", element.name, "\n")
		file:close()
		return nil, true
	end)
end

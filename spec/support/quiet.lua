--- Runs before all specs, which share this log: what they provoke is not to be written to stderr.

require("mqtt.log").set(false)

-- busted forgets the modules of a file behind it, but not those of this one: the process keeps its ports.
require("spec.support.listen")

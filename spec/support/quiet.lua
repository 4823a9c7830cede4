--- Runs before all specs, which share this log: what they provoke is not to be written to stderr.

require("mqtt.log").set(false)

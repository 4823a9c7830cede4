-- Loads the module for Lua 5.1 or for LuaJIT, which look for modules in the same directories. What is before a hyphen
-- is in the file's name only: both modules are opened as mqtt.core.
return require(type(rawget(_G, "jit")) == "table" and "jit-mqtt.core" or "lua-mqtt.core")

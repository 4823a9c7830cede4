std = "max"
exclude_files = { "build", "target", "fuzz" }

files["spec"].globals = { "_TEST" }
files["lua/mqtt/loop/detect.lua"].read_globals = { "ngx" }
files["lua/mqtt/loop/nginx.lua"].read_globals = { "ngx" }
files["lua/mqtt/connector/nginx.lua"].read_globals = { "ngx" }
files["lua/mqtt/ngxsocket.lua"].read_globals = { "ngx" }
files["examples/openresty"].std = "max+ngx_lua"
files["spec/openresty"].std = "max+ngx_lua"

std = "max"
exclude_files = { "build", "dist", "target", "fuzz" }

files["spec"].globals = { "_TEST" }
files["examples/openresty"].std = "max+ngx_lua"
files["spec/openresty"].std = "max+ngx_lua"

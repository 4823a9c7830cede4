--- The loops that programs of the torture run in. Each host adds and removes clients, serves them for a moment, runs to
-- the end, and says whether it has ended.

local core = require("mqtt.core")
local mqtt = require("mqtt")
local socket = require("socket")

-- How long a moment is, in seconds.
local MOMENT = 0.002
-- Within which part of a program's patience a loop ends when all its clients are gone.
local AT_ONCE = 0.6

local M = {
	-- Clients on the native connection, in the ioloop.
	ioloop = { connector = "mqtt.connector.native", is_ordered = true },
	-- The same through LuaSocket.
	luasocket = { connector = "mqtt.connector.luasocket", is_ordered = true },
	-- The program calls `step`, and waits for the descriptor.
	stepped = { connector = "mqtt.connector.native", is_ordered = true },
	-- Threads of Copas.
	copas = { connector = "mqtt.connector.native" },
	copas_connector = { connector = "mqtt.connector.copas" },
}

-- The ioloop ----------------------------------------------------------------------------------------------------------

local NOTHING = {}

local function loop_of()
	return mqtt.get_ioloop(true, { sleep_max = MOMENT })
end

function M.ioloop.add(run, step, ctx, client)
	local loop = loop_of()
	return run:call(step, ctx, "add", nil, loop.add, loop, client)
end

function M.ioloop.remove(run, step, ctx, client)
	local loop = loop_of()
	return run:call(step, ctx, "remove", nil, loop.remove, loop, client)
end

function M.ioloop.has(_, client)
	return loop_of().clients[client]
end

function M.ioloop.serve(run, ctx)
	local loop = loop_of()
	run:call(NOTHING, ctx, "iteration", nil, loop.iteration, loop)
end

-- Runs the loop until its clients are gone. A function in the loop makes them go after some time.
function M.ioloop.run(run, step, ctx, client)
	local loop = loop_of()
	local at, is_over = core.now() + step.ms / 1000, false
	local since
	local function guard()
		if core.now() < at or run.is_interrupted then
			return MOMENT
		end
		is_over, run.is_ending = true, true
		loop:remove(guard)
		for _, item in ipairs({ (table.unpack or unpack)(loop.clients) }) do -- luacheck: globals unpack
			local ok, err = true, nil
			if type(item) == "function" or step.ends == "remove" then
				loop:remove(item)
			else
				ok, err = pcall(item.shutdown, item)
			end
			if not ok then
				run:caught(err)
			end
		end
		since = core.now()
	end
	loop:add(guard)
	if step.how == "run_ioloop" and client and not loop.clients[client] then
		run:call(step, ctx, "run", nil, mqtt.run_ioloop, client)
	else
		run:call(step, ctx, "run", nil, loop.run_until_clients, loop)
	end
	run.is_ending = false
	if not is_over and loop.clients[guard] then
		loop:remove(guard)
	end
	if since and core.now() - since > AT_ONCE * run.patience then
		run:violation("a loop does not end at once after its clients have been shut down or removed")
	end
	if ctx.where == "main" and loop.running then
		run:violation("running is true after the loop has ended")
	end
end

-- Takes the functions of the program out of the loop.
local function remove_functions()
	local loop = loop_of()
	for _, item in ipairs({ (table.unpack or unpack)(loop.clients) }) do
		if type(item) == "function" then
			loop:remove(item)
		end
	end
end

function M.ioloop.finish(run, ctx)
	local loop, deadline = loop_of(), core.now() + AT_ONCE * run.patience
	remove_functions()
	-- Errors of handlers interrupt the loop.
	for _ = 1, 50 do
		if next(loop.clients) == nil then
			break
		end
		run:call(NOTHING, ctx, "run", nil, loop.run_until_clients, loop)
	end
	if core.now() > deadline then
		run:violation("a loop does not end at once after its clients have been shut down or removed")
	elseif next(loop.clients) then
		run:violation("a client stays in the loop after its shutdown")
	elseif loop.running then
		run:violation("running is true after the loop has ended")
	end
end

for name, method in pairs(M.ioloop) do
	if M.luasocket[name] == nil then
		M.luasocket[name] = method
	end
end

-- By hand -------------------------------------------------------------------------------------------------------------

function M.stepped.add(run, _, _, client)
	run.stepped[client] = true
	return true
end

function M.stepped.remove(run, _, _, client)
	run.stepped[client] = nil
	return true
end

function M.stepped.has(run, client)
	return run.stepped[client]
end

function M.stepped.serve(run, ctx)
	local clients = {}
	for client in pairs(run.stepped) do
		clients[#clients + 1] = client
	end
	local wait, fds = MOMENT, {}
	-- At the end a client that is alone waits for as long as it is told, and has to be woken.
	if #clients == 1 and run.is_settling then
		wait = MOMENT * 40
	end
	for _, client in ipairs(clients) do
		local seconds = run:call(NOTHING, ctx, "step", nil, client.step, client)
		if seconds == nil then
			if not run.has_thrown then
				run.stepped[client] = nil
			end
			wait = 0
		elseif seconds >= 0 then
			wait = math.min(wait, seconds)
		end
		local fd = client:getfd()
		if fd then
			fds[#fds + 1] = { getfd = function()
				return fd
			end, dirty = function()
				return false
			end }
		else
			wait = math.min(wait, MOMENT)
		end
	end
	if not clients[1] then
		socket.sleep(MOMENT)
	elseif wait > 0 then
		socket.select(fds, nil, wait)
	end
end

function M.stepped.run(run, step, ctx)
	local deadline = core.now() + step.ms / 1000
	repeat
		M.stepped.serve(run, ctx)
	until core.now() > deadline or run.is_interrupted
end

function M.stepped.finish(run, ctx)
	local deadline = core.now() + AT_ONCE * run.patience
	remove_functions()
	while next(run.stepped) do
		M.stepped.serve(run, ctx)
		if core.now() > deadline then
			run:violation("step does not say that a client has ended, after its shutdown")
			return
		end
	end
	-- The functions that handlers have added.
	remove_functions()
end

-- Copas ---------------------------------------------------------------------------------------------------------------

local function copas()
	return package.loaded.copas
end

function M.copas.add(run, step, ctx, client)
	return run:call(step, ctx, "add", nil, require("mqtt.loop.copas").add, client)
end

function M.copas.remove() end

function M.copas.has()
	return false
end

function M.copas.serve(run)
	if run:is_own_coroutine() then
		run:yield()
	else
		copas().pause(MOMENT)
	end
end

function M.copas.run(run, step, ctx)
	local deadline = core.now() + step.ms / 1000
	repeat
		M.copas.serve(run, ctx)
	until core.now() > deadline or run.is_over
end

function M.copas.finish() end

for name, method in pairs(M.copas) do
	if M.copas_connector[name] == nil then
		M.copas_connector[name] = method
	end
end

-- The program under way. Functions given to Copas must not hold on to it.
local current

local function caught(err)
	if current then
		current:caught(err)
	end
end

--- Runs the main chunk of a program where its host wants it.
-- @param run the program
-- @tparam function main the chunk
function M.start(run, main)
	if run.host.is_ordered then
		main()
		return
	end
	local loaded = copas()
	local finished_at
	current = run
	loaded.seterrorhandler(caught, true)
	run.main_thread = loaded.addthread(function()
		run.main_thread = coroutine.running()
		main()
		finished_at = core.now()
	end)
	local is_late
	while not (loaded.finished() or is_late or run.is_interrupted) do
		loaded.step(MOMENT * 20)
		is_late = finished_at and core.now() > finished_at + AT_ONCE * run.patience
	end
	current = nil
	if is_late then
		run:violation("a thread of Copas does not end at once after the clients have been shut down")
	elseif not finished_at and not run.has_failed then
		run:violation("Copas has ended before its threads")
	end
end

return M

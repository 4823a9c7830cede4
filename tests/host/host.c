/* A program that embeds Lua, for what an interpreter does not do: several states, threads, and ends of every kind.
 * What the states do is in clients.lua, beside this file. Run by scripts/test-host: host CLIENTS.LUA SCENARIO. */
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *script;

/* Ends the program with what is on top of the stack. */
static void fail(lua_State *L) {
	fprintf(stderr, "%s\n", lua_tostring(L, -1));
	exit(1);
}

/* Calls a function of the script. Leaves a result or an error on the stack. Returns whether it was a result. */
static int try(lua_State *L, const char *function) {
	lua_getfield(L, LUA_REGISTRYINDEX, "clients");
	lua_getfield(L, -1, function);
	lua_remove(L, -2);
	return lua_pcall(L, 0, 1, 0) == 0;
}

/* Calls a function of the script, which returns nothing or an integer. */
static int call(lua_State *L, const char *function) {
	int result;
	if (!try(L, function))
		fail(L);
	result = (int)lua_tointeger(L, -1);
	lua_pop(L, 1);
	return result;
}

static lua_State *open(void) {
	lua_State *L = luaL_newstate();
	luaL_openlibs(L);
	if (luaL_loadfile(L, script) != 0 || lua_pcall(L, 0, 1, 0) != 0)
		fail(L);
	lua_setfield(L, LUA_REGISTRYINDEX, "clients");
	return L;
}

/* Opens a state, calls a function there, closes it. */
static void closes_after(const char *function) {
	lua_State *L = open();
	call(L, function);
	lua_close(L);
}

static void two_states(void) {
	lua_State *a = open(), *b = open();
	int i;
	call(a, "connect");
	call(b, "connect");
	for (i = 0; i < 5; ++i) {
		call(a, "talk");
		call(b, "talk");
	}
	lua_close(a);
	call(b, "talk");
	lua_close(b);
}

static void *lives(void *unused) {
	lua_State *L = open();
	int i;
	call(L, "connect");
	for (i = 0; i < 20; ++i)
		call(L, "talk");
	lua_close(L);
	return unused;
}

static void two_threads(void) {
	pthread_t other;
	if (pthread_create(&other, NULL, lives, NULL) != 0)
		abort();
	lives(NULL);
	pthread_join(other, NULL);
}

static void one_after_another(void) {
	int i;
	for (i = 0; i < 5; ++i)
		lives(NULL);
}

/* A state may move to another thread, as long as one at a time uses it. */
static void *closes(void *L) {
	call(L, "talk");
	lua_close(L);
	return NULL;
}

static void moves(void) {
	lua_State *L = open();
	pthread_t other;
	call(L, "connect");
	if (pthread_create(&other, NULL, closes, L) != 0)
		abort();
	pthread_join(other, NULL);
}

static void *begins(void *L) {
	call(L, "connect");
	call(L, "talk");
	return NULL;
}

/* States that have begun in different threads, and go on in one. */
static void come_together(void) {
	lua_State *a = open(), *b = open();
	pthread_t other;
	begins(a);
	if (pthread_create(&other, NULL, begins, b) != 0)
		abort();
	pthread_join(other, NULL);
	call(b, "talk");
	call(a, "talk");
	lua_close(a);
	call(b, "talk");
	lua_close(b);
}

/* Messages arrive while the program is outside of Lua, and nobody asks for them. */
static void unheard(void) {
	lua_State *L = open();
	struct pollfd news;
	news.fd = call(L, "send_to_itself");
	news.events = POLLIN;
	if (poll(&news, 1, 10000) != 1)
		abort();
	lua_close(L);
}

static void uncaught_error(void) {
	lua_State *L = open();
	if (try(L, "fail_in_handler") || strstr(lua_tostring(L, -1), "not caught") == NULL)
		abort();
	lua_close(L);
}

static void forks(void) {
	lua_State *L = open();
	int status;
	pid_t child;
	call(L, "connect");
	child = fork();
	if (child == 0) {
		call(L, "refuse_parents");
		call(L, "connect");
		call(L, "talk");
		lua_close(L);
		exit(0);
	}
	call(L, "talk");
	if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
		abort();
	call(L, "talk");
	lua_close(L);
}

/* Has a child send messages with three states and leave; what they have sent must arrive. */
static void arrives(void (*leave)(lua_State *[3])) {
	int i, status, begin[2];
	char name[32], byte = 0;
	lua_State *states[3], *L;
	pid_t child;
	snprintf(name, sizeof name, "host/left/%d", (int)getpid());
	setenv("HOST_TOPIC", name, 1);
	if (pipe(begin) != 0 || (child = fork()) < 0)
		abort();
	if (child == 0) {
		if (read(begin[0], &byte, 1) != 1)
			abort();
		for (i = 0; i < 3; ++i) {
			states[i] = open();
			call(states[i], "send_and_leave");
		}
		leave(states);
	}
	L = open();
	call(L, "listen");
	if (write(begin[1], &byte, 1) != 1 || waitpid(child, &status, 0) != child || status != 0)
		abort();
	call(L, "hear_three");
	lua_close(L);
}

static void by_exit(lua_State *states[3]) {
	(void)states;
	exit(0);
}

static void by_lua_close(lua_State *states[3]) {
	int i;
	for (i = 0; i < 3; ++i)
		lua_close(states[i]);
	_exit(0);
}

static void by_closing_one(lua_State *states[3]) {
	lua_close(states[1]);
	exit(0);
}

static void arrives_by_exit(void) { arrives(by_exit); }
static void arrives_by_lua_close(void) { arrives(by_lua_close); }
static void arrives_by_closing_one(void) { arrives(by_closing_one); }

static void connected(void) { closes_after("connect"); }
static void with_timers(void) { closes_after("leave_timers"); }
static void in_coroutine(void) { closes_after("suspend"); }
static void unsent(void) { closes_after("leave_unsent"); }

/* These end the program themselves. */
static void os_exit(void) { closes_after("os_exit"); }
static void os_exit_in_coroutine(void) { closes_after("os_exit_in_coroutine"); }
static void os_exit_in_handler(void) { closes_after("os_exit_in_handler"); }

static void c_exit(void) {
	lua_State *L = open();
	call(L, "leave_timers");
	call(L, "connect");
	exit(0);
}

static const struct {
	const char *name;
	void (*run)(void);
} scenarios[] = {
	{"two states", two_states},
	{"two states in two threads", two_threads},
	{"one state after another", one_after_another},
	{"a state that moves to another thread", moves},
	{"states of two threads that come together in one", come_together},
	{"fork", forks},
	{"lua_close while connected", connected},
	{"lua_close with pending timers", with_timers},
	{"lua_close with messages that nobody took", unheard},
	{"lua_close with messages that are not sent", unsent},
	{"lua_close with a client in an unfinished coroutine", in_coroutine},
	{"lua_close after an uncaught error", uncaught_error},
	{"os.exit(true, true)", os_exit},
	{"os.exit(true, true) in a coroutine", os_exit_in_coroutine},
	{"os.exit(true, true) in a handler", os_exit_in_handler},
	{"exit without lua_close", c_exit},
	{"exit without lua_close loses nothing", arrives_by_exit},
	{"lua_close of three states loses nothing", arrives_by_lua_close},
	{"exit after lua_close of one of three states loses nothing", arrives_by_closing_one},
};

/* Without a scenario it lists all of them. */
int main(int argc, char **argv) {
	size_t i, count = sizeof scenarios / sizeof *scenarios;
	for (i = 0; i < count; ++i) {
		if (argc < 3) {
			puts(scenarios[i].name);
		} else if (strcmp(argv[2], scenarios[i].name) == 0) {
			script = argv[1];
			scenarios[i].run();
			return 0;
		}
	}
	return argc < 3 ? 0 : 2;
}

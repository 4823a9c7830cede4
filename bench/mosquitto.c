/* The tasks of the benchmarks by libmosquitto; bench/rig/src/program.rs says how it is called and what it prints. */

#define _DEFAULT_SOURCE
#include <mosquitto.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OUTSTANDING = 100, MAX_TIMES = 1000000, LARGE = 64 * 1024 };

static const char *task;
static int qos, size = 64;
static double duration;
static char *payload;

static double start_time, start_cpu, sent_time;
static long resident;
static long messages, acknowledged;
/* What a round trip still waits for. */
static int missing;
static bool over;
static double times[MAX_TIMES];

static double now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static bool is_over(void)
{
	return now(CLOCK_MONOTONIC) - start_time >= duration;
}

/* A field of /proc/self/status, in KiB. */
static long status(const char *field)
{
	char line[256];
	long value = 0;
	FILE *file = fopen("/proc/self/status", "r");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, field, strlen(field)))
			value = atol(line + strlen(field) + 1);
	if (file)
		fclose(file);
	return value;
}

static void start(void)
{
	if (size >= LARGE) {
		FILE *file = fopen("/proc/self/clear_refs", "w");
		if (file) {
			fputs("5", file);
			fclose(file);
		}
		resident = status("VmRSS");
	}
	start_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	start_time = now(CLOCK_MONOTONIC);
}

static void report(long count)
{
	double time = now(CLOCK_MONOTONIC) - start_time, cpu = now(CLOCK_PROCESS_CPUTIME_ID) - start_cpu;
	printf("rate=%.1f cpu=%.4f", (double)count / time, cpu * 1e6 / (double)count);
	if (size >= LARGE)
		printf(" peak=%ld", status("VmHWM") - resident);
	printf("\n");
	fflush(stdout);
	exit(0);
}

static void check(int rc)
{
	if (rc != MOSQ_ERR_SUCCESS) {
		fprintf(stderr, "libmosquitto: %s\n", mosquitto_strerror(rc));
		exit(1);
	}
}

static void publish(struct mosquitto *client)
{
	check(mosquitto_publish(client, NULL, "rig/data", size, payload, qos, false));
	messages++;
}

static void end(struct mosquitto *client)
{
	check(mosquitto_publish(client, NULL, "rig/end", 0, NULL, 0, false));
}

static void round_trip(struct mosquitto *client)
{
	missing = qos > 0 ? 2 : 1;
	sent_time = now(CLOCK_MONOTONIC);
	check(mosquitto_publish(client, NULL, "rig/data", size, payload, qos, false));
}

static void on_connect(struct mosquitto *client, void *context, int rc)
{
	(void)context;
	check(rc);
	if (!strcmp(task, "roundtrip")) {
		check(mosquitto_subscribe(client, NULL, "rig/data", qos));
		return;
	}
	start();
	if (!strcmp(task, "receive")) {
		char topic[64];
		snprintf(topic, sizeof topic, "rig/receive/%d/%d/%d", qos, (int)(duration * 1000), size);
		check(mosquitto_publish(client, NULL, topic, 0, NULL, 0, false));
	} else if (qos > 0) {
		for (int i = 0; i < OUTSTANDING; i++)
			publish(client);
	} else {
		while (!is_over())
			publish(client);
		end(client);
	}
}

static void on_subscribe(struct mosquitto *client, void *context, int id, int count, const int *granted)
{
	(void)context, (void)id, (void)count, (void)granted;
	start();
	round_trip(client);
}

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static void arrived(struct mosquitto *client)
{
	if (--missing > 0)
		return;
	times[messages++] = now(CLOCK_MONOTONIC) - sent_time;
	if (!is_over() && messages < MAX_TIMES) {
		round_trip(client);
		return;
	}
	qsort(times, (size_t)messages, sizeof *times, compare);
	printf("p50=%.1f p99=%.1f ", times[messages / 2] * 1e6, times[messages * 99 / 100] * 1e6);
	report(messages);
}

static void on_publish(struct mosquitto *client, void *context, int id)
{
	(void)context, (void)id;
	if (qos == 0)
		return;
	if (!strcmp(task, "roundtrip")) {
		arrived(client);
		return;
	}
	acknowledged++;
	over = over || is_over();
	if (!over)
		publish(client);
	else if (acknowledged == messages)
		end(client);
}

static void on_message(struct mosquitto *client, void *context, const struct mosquitto_message *message)
{
	(void)context;
	if (!strcmp(task, "roundtrip"))
		arrived(client);
	else if (!strcmp(message->topic, "rig/done"))
		report(messages);
	else
		messages++;
}

int main(int argc, char **argv)
{
	if (argc < 3 || !getenv("RIG_HOST") || !getenv("RIG_PORT") || !getenv("RIG_MS")) {
		fprintf(stderr, "usage: RIG_HOST= RIG_PORT= RIG_MS= %s receive|publish|roundtrip QOS [SIZE]\n", argv[0]);
		return 2;
	}
	task = argv[1];
	qos = atoi(argv[2]);
	if (argc > 3)
		size = atoi(argv[3]);
	duration = atof(getenv("RIG_MS")) / 1000;
	payload = calloc(1, (size_t)size);

	mosquitto_lib_init();
	struct mosquitto *client = mosquitto_new("libmosquitto", true, NULL);
	check(mosquitto_max_inflight_messages_set(client, OUTSTANDING));
	check(mosquitto_int_option(client, MOSQ_OPT_TCP_NODELAY, 1));
	mosquitto_connect_callback_set(client, on_connect);
	mosquitto_subscribe_callback_set(client, on_subscribe);
	mosquitto_publish_callback_set(client, on_publish);
	mosquitto_message_callback_set(client, on_message);
	check(mosquitto_connect(client, getenv("RIG_HOST"), atoi(getenv("RIG_PORT")), 60));
	for (;;)
		check(mosquitto_loop(client, -1, 1));
}

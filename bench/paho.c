/* Publishes by Paho C, with its files if RIG_SYNC is set; bench/rig/src/program.rs says how it is called and what it
 * prints. */

#define _DEFAULT_SOURCE
#include <MQTTAsync.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OUTSTANDING = 100 };

static MQTTAsync client;
static int qos, size = 64;
static double duration;
static char *payload;

static double start_time, start_cpu;
static long messages, acknowledged;
static bool over;
/* Paho's threads call back one at a time, but not always the same. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static double now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void check(int rc)
{
	if (rc != MQTTASYNC_SUCCESS) {
		fprintf(stderr, "Paho C: %s\n", MQTTAsync_strerror(rc));
		exit(1);
	}
}

static void on_failure(void *context, MQTTAsync_failureData *response)
{
	(void)context;
	check(response && response->code != MQTTASYNC_SUCCESS ? response->code : MQTTASYNC_FAILURE);
}

static void on_success(void *context, MQTTAsync_successData *response);

static void send(const char *topic, int length, int level)
{
	MQTTAsync_responseOptions options = MQTTAsync_responseOptions_initializer;
	options.onSuccess = level > 0 ? on_success : NULL;
	options.onFailure = on_failure;
	check(MQTTAsync_send(client, topic, length, payload, level, 0, &options));
}

static void publish(void)
{
	messages++;
	send("rig/data", size, qos);
}

static void on_success(void *context, MQTTAsync_successData *response)
{
	(void)context, (void)response;
	pthread_mutex_lock(&lock);
	acknowledged++;
	over = over || now(CLOCK_MONOTONIC) - start_time >= duration;
	if (!over)
		publish();
	else if (acknowledged == messages)
		send("rig/end", 0, 0);
	pthread_mutex_unlock(&lock);
}

static void on_connect(void *context, MQTTAsync_successData *response)
{
	(void)context, (void)response;
	pthread_mutex_lock(&lock);
	start_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	start_time = now(CLOCK_MONOTONIC);
	for (int i = 0; i < OUTSTANDING; i++)
		publish();
	pthread_mutex_unlock(&lock);
}

static int on_message(void *context, char *topic, int length, MQTTAsync_message *message)
{
	(void)context, (void)topic, (void)length;
	double time = now(CLOCK_MONOTONIC) - start_time, cpu = now(CLOCK_PROCESS_CPUTIME_ID) - start_cpu;
	char count[32] = "";
	memcpy(count, message->payload, (size_t)message->payloadlen < sizeof count ? (size_t)message->payloadlen : 0);
	if (atol(count) != messages) {
		fprintf(stderr, "Paho C: messages are missing\n");
		exit(1);
	}
	printf("rate=%.1f cpu=%.4f\n", (double)messages / time, cpu * 1e6 / (double)messages);
	fflush(stdout);
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc < 3 || strcmp(argv[1], "publish") || atoi(argv[2]) < 1 || !getenv("RIG_HOST") || !getenv("RIG_PORT")
		|| !getenv("RIG_MS") || !getenv("RIG_STORE")) {
		fprintf(stderr, "usage: RIG_HOST= RIG_PORT= RIG_MS= RIG_STORE= %s publish QOS [SIZE]\n", argv[0]);
		return 2;
	}
	qos = atoi(argv[2]);
	if (argc > 3)
		size = atoi(argv[3]);
	duration = atof(getenv("RIG_MS")) / 1000;
	payload = calloc(1, (size_t)size);

	char address[256];
	snprintf(address, sizeof address, "tcp://%s:%s", getenv("RIG_HOST"), getenv("RIG_PORT"));
	bool stored = getenv("RIG_SYNC");
	check(MQTTAsync_create(&client, address, "paho", stored ? MQTTCLIENT_PERSISTENCE_DEFAULT : MQTTCLIENT_PERSISTENCE_NONE,
		getenv("RIG_STORE")));
	check(MQTTAsync_setCallbacks(client, NULL, NULL, on_message, NULL));
	MQTTAsync_connectOptions options = MQTTAsync_connectOptions_initializer;
	options.cleansession = !stored;
	options.maxInflight = OUTSTANDING;
	options.onSuccess = on_connect;
	options.onFailure = on_failure;
	check(MQTTAsync_connect(client, &options));
	for (;;)
		pause();
}

/* Sends requests at planned times to a line server on a UNIX socket (an open loop), and measures how long each takes.
 *
 *     arrivals SOCKET CLIENTS RATE SECONDS PREFIX [WAIT] < REQUEST
 *
 * Requests are planned at RATE per second for SECONDS, with exponentially distributed intervals (a Poisson process, always with
 * the same seed). A request is sent at its time on a connection without an unanswered request, whether or not earlier ones have
 * been answered. If all CLIENTS connections have one, the request is sent as soon as one has not. Its latency counts from its
 * planned time in any case, so that a server that stalls is charged for all requests that were due meanwhile.
 *
 * Before the plan begins, each connection sends the request once, so that the server has accepted all of them; these do not
 * count. Every reply must begin with PREFIX, and has one line. With WAIT, which ends in a space, the word after PREFIX is sent back
 * after WAIT on the same connection ("WAIT 17"), and the latency ends with the reply to that.
 *
 * Prints the number of requests; the median, the percentiles 99 and 99.9 and the longest latency, in microseconds; the
 * percentile 99.9 of the time between the planned time and the first byte sent; and the highest number of unanswered requests.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_MAX = 4096, LINE_BYTES = 1024, EVENTS = 64, PATIENCE_MS = 120000, SEED = 14 };
static const double FIRST_AFTER = 0.01; /* seconds from the start to the planned time of the first request */

struct client {
    int fd;
    int is_waiting; /* whether the reply to WAIT is expected */
    long request;
    size_t in_line;
    char line[LINE_BYTES + 1];
};

static const char *prefix, *wait_verb;
static char request[REQUEST_MAX];
static size_t request_bytes;
static double *planned, *latency, *late;

static void fail(const char *what)
{
    fprintf(stderr, "arrivals: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double percentile(const double *sorted, long count, double part)
{
    long at = (long)ceil(part * count) - 1;
    return 1e6 * sorted[at < 0 ? 0 : at];
}

/* Fill the plan, and return its length. The times are relative until the caller adds the start. */
static long make_plan(double rate, double seconds)
{
    long room = (long)(rate * seconds * 1.5) + 1000, count = 0;
    planned = malloc(room * sizeof *planned);
    latency = malloc(room * sizeof *latency);
    late = malloc(room * sizeof *late);
    srand48(SEED);
    double at = 0;
    while (count < room && at < seconds) {
        planned[count++] = at;
        at += -log(1 - drand48()) / rate;
    }
    return count;
}

static void send_all(struct client *client, const char *text, size_t bytes)
{
    /* A connection has one request under way, so the socket accepts all of it. */
    if (send(client->fd, text, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)bytes)
        fail("send");
}

static void connect_client(struct client *client, const char *path, int poller)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    client->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, client->fd, &event) < 0)
        fail("epoll_ctl");
}

/* Return whether the whole reply of the client's request has arrived. */
static int read_reply(struct client *client)
{
    ssize_t size = recv(client->fd, client->line + client->in_line, LINE_BYTES - client->in_line, 0);
    if (size <= 0)
        fail("the server has closed, or its line is too long");
    client->in_line += size;
    if (client->line[client->in_line - 1] != '\n')
        return 0;
    client->line[client->in_line] = 0;
    client->in_line = 0;
    size_t prefix_bytes = strlen(prefix);
    if (client->is_waiting ? !strncmp(client->line, "ERROR", 5) : strncmp(client->line, prefix, prefix_bytes)) {
        fprintf(stderr, "arrivals: refused: %s\n", client->line);
        exit(1);
    }
    if (wait_verb && !client->is_waiting) {
        char line[LINE_BYTES + 64];
        client->is_waiting = 1;
        send_all(client, line, snprintf(line, sizeof line, "%s%s", wait_verb, client->line + prefix_bytes));
        return 0;
    }
    client->is_waiting = 0;
    return 1;
}

/* Send the request once from each client, all at once, and wait for all replies. */
static void warm_up(struct client *clients, int count)
{
    for (int i = 0; i < count; i++)
        send_all(&clients[i], request, request_bytes);
    for (int i = 0; i < count; i++)
        while (!read_reply(&clients[i]))
            ;
}

static void set_timer(int timer, double at)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)at, .tv_nsec = (long)((at - (time_t)at) * 1e9)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0)
        fail("timerfd_settime");
}

int main(int argc, char **argv)
{
    if (argc != 6 && argc != 7) {
        fprintf(stderr, "arrivals SOCKET CLIENTS RATE SECONDS PREFIX [WAIT] < REQUEST\n");
        return 2;
    }
    int clients_count = atoi(argv[2]);
    double rate = atof(argv[3]), seconds = atof(argv[4]);
    prefix = argv[5];
    wait_verb = argc == 7 ? argv[6] : NULL;
    request_bytes = fread(request, 1, sizeof request, stdin);
    prctl(PR_SET_TIMERSLACK, 1UL);
    int poller = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event timer_event = {.events = EPOLLIN, .data.ptr = NULL}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &timer_event);
    struct client *clients = calloc(clients_count, sizeof *clients);
    struct client **idle = malloc(clients_count * sizeof *idle); /* a ring, so that all connections are used alike */
    for (int i = 0; i < clients_count; i++) {
        connect_client(&clients[i], argv[1], poller);
        idle[i] = &clients[i];
    }
    long total = make_plan(rate, seconds), sent = 0, answered = 0, most = 0;
    warm_up(clients, clients_count);
    double began = now() + FIRST_AFTER;
    for (long i = 0; i < total; i++)
        planned[i] += began;
    set_timer(timer, planned[0]);
    while (answered < total) {
        int ready = epoll_wait(poller, events, EVENTS, PATIENCE_MS);
        if (ready <= 0)
            fail("no reply");
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            uint64_t expirations;
            if (!client) {
                if (read(timer, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
                    fail("timerfd");
            } else if (read_reply(client)) {
                latency[client->request] = now() - planned[client->request];
                idle[answered++ % clients_count] = client;
            }
        }
        int is_due = 1;
        while (sent < total && sent - answered < clients_count && (is_due = planned[sent] <= now())) {
            struct client *client = idle[sent % clients_count];
            client->request = sent;
            late[sent] = now() - planned[sent];
            send_all(client, request, request_bytes);
            sent++;
        }
        if (sent < total && !is_due)
            set_timer(timer, planned[sent]);
        if (sent - answered > most)
            most = sent - answered;
    }
    qsort(latency, total, sizeof *latency, by_size);
    qsort(late, total, sizeof *late, by_size);
    printf("%ld %.1f %.1f %.1f %.1f %.1f %ld\n", total, percentile(latency, total, 0.5), percentile(latency, total, 0.99),
           percentile(latency, total, 0.999), 1e6 * latency[total - 1], percentile(late, total, 0.999), most);
    return 0;
}

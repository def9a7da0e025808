/* Sends the same request repeatedly, from many clients at once, to a line server on a UNIX socket.
 *
 *     load SOCKET CLIENTS DEPTH TOTAL PREFIX < REQUEST
 *
 * Each client sends DEPTH requests at once, waits for as many reply lines, and so on, until TOTAL requests of all clients
 * have been answered. Every reply must begin with PREFIX. The time runs from the first request to the last reply, and
 * excludes the connections. Prints the seconds; the median, the 99th percentile and the worst of the times from DEPTH
 * requests to the last of their replies, in microseconds; and the last reply.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_MAX = 4096, READ_BYTES = 65536, LINE_MAX_SHOWN = 200, PATIENCE_MS = 120000 };

struct client {
    int fd;
    int sent;       /* requests of the current burst */
    int missing;    /* replies of the current burst that have not arrived */
    size_t written; /* bytes of the current burst that the socket has accepted */
    size_t in_line; /* kept bytes of the reply line that is being read */
    char line[LINE_MAX_SHOWN + 1];
    double began;
};

static char *round_text;
static size_t request_bytes;
static const char *prefix;
static size_t prefix_bytes;
static int poller;
static long unsent;
static double *took;
static long rounds;

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void watch(struct client *client, int how, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(poller, how, client->fd, &event) < 0)
        fail("epoll_ctl");
}

/* Write as much as the socket accepts; the rest when it is writable again. */
static void go_on_writing(struct client *client)
{
    size_t bytes = client->sent * request_bytes;
    while (client->written < bytes) {
        ssize_t took_bytes = send(client->fd, round_text + client->written, bytes - client->written,
                                  MSG_DONTWAIT | MSG_NOSIGNAL);
        if (took_bytes < 0) {
            if (errno != EAGAIN)
                fail("send");
            watch(client, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        client->written += took_bytes;
    }
}

static void begin_round(struct client *client, int depth)
{
    if (!unsent)
        return;
    client->sent = client->missing = unsent < depth ? unsent : depth;
    unsent -= client->sent;
    client->written = 0;
    client->began = now();
    go_on_writing(client);
}

static void check_line(struct client *client)
{
    client->line[client->in_line] = 0;
    if (strncmp(client->line, prefix, prefix_bytes)) {
        fprintf(stderr, "load: refused: %s\n", client->line);
        exit(1);
    }
    client->in_line = 0;
    client->missing--;
}

/* Return the number of received lines. */
static int read_lines(struct client *client)
{
    static char buffer[READ_BYTES];
    ssize_t size = recv(client->fd, buffer, sizeof buffer, 0);
    if (size <= 0)
        fail("the server has closed");
    int lines = 0;
    char *at = buffer, *end = buffer + size;
    while (at < end) {
        char *stop = memchr(at, '\n', end - at);
        size_t length = (stop ? stop : end) - at;
        size_t room = LINE_MAX_SHOWN - client->in_line, kept = length < room ? length : room;
        memcpy(client->line + client->in_line, at, kept);
        client->in_line += kept;
        if (!stop)
            break;
        check_line(client);
        lines++;
        at = stop + 1;
    }
    return lines;
}

static int by_size(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void connect_client(struct client *client, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    client->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    watch(client, EPOLL_CTL_ADD, EPOLLIN);
}

static void prepare(int depth)
{
    static char request[REQUEST_MAX];
    request_bytes = fread(request, 1, sizeof request, stdin);
    round_text = malloc(request_bytes * depth);
    for (int i = 0; i < depth; i++)
        memcpy(round_text + i * request_bytes, request, request_bytes);
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "load SOCKET CLIENTS DEPTH TOTAL PREFIX < REQUEST\n");
        return 2;
    }
    int count = atoi(argv[2]), depth = atoi(argv[3]);
    long total = atol(argv[4]), answered = 0;
    prefix = argv[5];
    prefix_bytes = strlen(prefix);
    prepare(depth);
    poller = epoll_create1(0);
    struct client *clients = calloc(count, sizeof *clients);
    struct epoll_event events[64];
    took = malloc((total + 1) * sizeof *took);
    unsent = total;
    for (int i = 0; i < count; i++)
        connect_client(&clients[i], argv[1]);

    const char *last = "";
    double began = now();
    for (int i = 0; i < count; i++)
        begin_round(&clients[i], depth);
    while (answered < total) {
        int ready = epoll_wait(poller, events, 64, PATIENCE_MS);
        if (ready <= 0)
            fail("no reply");
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                watch(client, EPOLL_CTL_MOD, EPOLLIN);
                go_on_writing(client);
            }
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
                continue;
            answered += read_lines(client);
            last = client->line;
            if (!client->missing && client->sent) {
                took[rounds++] = now() - client->began;
                client->sent = 0;
                begin_round(client, depth);
            }
        }
    }
    double seconds = now() - began;
    qsort(took, rounds, sizeof *took, by_size);
    printf("%.6f %.1f %.1f %.1f %s\n", seconds, took[rounds / 2] * 1e6, took[rounds * 99 / 100] * 1e6,
           took[rounds - 1] * 1e6, last);
    return 0;
}

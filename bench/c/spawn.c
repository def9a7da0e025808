/* Measures the bare cost of processes: runs a program N times, PARALLEL at once, and does nothing else.
 *
 *     spawn N PARALLEL PROGRAM ARGUMENT...
 *
 * Prints the seconds to stderr, since the program has stdout.
 */
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    long runs = atol(argv[1]), at_once = atol(argv[2]), started = 0, ended = 0;
    struct timespec began, now;
    clock_gettime(CLOCK_MONOTONIC, &began);
    while (ended < runs) {
        while (started < runs && started - ended < at_once) {
            pid_t pid;
            int error = posix_spawnp(&pid, argv[3], NULL, NULL, argv + 3, environ);
            if (error) {
                fprintf(stderr, "spawn: %s: %s\n", argv[3], strerror(error));
                return 1;
            }
            started++;
        }
        int status;
        if (wait(&status) < 0 || status) {
            fprintf(stderr, "spawn: %s failed: status %d\n", argv[3], status);
            return 1;
        }
        ended++;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    fprintf(stderr, "%.6f\n", now.tv_sec - began.tv_sec + (now.tv_nsec - began.tv_nsec) / 1e9);
    return 0;
}

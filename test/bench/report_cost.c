/*
 * What one report costs the server that makes it, timed from outside the call, as sshd with our
 * patch makes it: one-shot, with the descriptor and the address of a connected TCP socket.
 *
 *   report_cost NUMBER     prints "results median_ns p99_ns max_ns", results being the number of
 *                          reports for each errno, as "0:990,11:10"
 *
 * EGRESS_SOCKET says where egressd is, if it is. login_cost.py runs this.
 */
#include <netinet/in.h>
#include <sys/socket.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <egress.h>

enum { most_errnos = 256 };

static long now(void) {
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int order(const void* left, const void* right) {
    long a = *(const long*)left;
    long b = *(const long*)right;

    return (a > b) - (a < b);
}

/* The server's end of a connection over loopback, and who is at the other. */
static int accepted(struct sockaddr_in* peer) {
    struct sockaddr_in local;
    socklen_t length = sizeof(local);
    int server = socket(AF_INET, SOCK_STREAM, 0);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    int connection;

    memset(&local, 0, sizeof(local));
    local.sin_family = AF_INET;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(server, (struct sockaddr*)&local, sizeof(local)) != 0 || listen(server, 1) != 0 ||
        getsockname(server, (struct sockaddr*)&local, &length) != 0 ||
        connect(client, (struct sockaddr*)&local, sizeof(local)) != 0)
        return -1;
    length = sizeof(*peer);
    connection = accept(server, (struct sockaddr*)peer, &length);
    return connection;
}

int main(int argc, char** argv) {
    static long counts[most_errnos];
    const char* comma = "";
    struct sockaddr_in peer;
    int connection = accepted(&peer);
    int number = argc == 2 ? atoi(argv[1]) : 0;
    long* took = number > 0 ? calloc((size_t)number, sizeof(*took)) : NULL;

    if (connection == -1 || took == NULL) {
        fprintf(stderr, "usage: report_cost NUMBER\n");
        return 2;
    }
    for (int i = 0; i < number; i++) {
        long start = now();
        int bad = egress_report_sa(EGRESS_AUTH_FAIL, connection, (struct sockaddr*)&peer,
                                   sizeof(peer), "wrong password");

        took[i] = now() - start;
        counts[bad == 0 ? 0 : errno % most_errnos]++;
    }
    qsort(took, (size_t)number, sizeof(*took), order);
    for (int i = 0; i < most_errnos; i++) {
        if (counts[i] != 0) {
            printf("%s%d:%ld", comma, i, counts[i]);
            comma = ",";
        }
    }
    printf(" %ld %ld %ld\n", took[number / 2], took[number - 1 - number / 100], took[number - 1]);
    free(took);
    return 0;
}

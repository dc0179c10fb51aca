/* A server as it is patched for NetBSD and FreeBSD: nothing in here knows of egress. */
#include <sys/socket.h>
#include <sys/types.h>

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <blocklist.h>

static void no_log(int level, struct syslog_data* data, const char* format, va_list arguments) {
    (void)level;
    (void)data;
    (void)format;
    (void)arguments;
}

int main(void) {
    struct sockaddr_in remote;
    struct blocklist* state;
    int failures = 0;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    memset(&remote, 0, sizeof remote);
    remote.sin_family = AF_INET;

    failures += blocklist(1, fd, "by number") != 0;
    failures += blocklist(BLOCKLIST_AUTH_OK, fd, "by name") != 0;
    failures += blocklist_sa(BLOCKLIST_BAD_USER, fd, (struct sockaddr*)&remote, sizeof remote,
                             "address") != 0;
    state = blocklist_open();
    failures += blocklist_r(state, BLOCKLIST_ABUSIVE_BEHAVIOR, fd, "handle") != 0;
    failures += blocklist_sa_r(state, BLOCKLIST_AUTH_FAIL, fd, (struct sockaddr*)&remote,
                               sizeof remote, "handle and address") != 0;
    blocklist_close(state);
    state = blocklist_open2(no_log);
    failures += blocklist_r(state, BLOCKLIST_AUTH_FAIL, fd, "logger") != 0;
    blocklist_close(state);
    close(fd);
    return failures;
}

/* The same under the interface's older name, and as a caller that keeps its own enumeration. */
#include <sys/socket.h>
#include <sys/types.h>

#include <string.h>
#include <unistd.h>

#include <blacklist.h>

#ifndef BLACKLIST_API_ENUM
#error "callers use this to find out whether the actions have names"
#endif

int main(void) {
    struct sockaddr_storage remote;
    struct blacklist* state = blacklist_open();
    int failures = 0;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);

    memset(&remote, 0, sizeof remote);
    remote.ss_family = AF_INET;

    failures += blacklist(0, fd, "by number") != 0;
    failures += blacklist_sa(BLACKLIST_AUTH_FAIL, fd, (struct sockaddr*)&remote, sizeof remote,
                             "address") != 0;
    failures += blacklist_r(state, BLACKLIST_ABUSIVE_BEHAVIOR, fd, "handle") != 0;
    failures += blacklist_sa_r(state, BLACKLIST_BAD_USER, fd, (struct sockaddr*)&remote,
                               sizeof remote, "handle and address") != 0;
    blacklist_close(state);
    close(fd);
    return failures;
}

#include "test/unit/lib_counters.h"

#include <cstddef>
#include <cstdlib>

#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {
thread_local constinit egress::test::Counters mine;
}

egress::test::Counters egress::test::counters() {
    return mine;
}

extern "C" {

#ifdef EGRESS_SANITIZED
// Of the sanitizer's run-time library, whose header not every compiler installs.
int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*, std::size_t),
                                              void (*)(const volatile void*));
__attribute__((constructor)) static void watch_allocations() {
    __sanitizer_install_malloc_and_free_hooks(
        [](const volatile void*, std::size_t) { ++mine.allocations; }, [](const volatile void*) {});
}
#else
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);

void* malloc(std::size_t size) {
    ++mine.allocations;
    return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
    ++mine.allocations;
    return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
    ++mine.allocations;
    return __libc_realloc(memory, size);
}
#endif

int socket(int domain, int type, int protocol) noexcept {
    ++mine.sockets;
    return static_cast<int>(syscall(SYS_socket, domain, type, protocol));
}
int connect(int fd, const sockaddr* address, socklen_t length) {
    pthread_testcancel(); // the C library's is a cancellation point
    ++mine.connects;
    return static_cast<int>(syscall(SYS_connect, fd, address, length));
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    pthread_testcancel();
    ++mine.sends;
    return syscall(SYS_sendmsg, fd, message, flags);
}
int close(int fd) {
    pthread_testcancel();
    ++mine.closes;
    return static_cast<int>(syscall(SYS_close, fd));
}
}

// Sends one report and prints what became of it; lib_test runs it, also as a set-uid program.
#include <cerrno>
#include <cstdio>

#include <egress.h>

int main() {
    const int result = egress_report(EGRESS_AUTH_FAIL, -1, "probe");
    std::printf("%d\n", result == 0 ? 0 : errno);
    return 0;
}

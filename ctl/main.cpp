// egressctl: the operator's command. Everything happens in run(); see table.cpp for the commands.
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "ctl/table.h"
#include "daemon/base/clock.h"
#include "egress-paths.h"

int main(int argc, char** argv) {
    try {
        const egress::SystemClock clock;
        egress::ctl::Context context;
        context.clock = &clock;
        const char* const from_environment = std::getenv("EGRESS_CONTROL");
        const bool set = from_environment != nullptr && *from_environment != '\0';
        context.socket = set ? from_environment : EGRESS_CONTROL_SOCKET;
        context.pins = EGRESS_PINS;
        const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
        return static_cast<int>(egress::ctl::run(context, words));
    } catch (const std::bad_alloc&) {
        std::fputs("egressctl: out of memory\n", stderr);
    }
    return static_cast<int>(egress::ctl::Exit::unreachable);
}

#include "load_reporter.h"

#include <cerrno>
#include <chrono>
#include <thread>

#include <err.h>

#include "egress.h"

Reporter::Reporter(bool handle) : handle_(handle ? egress_open() : nullptr) {}

Reporter::~Reporter() {
    egress_close(static_cast<egress*>(handle_));
}

void Reporter::report(int fd) {
    using namespace std::chrono_literals;
    constexpr const char* text = "bad password";
    auto* const handle = static_cast<egress*>(handle_);
    while ((handle != nullptr ? egress_report_r(handle, EGRESS_AUTH_FAIL, fd, text)
                              : egress_report(EGRESS_AUTH_FAIL, fd, text)) != 0) {
        if (errno != EAGAIN) {
            err(1, "egress_report");
        }
        ++retries_;
        std::this_thread::sleep_for(100us);
    }
}

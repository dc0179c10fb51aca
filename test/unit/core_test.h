// What the tests of the daemon's floors share: a clock moved by hand, rules, reports, folders.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/base/clock.h"
#include "daemon/policy/parser.h"
#include "daemon/report/verify.h"

namespace egress::test {

class FakeClock final : public Clock {
  public:
    Moment now() const override { return boot; }
    std::int64_t at_boot() const override { return offset; }
    void pass(Seconds seconds) { boot += seconds; }

    Moment boot = 10'000;
    std::int64_t offset = 1'700'000'000; ///< wall-clock time minus time since boot
};

/// A folder of its own that goes with it.
class Folder {
  public:
    Folder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "egress-unit-XXXXXX");
        REQUIRE(mkdtemp(pattern.data()) != nullptr);
        path = pattern;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::string operator/(const std::string& name) const { return path + "/" + name; }

    std::string path;
};

inline policy::Policy rules(std::string_view text) {
    auto parsed = policy::parse_text(text, "t");
    for (const auto& diagnostic : parsed.diagnostics) {
        INFO(diagnostic.message());
        CHECK(diagnostic.severity == policy::Diagnostic::Severity::warning);
    }
    return std::move(parsed.policy);
}

inline Address address(std::string_view text) {
    const auto parsed = Address::parse(text);
    INFO(std::string(text));
    REQUIRE(parsed);
    return *parsed;
}

inline Prefix prefix(std::string_view text) {
    const auto parsed = Prefix::parse(text);
    INFO(std::string(text));
    REQUIRE(parsed);
    return *parsed;
}

/// A report about `remote` at 10.0.0.1:22 over TCP.
inline Report report_of(std::string_view remote, Action action = Action::fail) {
    Report report;
    report.action = action;
    report.local = {address("10.0.0.1"), 22};
    report.remote = {address(remote), 40'000};
    report.type = SOCK_STREAM;
    report.protocol = IPPROTO_TCP;
    report.uid = 1000;
    report.pid = 1;
    return report;
}

} // namespace egress::test

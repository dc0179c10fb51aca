#include "ctl/block_text.h"

namespace egress::ctl {

std::string block_text(const Json& row) {
    const auto port = number_at(row, "port").value_or(0);
    const auto protocol = text_at(row, "protocol");
    return fmt::format("{}/{}{}{} in {}", text_at(row, "addr"),
                       number_at(row, "prefixlen").value_or(0),
                       port != 0 ? fmt::format(" port {}", port) : "",
                       protocol.empty() ? "" : " " + protocol, text_at(row, "name"));
}

std::string until_text(const Json& row) {
    const auto until = text_at(row, "until");
    return until.empty() ? "for ever" : "until " + until;
}

std::string limit_text(const Json& row) {
    const auto nfail = number_at(row, "nfail").value_or(0);
    return nfail == 0 ? "*" : fmt::format("{}", nfail);
}

} // namespace egress::ctl

// Any text: refused with at least one error, or rules that print to a text that means the same.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "daemon/policy/check.h"
#include "daemon/policy/login/match.h"
#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"

using namespace egress;
using namespace egress::policy;

namespace {

void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "does not hold: %s\n", what);
        std::abort();
    }
}

void look_at(const std::vector<Diagnostic>& diagnostics) {
    require(diagnostics.size() <= max_diagnostics, "diagnostics are bounded");
    for (const auto& diagnostic : diagnostics) {
        const auto message = diagnostic.message();
        require(message.size() < 8192, "a message is bounded");
        require(
            std::ranges::none_of(
                message, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }),
            "a message holds no control character");
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto parsed = parse_text(text, text.substr(0, 16));
    look_at(parsed.diagnostics);
    look_at(check(parsed.policy));
    if (!parsed.ok()) {
        return 0;
    }
    const auto printed = print(parsed.policy);
    const auto again = parse_text(printed, "printed");
    require(again.ok(), "what is printed parses");
    require(same_meaning(again.policy, parsed.policy), "what is printed means the same");
    require(print(again.policy) == printed, "printing is stable");

    const Matcher matcher(parsed.policy, "egress", [](std::string_view) { return NameId{0}; });
    Subject subject;
    for (const auto& rule : parsed.policy.local) {
        const auto& prefix = rule.location.prefix;
        subject.local = {prefix ? prefix->base : Address(), rule.location.port.value_or(1)};
        subject.interface = rule.location.interface;
        subject.remote.address = subject.local.address;
        subject.type = rule.type.value_or(0);
        subject.protocol = rule.protocol.number.value_or(0);
        subject.uid = rule.owner.value_or(0);
        EffectiveRule decision;
        const bool family = rule.protocol.family == AF_UNSPEC ||
                            rule.protocol.family == subject.remote.address.family();
        require(matcher.match(subject, decision) || !family, "a report made for a line matches");
    }
    return 0;
}

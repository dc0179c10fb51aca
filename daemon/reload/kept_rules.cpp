#include "daemon/reload/kept_rules.h"

#include <utility>

#include "daemon/policy/parser.h"
#include "daemon/policy/print/print.h"
#include "daemon/store/env.h"

namespace egress {

namespace {

constexpr const char* name = "rules of the last good start";

/// The sections before [egress], which is printed last.
std::string without_egress(const std::string& text) {
    const auto begin = text.find("[egress]\n");
    return begin == std::string::npos ? text : text.substr(0, begin);
}

} // namespace

std::string kept_text(const policy::Policy& policy) {
    const auto text = policy::print(policy);
    return text.empty() ? "[local]\n" : text; // no line is a rule set, too
}

std::optional<KeptRules> kept_rules(const std::string& database, const std::string& conf) {
    if (!store::probe(database)) {
        return std::nullopt;
    }
    const auto env = store::Env::open(database, store::Env::Mode::read_only);
    const auto text = env ? env->meta(kept_rules_key) : std::unexpected(env.error());
    if (!text || text->empty()) {
        return std::nullopt;
    }
    // No directory: what lay there is in the text.
    auto whole = policy::parse_instead(*text, name, conf, "");
    if (whole.ok()) {
        return KeptRules{std::move(whole.policy), false};
    }
    auto part = policy::parse_instead(without_egress(*text), name, conf, "");
    return part.ok() ? std::optional(KeptRules{std::move(part.policy), true}) : std::nullopt;
}

} // namespace egress

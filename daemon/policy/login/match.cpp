#include "daemon/policy/login/match.h"

#include <fmt/format.h>

#include "daemon/policy/login/index.h"

namespace egress::policy {

namespace {

using Nfail = Setting<std::uint32_t>;
using Disable = Setting<Seconds>;

/// Length at which the remote address is counted; its full width if no line gives one.
int aggregate_of(const Rule& local, const Rule* remote, const Address& address) {
    const auto own = [&](const Rule& rule) {
        return address.is_v4() ? rule.name.aggregate.v4 : rule.name.aggregate.v6;
    };
    auto length = own(local);
    if (remote != nullptr) {
        const bool inherits =
            remote->name.kind == Name::Kind::inherit || remote->name.aggregate.inherit;
        const auto given = own(*remote);
        length = given || !inherits ? given : length;
    }
    return length.value_or(static_cast<std::uint8_t>(address.width()));
}

/// Replaces the fields that the options give.
void apply(const LoginOptions& options, EffectiveRule& out) {
    out.escalate_percent = options.escalate_percent.value_or(out.escalate_percent);
    out.max = options.max.value_or(out.max);
    out.window = options.window.value_or(out.window);
    out.kill = options.kill.value_or(out.kill);
    out.reject = options.reject.value_or(out.reject);
    out.spoofable = options.spoofable.value_or(out.spoofable);
    out.by_name = options.by_name.value_or(out.by_name);
    out.all_ports = options.all_ports.value_or(out.all_ports);
    out.keep = options.keep.value_or(out.keep);
    for (const auto& grow : options.grow) {
        if ((grow.length > 32) != out.counted.base.is_v4()) {
            out.grow = grow;
        }
    }
}

void apply(const Nfail& nfail, const Disable& disable, EffectiveRule& out) {
    if (nfail.kind != Nfail::Kind::inherit) {
        out.limited = nfail.kind == Nfail::Kind::value;
        out.nfail = nfail.value;
    }
    if (disable.kind != Disable::Kind::inherit) {
        out.disable = disable.kind == Disable::Kind::value ? disable.value : forever;
    }
}

} // namespace

struct Matcher::Index {
    Policy policy;
    SectionIndex local;
    SectionIndex remote;
    std::vector<NameId> local_names; // per rule; unused for those that inherit
    std::vector<NameId> remote_names;
};

Matcher::Matcher(Policy policy, std::string_view standard_name,
                 const std::function<NameId(std::string_view)>& intern)
    : index_(std::make_unique<Index>()) {
    index_->policy = std::move(policy);
    const auto names = [&](const std::vector<Rule>& rules) {
        std::vector<NameId> ids;
        ids.reserve(rules.size());
        for (const auto& rule : rules) {
            switch (rule.name.kind) {
            case Name::Kind::standard:
                ids.push_back(intern(standard_name));
                break;
            case Name::Kind::append:
                ids.push_back(intern(fmt::format("{}{}", standard_name, rule.name.text)));
                break;
            case Name::Kind::literal:
                ids.push_back(intern(rule.name.text));
                break;
            case Name::Kind::inherit:
                ids.push_back(0);
                break;
            }
        }
        return ids;
    };
    index_->local_names = names(index_->policy.local);
    index_->remote_names = names(index_->policy.remote);
    index_->local = SectionIndex(index_->policy.local);
    index_->remote = SectionIndex(index_->policy.remote);
}

Matcher::~Matcher() = default;
Matcher::Matcher(Matcher&&) noexcept = default;
Matcher& Matcher::operator=(Matcher&&) noexcept = default;

bool Matcher::match(const Subject& subject, EffectiveRule& out) const {
    const auto& policy = index_->policy;
    const Address& remote_address = subject.remote.address;
    SectionIndex::Probe probe;
    probe.address = &subject.local.address;
    probe.interface = subject.interface;
    probe.port = subject.local.port;
    probe.protocol = subject.protocol;
    probe.type = subject.type;
    probe.family = remote_address.family();
    probe.uid = subject.uid;
    const auto local = index_->local.find(probe);
    if (!local) {
        return false;
    }
    probe.address = &remote_address;
    probe.interface = {};
    probe.own = subject.remote_own;
    const auto remote = index_->remote.find(probe);

    out = EffectiveRule{};
    out.local = &policy.local[*local];
    out.remote = remote ? &policy.remote[*remote] : nullptr;
    out.name = out.remote != nullptr && out.remote->name.kind != Name::Kind::inherit
                   ? index_->remote_names[*remote]
                   : index_->local_names[*local];
    out.counted =
        Prefix::around(remote_address, aggregate_of(*out.local, out.remote, remote_address));
    for (const Rule* rule : {out.local, out.remote}) {
        if (rule != nullptr) {
            apply(rule->nfail, rule->disable, out);
            apply(rule->options, out);
        }
    }
    // A set element with time-out 0 would never expire; a block of 0 seconds is no block.
    out.limited = out.limited && out.disable != 0;
    if (out.grow.length >= out.counted.length) {
        out.grow = {};
    }
    return true;
}

const Trusted* Matcher::trusted(std::uint32_t uid,
                                const std::function<bool(const Trusted&)>& fits) const {
    const Trusted* anyone = nullptr;
    for (const auto& line : index_->policy.trusted) {
        if (line.owner == uid && fits(line)) {
            return &line;
        }
        if (!line.owner && anyone == nullptr && fits(line)) {
            anyone = &line;
        }
    }
    return anyone;
}

const Policy& Matcher::policy() const {
    return index_->policy;
}

} // namespace egress::policy

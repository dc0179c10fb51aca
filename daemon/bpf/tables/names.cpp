#include "daemon/bpf/tables/names.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "daemon/bpf/names.h"
#include "daemon/bpf/others.h"
#include "daemon/policy/egress/check.h"

namespace egress::bpf {

namespace {

using policy::Destination;
using policy::EgressRule;
using policy::NameKind;
using policy::NamePatterns;

/// Buckets are doubled until every key has its place; beyond this the table would be of no use.
constexpr std::uint32_t most_buckets = 1U << 24;

/// The rules that name the same pattern, by their number among all such sets.
using SetId = std::uint32_t;

/// A pattern and rules that name it; small, as there may be millions.
struct Entry {
    std::uint64_t key;
    SetId set; ///< in the end: what the table has for the key
    bool own;
    friend bool operator<(const Entry& a, const Entry& b) {
        return std::tie(a.key, a.set) < std::tie(b.key, b.set);
    }
};
static_assert(sizeof(Entry) == 16);

/// All patterns of all rules.
class Entries {
  public:
    Entries(const policy::Policy& policy, const World& world) : world_(world) {
        std::map<std::string, egress_vector> lists; // a list is hashed once
        for (std::size_t i = 0; i < policy.egress.size(); ++i) {
            const Destination& destination = policy.egress[i].destination;
            egress_vector self{};
            set(self, i);
            if (is_name(destination)) {
                add(pattern_of(destination), set_of(self));
            } else if (destination.kind == Destination::Kind::list) {
                lists[destination.text] = combine(lists[destination.text], self);
            }
        }
        for (const auto& list : policy.lists) {
            if (const auto found = lists.find(list->name); found != lists.end()) {
                add_list(*list, found->second);
            }
        }
        std::sort(entries_.begin(), entries_.end());
    }

    std::vector<Entry>& all() { return entries_; }
    const egress_vector& rules(SetId id) const { return sets_[id]; }

  private:
    SetId set_of(const egress_vector& rules) {
        sets_.push_back(rules);
        return static_cast<SetId>(sets_.size() - 1);
    }

    void add(const NamePatterns::Pattern& pattern, SetId rules) {
        entries_.push_back(
            {key_of(pattern, world_.names_key), rules, is_own(pattern, world_.search)});
    }

    void add_list(const policy::AddressList& list, const egress_vector& rules) {
        const SetId id = set_of(rules);
        entries_.reserve(entries_.size() + list.names.size());
        list.names.each([&](const NamePatterns::Pattern& pattern) { add(pattern, id); });
    }

    const World& world_;
    std::vector<Entry> entries_;
    std::vector<egress_vector> sets_;
};

class NameTable {
  public:
    NameTable(const policy::Policy& policy, const World& world, VectorPool& pool)
        : entries_(policy, world), pool_(pool) {
        for (std::size_t i = 0; i < policy.egress.size(); ++i) {
            const EgressRule& rule = policy.egress[i];
            if (rule.verdict.kind != policy::Verdict::Kind::allow) {
                set(refusals_, i);
            } else if (!rule.options.rebind) {
                set(guarded_, i);
            }
        }
        join();
    }

    std::size_t size() { return entries_.all().size(); }

    /// Fails if keys crowd however many buckets there are, which no one can bring about.
    Result<std::vector<egress_names>> fill() {
        auto buckets = egress_buckets_for(static_cast<std::uint32_t>(size()));
        for (; buckets <= most_buckets; buckets *= 2) {
            std::vector<egress_names> out(buckets);
            const bool all = std::ranges::all_of(entries_.all(), [&](const Entry& each) {
                auto* const place = egress_put_name(out.data(), buckets, each.key);
                if (place != nullptr) {
                    *place = each.set;
                }
                return place != nullptr;
            });
            if (all) {
                return out;
            }
        }
        return fail(fmt::format("the {} names of [egress] find no room", size()));
    }

  private:
    /// Each key once, with the rules of all its entries; in place.
    void join() {
        std::map<SetId, Index> known;
        auto& all = entries_.all();
        std::size_t used = 0;
        for (std::size_t at = 0; at < all.size();) {
            const Entry first = all[at];
            Index value = 0;
            if (at + 1 == all.size() || all[at + 1].key != first.key) {
                const auto [entry, added] = known.try_emplace(first.set, 0);
                if (added) {
                    entry->second = value_of(entries_.rules(first.set));
                }
                value = entry->second;
                ++at;
            } else {
                egress_vector rules{};
                for (; at < all.size() && all[at].key == first.key; ++at) {
                    rules = combine(rules, entries_.rules(all[at].set));
                }
                value = value_of(rules);
            }
            all[used++] = {first.key, value | (first.own ? EGRESS_NAME_REBINDS : 0), first.own};
        }
        all.resize(used);
    }

    /// Private addresses are granted if no line that allows the name is guarded against them.
    Index value_of(const egress_vector& rules) {
        const bool guarded = !is_empty(intersect(rules, guarded_));
        const bool refuses = !is_empty(intersect(rules, refusals_));
        return pool_.add(rules) | (guarded ? 0 : EGRESS_NAME_REBINDS) |
               (refuses ? EGRESS_NAME_REFUSES : 0);
    }

    Entries entries_;
    VectorPool& pool_;
    egress_vector guarded_{};  ///< lines that allow, without rebind=allow
    egress_vector refusals_{}; ///< lines that refuse
};

/// The rules for which `holds` is true.
template <typename Holds>
egress_vector where(const policy::Policy& policy, Holds holds) {
    egress_vector out{};
    for (std::size_t i = 0; i < policy.egress.size(); ++i) {
        if (holds(policy.egress[i])) {
            set(out, i);
        }
    }
    return out;
}

} // namespace

std::uint64_t key_of(const NamePatterns::Pattern& pattern,
                     const std::array<std::uint64_t, 2>& secret) {
    const std::array<__u64, 2> key = {secret[0], secret[1]};
    const auto hash = egress_hash_name(key.data(), pattern.name.data(),
                                       static_cast<std::uint32_t>(pattern.name.size()));
    const auto kind = pattern.kind == NameKind::exact ? EGRESS_PATTERN_EXACT
                      : pattern.kind == NameKind::one ? EGRESS_PATTERN_ONE
                                                      : EGRESS_PATTERN_DEEP;
    return egress_name_key(hash, kind);
}

bool is_own(const NamePatterns::Pattern& pattern, const std::vector<std::string>& search) {
    return std::ranges::any_of(search, [&](const std::string& domain) {
        const auto name = pattern.name;
        const bool same = name == domain;
        return same || (name.size() > domain.size() && name.ends_with(domain) &&
                        name[name.size() - domain.size() - 1] == '.');
    });
}

Result<> compile_names(const policy::Policy& policy, const World& world, VectorPool& pool,
                       Tables& out) {
    egress_base& base = *out.base;
    const auto literal = where(policy, [](const EgressRule& r) { return !r.options.resolved; });
    const auto refusals = where(policy, [](const EgressRule& rule) {
        return rule.verdict.kind != policy::Verdict::Kind::allow;
    });
    base.resolved[EGRESS_LITERAL] = pool.add(literal);
    base.resolved[EGRESS_RESOLVED] =
        pool.add(where(policy, [](const EgressRule&) { return true; }));
    base.resolved[EGRESS_DOUBTFUL] = pool.add(combine(literal, refusals));
    const auto resolved = where(policy, [](const EgressRule& r) { return r.options.resolved; });
    base.has_resolved = (is_empty(resolved) ? 0 : 1) |
                        (is_empty(intersect(resolved, refusals)) ? 0 : EGRESS_NAME_REFUSES);
    base.names_doubt = pool.add(intersect(refusals, where(policy, [&](const auto& rule) {
                                              return goes_by_name(policy, rule.destination);
                                          })));
    std::ranges::copy(world.names_key, std::begin(base.names_key));
    NameTable table(policy, world, pool);
    auto filled = table.fill();
    if (!filled) {
        return std::unexpected(filled.error());
    }
    out.names = std::move(*filled);
    out.names_used = table.size();
    base.names_buckets = static_cast<std::uint32_t>(out.names.size());
    base.lists_questions = policy.dns.queries_listed.value_or(false) ? 1 : 0;
    switch (policy.dns.others.value_or(policy::Dns::Others::allow)) {
    case policy::Dns::Others::allow:
        base.others = EGRESS_OTHERS_ALLOWED;
        break;
    case policy::Dns::Others::alarm:
        base.others = EGRESS_OTHERS_ALARM;
        break;
    case policy::Dns::Others::refuse:
        base.others = EGRESS_OTHERS_REFUSED;
        break;
    }
    base.has_names = base.has_resolved || base.lists_questions || !out.names.empty();
    return {};
}

} // namespace egress::bpf

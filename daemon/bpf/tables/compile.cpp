#include "daemon/bpf/tables/compile.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <set>

#include <netinet/in.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include "daemon/bpf/tables/destinations.h"
#include "daemon/bpf/tables/names.h"
#include "daemon/bpf/tables/schedule.h"
#include "daemon/bpf/tables/vectors.h"
#include "daemon/bpf/unix_name.h"

namespace egress::bpf {

namespace {

using policy::EgressRule;
using policy::Program;

/// Bit sets by key, while they are built; `less` orders the keys.
template <typename Key, typename Less = std::less<Key>>
class Sets {
  public:
    egress_vector& operator[](const Key& key) { return sets_[key]; }
    bool contains(const Key& key) const { return sets_.contains(key); }

    /// The sets as a table, `always` added to each.
    std::vector<std::pair<Key, Index>> table(VectorPool& pool,
                                             const egress_vector& always = {}) const {
        std::vector<std::pair<Key, Index>> out;
        out.reserve(sets_.size());
        for (const auto& [key, rules] : sets_) {
            out.emplace_back(key, pool.add(combine(rules, always)));
        }
        return out;
    }
    const std::map<Key, egress_vector, Less>& sets() const { return sets_; }

  private:
    std::map<Key, egress_vector, Less> sets_;
};

Command command_key(std::string_view text) {
    Command key{};
    std::copy_n(text.begin(), std::min(text.size(), key.size() - 1), key.begin());
    return key;
}

bool asks_for_cgroup(const EgressRule& rule) {
    return !rule.options.cgroup.empty() || !rule.options.unit.empty();
}

bool is_everywhere(const EgressRule& rule) {
    return rule.destination.kind == policy::Destination::Kind::any &&
           rule.destination.ports.empty() && !rule.options.resolved;
}

/// Whether the rule is for sockets of AF_UNIX.
bool for_socket(const EgressRule& rule) {
    return rule.destination.kind == policy::Destination::Kind::socket;
}

bool holds(const IdPrefix& prefix, std::uint32_t id) {
    return prefix.length == 0 || ((prefix.id ^ id) >> (32 - prefix.length)) == 0;
}

/// The fewest prefixes that make up the range.
std::vector<IdPrefix> prefixes_of(const IdRange& range) {
    std::vector<IdPrefix> out;
    std::uint64_t at = range.first;
    const std::uint64_t end = std::min<std::uint64_t>(at + range.count, std::uint64_t{1} << 32);
    while (at < end) {
        std::uint32_t bits = at == 0 ? 32 : static_cast<std::uint32_t>(std::countr_zero(at));
        bits = std::min<std::uint32_t>(bits, 32);
        while ((std::uint64_t{1} << bits) > end - at) {
            --bits;
        }
        out.push_back({static_cast<std::uint32_t>(at), 32 - bits});
        at += std::uint64_t{1} << bits;
    }
    return out;
}

class Compiler {
  public:
    Compiler(const policy::Policy& policy, const World& world)
        : rules_(policy.egress), policy_(policy), world_(world) {
        out_.base = std::make_unique<egress_base>();
    }

    Result<Tables> run(std::uint64_t generation) {
        egress_base& base = *out_.base;
        base.generation = generation;
        base.rules_used = static_cast<std::uint32_t>(rules_.size());
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            auto made = compile_rule(rules_[i], world_.wall_at_boot);
            if (!made) {
                return std::unexpected(made.error());
            }
            base.rules[i] = *made;
            base.has_times |= (made->flags & EGRESS_RULE_TIMED) ? 1 : 0;
            base.rules[i].line = static_cast<std::uint32_t>(i + 1);
        }
        if (auto done = compile_destinations(policy_, world_, pool_, out_); !done) {
            return std::unexpected(done.error());
        }
        if (auto done = compile_names(policy_, world_, pool_, out_); !done) {
            return std::unexpected(done.error());
        }
        out_.has_sockets = std::ranges::any_of(rules_, for_socket) ? 1 : 0;
        base.refusals = where([](const EgressRule& rule) {
            return rule.verdict.kind != policy::Verdict::Kind::allow;
        });
        loaded_ = where(refuses_program);
        ports();
        protocols();
        owners();
        lenders();
        programs();
        if (auto done = trees(); !done) {
            return std::unexpected(done.error());
        }
        lineage();
        places();
        out_.vectors = pool_.take();
        return std::move(out_);
    }

  private:
    /// The rules for which `holds` is true.
    template <typename Holds>
    egress_vector where(Holds holds) const {
        egress_vector out{};
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            if (holds(rules_[i])) {
                set(out, i);
            }
        }
        return out;
    }

    void ports() {
        // The set changes only where a rule's range begins or ends, and only by that rule.
        struct Edge {
            egress_vector begin{};
            egress_vector end{};
        };
        std::map<std::uint32_t, Edge> edges = {{0, {}}, {65536, {}}};
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            for (const auto& range : rules_[i].destination.ports) {
                set(edges[range.first].begin, i);
                set(edges[std::uint32_t{range.last} + 1].end, i);
            }
        }
        egress_vector rules =
            where([](const EgressRule& rule) { return rule.destination.ports.empty(); });
        for (auto edge = edges.begin(); edge->first < 65536; ++edge) {
            rules = combine(combine(rules, {}, edge->second.end), edge->second.begin);
            std::fill(out_.base->ports + edge->first, out_.base->ports + std::next(edge)->first,
                      pool_.add(rules));
        }
    }

    void protocols() {
        std::set<int> types;
        std::set<int> numbers;
        for (const auto& rule : rules_) {
            types.insert(rule.type.value_or(-1));
            numbers.insert(rule.protocol.number.value_or(-1));
        }
        std::map<std::pair<int, int>, Index> known; // -1: one that no rule names
        for (int type = 0; type < EGRESS_TYPES; ++type) {
            for (int number = 0; number < EGRESS_PROTOCOLS; ++number) {
                // Of AF_UNIX the type stands in the place of the protocol.
                const bool is_unix = type == EGRESS_TYPE_UNIX;
                const std::pair key{is_unix || types.contains(type) ? type : -1,
                                    (is_unix ? types : numbers).contains(number) ? number : -1};
                auto [entry, added] = known.emplace(key, 0);
                if (added) {
                    entry->second = pool_.add(where([key, is_unix](const EgressRule& rule) {
                        const auto& [its_type, its_number] = key;
                        return for_socket(rule) == is_unix &&
                               (!rule.type || *rule.type == (is_unix ? its_number : its_type)) &&
                               (!rule.protocol.number || *rule.protocol.number == its_number);
                    }));
                }
                out_.base->protocols[type][number] = entry->second;
            }
        }
    }

    void owners() {
        const auto any_user = where([](const EgressRule& rule) { return !rule.owner.uid; });
        const auto any_group = where([](const EgressRule& rule) { return !rule.owner.gid; });
        Sets<std::uint32_t> users;
        Sets<std::uint32_t> groups;
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            if (rules_[i].owner.uid) {
                set(users[*rules_[i].owner.uid], i);
            }
            if (rules_[i].owner.gid) {
                set(groups[*rules_[i].owner.gid], i);
            }
        }
        out_.uid_ranges = subordinate(users, any_user, false);
        out_.gid_ranges = subordinate(groups, any_group, true);
        out_.uids = users.table(pool_, any_user);
        out_.gids = groups.table(pool_, any_group);
        out_.base->has_uids = out_.uids.empty() ? 0 : 1;
        out_.base->has_gids = out_.gids.empty() ? 0 : 1;
        out_.base->has_ranges = out_.uid_ranges.empty() && out_.gid_ranges.empty() ? 0 : 1;
        out_.base->other_uids = pool_.add(any_user);
        out_.base->other_gids = pool_.add(any_group);
    }

    /// The kernel finds the user behind a question by them.
    void lenders() {
        std::map<IdPrefix, std::uint32_t> prefixes;
        for (const auto& [range, lender] : world_.lenders) {
            for (const auto& prefix : prefixes_of(range)) {
                prefixes.emplace(prefix, lender); // the first line counts
            }
        }
        out_.lenders.assign(prefixes.begin(), prefixes.end());
    }

    /// The rules of the subordinate ids of users or groups in rules. An id that a rule names is
    /// found in the table of ids first: so the rules of its lender are added there.
    Table<IdPrefix> subordinate(Sets<std::uint32_t>& named, const egress_vector& any, bool group) {
        std::map<IdPrefix, egress_vector> prefixes;
        const auto owners = named.sets();
        for (const auto& [owner, rules] : owners) {
            for (const auto& range : world_.subordinate(owner, group)) {
                for (const auto& prefix : prefixes_of(range)) {
                    prefixes[prefix] = combine(prefixes[prefix], rules);
                }
                for (const auto& [id, own] : owners) {
                    if (id - range.first < range.count) {
                        named[id] = combine(named[id], rules);
                    }
                }
            }
        }
        Table<IdPrefix> out;
        for (const auto& [prefix, own] : prefixes) {
            auto rules = combine(own, any);
            for (const auto& [outer, more] : prefixes) {
                if (outer.length < prefix.length && holds(outer, prefix.id)) {
                    rules = combine(rules, more);
                }
            }
            out.emplace_back(prefix, pool_.add(rules));
        }
        return out;
    }

    void programs() {
        Sets<egress_file, FileLess> files;
        Sets<Command> commands;
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            const Program& program = rules_[i].program;
            if (program.kind == Program::Kind::command) {
                set(commands[command_key(program.text)], i);
            } else if (program.kind == Program::Kind::path &&
                       !by_recorded_path(rules_[i].options)) {
                add_files(files, program.text, i);
            }
        }
        for (const auto& loader : world_.loaders) {
            for (const auto& file : world_.files(loader)) {
                files[file] = combine(files[file], loaded_);
            }
        }
        out_.programs = files.table(pool_);
        out_.commands = commands.table(pool_);
        out_.base->any_program =
            where([](const EgressRule& rule) { return rule.program.kind == Program::Kind::any; });
    }

    void add_files(Sets<egress_file, FileLess>& sets, const std::string& path, std::size_t rule) {
        for (const auto& file : world_.files(path)) {
            set(sets[file], rule);
        }
    }

    /// Places of programs and trees; paths as exec recorded them; names of cgroups and units. A
    /// place matches a replaced file at once; the file itself (programs()) matches under other
    /// names (links), too. A program's path ends with its terminator here, so that no other path
    /// begins with it.
    Result<> trees() {
        std::map<Place, egress_vector> found;
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            const Program& program = rules_[i].program;
            const bool tree = program.kind == Program::Kind::tree;
            if (!tree && program.kind != Program::Kind::path) {
                continue;
            }
            const char end = tree ? '/' : '\0';
            if (by_recorded_path(rules_[i].options)) {
                set(found[{EGRESS_INSIDE, program.text + end}], i);
                out_.base->has_inside = 1;
                continue;
            }
            for (const auto& place : world_.places(program.text, tree)) {
                if (place.path.size() + 1 > EGRESS_PATH_SIZE) {
                    return fail(fmt::format(
                        "{}: {} has the path {} inside its file system, which is "
                        "longer than {} bytes; move it nearer to the root",
                        rules_[i].place.text(), program.text, place.path, EGRESS_PATH_SIZE - 1));
                }
                set(found[{place.device, place.path + end}], i);
            }
            out_.base->has_trees = 1;
        }
        add_uncertain(found);
        add_loaders(found);
        cgroups(found);
        for (const auto& [place, own] : found) {
            auto rules = own;
            for (const auto& [outer, more] : found) {
                if (place.device == outer.device && !outer.path.empty() &&
                    place.path.starts_with(outer.path)) {
                    rules = combine(rules, more);
                }
            }
            const auto refusals = pool_.add(intersect(rules, out_.base->refusals));
            const bool device = place.path.empty();
            out_.trees.emplace_back(place,
                                    egress_path_rules{device ? 0 : pool_.add(rules), refusals});
        }
        return {};
    }

    /// Adds an entry for each device on which something is refused: for files on it whose place is
    /// unknown.
    static void add_uncertain(std::map<Place, egress_vector>& found) {
        std::map<std::uint32_t, egress_vector> devices;
        for (const auto& [place, rules] : found) {
            devices[place.device] = combine(devices[place.device], rules);
        }
        for (const auto& [device, rules] : devices) {
            found[{device, ""}] = rules;
        }
    }

    /// A loader that was started itself runs an unknown program: whatever refuses some program
    /// applies. Its arguments name the program, but a caller can write them in too many ways.
    void add_loaders(std::map<Place, egress_vector>& found) {
        for (const auto& loader : world_.loaders) {
            for (const auto& place : world_.places(loader, false)) {
                if (place.path.size() + 1 <= EGRESS_PATH_SIZE) {
                    auto& rules = found[{place.device, place.path + '\0'}];
                    rules = combine(rules, loaded_);
                    out_.base->has_trees = 1;
                }
            }
        }
    }

    void lineage() {
        Sets<egress_file, FileLess> parents;
        Sets<egress_file, FileLess> unders;
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            const auto& options = rules_[i].options;
            if (!options.parent.empty()) {
                add_files(parents, options.parent, i);
                out_.base->has_lineage = 1;
            }
            if (!options.under.empty()) {
                add_files(unders, options.under, i);
                out_.base->has_lineage = 1;
            }
        }
        out_.parents = parents.table(pool_);
        out_.unders = unders.table(pool_);
    }

    /// A cgroup's rules apply below it, too. The root's path is "/", and every other ends with "/".
    void cgroups(std::map<Place, egress_vector>& found) {
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            const auto& [cgroup, unit] = std::tie(rules_[i].options.cgroup, rules_[i].options.unit);
            if (!cgroup.empty()) {
                set(found[{EGRESS_CGROUPS, cgroup == "/" ? cgroup : cgroup + "/"}], i);
            }
            if (!unit.empty()) {
                const auto instance = unit.find("@.");
                set(found[{EGRESS_UNITS, instance == std::string::npos
                                             ? unit + '\0'
                                             : unit.substr(0, instance + 1)}],
                    i);
                out_.base->has_units = 1;
            }
            out_.base->has_cgroups |= asks_for_cgroup(rules_[i]) ? 1 : 0;
        }
        const auto any = where([](const EgressRule& r) { return !asks_for_cgroup(r); });
        out_.base->any_cgroup = any;
        out_.base->suspect_cgroup = pool_.add(combine(any, out_.base->refusals));
    }

    void places() {
        egress_base& base = *out_.base;
        base.any_parent = where([](const EgressRule& r) { return r.options.parent.empty(); });
        base.any_under = where([](const EgressRule& r) { return r.options.under.empty(); });
        const auto stranger = where([](const EgressRule& r) {
            return r.program.kind == Program::Kind::any && r.options.parent.empty() &&
                   r.options.under.empty();
        });
        base.stranger = pool_.add(stranger);
        base.suspect = pool_.add(combine(stranger, base.refusals));
        // A socket of a kind that may reach only some destinations must be created first; then its
        // packets are judged. So a refusal of some destinations decides nothing yet.
        base.at_create = pool_.add(where([](const EgressRule& r) {
            return r.verdict.kind == policy::Verdict::Kind::allow || is_everywhere(r);
        }));
        // Packets of other families cannot be judged: a socket that any rule may refuse is refused.
        base.at_closed = pool_.add(where([](const EgressRule& r) {
            return r.verdict.kind != policy::Verdict::Kind::allow || is_everywhere(r);
        }));
        base.places[0] =
            where([](const EgressRule& r) { return !r.options.container.value_or(false); });
        base.places[1] =
            where([](const EgressRule& r) { return r.options.container.value_or(true); });
        base.has_places = std::ranges::any_of(
            rules_, [](const EgressRule& r) { return r.options.container.has_value(); });
    }

    const std::vector<EgressRule>& rules_;
    const policy::Policy& policy_;
    const World& world_;
    VectorPool pool_;
    egress_vector loaded_{}; ///< rules that refuse some program
    Tables out_;
};

} // namespace

bool by_recorded_path(const policy::EgressOptions& options) {
    return options.container.value_or(false) || !options.cgroup.empty() || !options.unit.empty();
}

bool refuses_program(const policy::EgressRule& rule) {
    return rule.program.kind != policy::Program::Kind::any &&
           rule.verdict.kind != policy::Verdict::Kind::allow;
}

std::uint32_t user_of(const Lenders& lenders, std::uint32_t uid) {
    const auto found = std::ranges::find_if(
        lenders, [uid](const auto& each) { return uid - each.first.first < each.first.count; });
    return found == lenders.end() ? uid : found->second;
}

Result<Tables> compile(const policy::Policy& policy, const World& world, std::uint64_t generation) {
    if (policy.egress.size() > EGRESS_MAX_RULES) {
        return fail(
            fmt::format("{} lines in [egress]; {} are the most: put addresses into an @list",
                        policy.egress.size(), EGRESS_MAX_RULES));
    }
    return Compiler(policy, world).run(generation);
}

} // namespace egress::bpf

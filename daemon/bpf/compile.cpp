#include "daemon/bpf/compile.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include <netinet/in.h>
#include <sys/socket.h>

#include <fmt/format.h>

#include "daemon/bpf/destinations.h"
#include "daemon/bpf/schedule.h"
#include "daemon/bpf/vectors.h"

namespace egress::bpf {

namespace {

using policy::EgressRule;
using policy::Program;

/// Bit sets by key while they grow; `less` orders the keys.
template <typename Key, typename Less = std::less<Key>>
class Sets {
  public:
    egress_vector& operator[](const Key& key) { return sets_[key]; }
    bool contains(const Key& key) const { return sets_.contains(key); }

    /// Each with `always` added, as a table.
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

/// Whether a program's path is compared as text: what a process inside calls the file is all there
/// is to compare with, for the host sees another file there, or none.
bool by_recorded_path(const policy::EgressOptions& options) {
    return options.container.value_or(false) || !options.cgroup.empty() || !options.unit.empty();
}

bool asks_for_cgroup(const EgressRule& rule) {
    return !rule.options.cgroup.empty() || !rule.options.unit.empty();
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
        if (auto done = compile_destinations(policy_, pool_, out_); !done) {
            return std::unexpected(done.error());
        }
        ports();
        protocols();
        owners();
        programs();
        trees();
        lineage();
        cgroups();
        places();
        out_.vectors = pool_.take();
        return std::move(out_);
    }

  private:
    /// The rules for which `holds` does.
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
        // Only where some line's range begins or ends does the set change, and by that line alone.
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
        std::map<std::pair<int, int>, Index> known; // -1: any that no rule names
        for (int type = 0; type < EGRESS_TYPES; ++type) {
            for (int number = 0; number < EGRESS_PROTOCOLS; ++number) {
                const std::pair key{types.contains(type) ? type : -1,
                                    numbers.contains(number) ? number : -1};
                auto [entry, added] = known.emplace(key, 0);
                if (added) {
                    entry->second = pool_.add(where([key](const EgressRule& rule) {
                        return (!rule.type || *rule.type == key.first) &&
                               (!rule.protocol.number || *rule.protocol.number == key.second);
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
        out_.uids = users.table(pool_, any_user);
        out_.gids = groups.table(pool_, any_group);
        out_.base->has_uids = out_.uids.empty() ? 0 : 1;
        out_.base->has_gids = out_.gids.empty() ? 0 : 1;
        out_.base->other_uids = pool_.add(any_user);
        out_.base->other_gids = pool_.add(any_group);
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

    /// Paths as exec recorded them. They find a file that has replaced another at once; the file
    /// itself (programs()) is found under other names, too: links, bind mounts. A program's path
    /// ends in its terminator here, so that nothing else begins with it.
    void trees() {
        std::map<std::string, std::pair<egress_vector, egress_vector>> found; // host, any
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            const Program& program = rules_[i].program;
            if (program.kind == Program::Kind::tree || program.kind == Program::Kind::path) {
                const char end = program.kind == Program::Kind::tree ? '/' : '\0';
                auto& [host, any] = found[program.text + end];
                set(by_recorded_path(rules_[i].options) ? any : host, i);
            }
        }
        for (const auto& [path, own] : found) {
            auto [host, any] = own;
            for (const auto& [outer, rules] : found) { // at most one per line
                if (path.starts_with(outer)) {
                    host = combine(host, rules.first);
                    any = combine(any, rules.second);
                }
            }
            out_.trees.emplace_back(path, egress_path_rules{pool_.add(host), pool_.add(any)});
        }
        out_.base->has_trees = found.empty() ? 0 : 1;
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

    /// A cgroup's rules hold below it, too, and the innermost that is named must know them all.
    void cgroups() {
        const auto any = where([](const EgressRule& r) { return !asks_for_cgroup(r); });
        std::map<std::uint64_t, std::pair<std::string, egress_vector>> named;
        for (std::size_t i = 0; i < rules_.size(); ++i) {
            if (asks_for_cgroup(rules_[i])) {
                out_.base->has_cgroups = 1;
                for (const auto& cgroup : world_.cgroups(rules_[i].options)) {
                    auto& [path, rules] = named[cgroup.id];
                    path = cgroup.path;
                    set(rules, i);
                }
            }
        }
        for (const auto& [id, own] : named) {
            egress_vector rules = any;
            for (const auto& [outer_id, outer] : named) {
                if (own.first == outer.first ||
                    own.first.starts_with(outer.first == "/" ? outer.first : outer.first + "/")) {
                    rules = combine(rules, outer.second);
                }
            }
            out_.cgroups.emplace_back(id, pool_.add(rules));
        }
        out_.base->any_cgroup = pool_.add(any);
    }

    void places() {
        egress_base& base = *out_.base;
        base.any_parent = where([](const EgressRule& r) { return r.options.parent.empty(); });
        base.any_under = where([](const EgressRule& r) { return r.options.under.empty(); });
        base.stranger = where([](const EgressRule& r) {
            return r.program.kind == Program::Kind::any && r.options.parent.empty() &&
                   r.options.under.empty();
        });
        // A socket of a kind that only some destinations may be reached with has to be made first:
        // then its packets are judged. So a refusal of some destinations decides nothing yet.
        base.at_create = pool_.add(where([](const EgressRule& r) {
            return r.verdict.kind == policy::Verdict::Kind::allow ||
                   (r.destination.kind == policy::Destination::Kind::any &&
                    r.destination.ports.empty());
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
    Tables out_;
};

} // namespace

Result<Tables> compile(const policy::Policy& policy, const World& world, std::uint64_t generation) {
    if (policy.egress.size() > EGRESS_MAX_RULES) {
        return fail(
            fmt::format("{} lines in [egress]; {} are the most: put addresses into an @list",
                        policy.egress.size(), EGRESS_MAX_RULES));
    }
    return Compiler(policy, world).run(generation);
}

} // namespace egress::bpf

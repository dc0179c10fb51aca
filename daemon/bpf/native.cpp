#include "daemon/bpf/native.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace {

using egress::bpf::Command;
using egress::bpf::FileLess;
using egress::bpf::Index;
using egress::bpf::Tables;

} // namespace

// What verdict.h asks to be defined: a policy and how its tables are looked up.
struct egress_view {
    const egress_base* base;
    const Tables* tables;
};

namespace {

template <typename Key, typename Less = std::less<Key>>
Index find(const std::vector<std::pair<Key, Index>>& table, const Key& key) {
    const auto at =
        std::lower_bound(table.begin(), table.end(), key, [](const auto& entry, const Key& wanted) {
            return Less()(entry.first, wanted);
        });
    return at != table.end() && !Less()(key, at->first) ? at->second : 0;
}

const egress_vector* vector_at(const egress_view* view, Index index) {
    return index < view->tables->vectors.size() ? &view->tables->vectors[index] : nullptr;
}

const egress_runs* runs_at(const egress_view* view, std::uint32_t number) {
    return number < view->tables->runs.size() ? &view->tables->runs[number] : nullptr;
}

Index host6(const egress_view* view, const std::uint8_t* address) {
    egress::bpf::Host6Key key{};
    std::copy_n(address, key.address.size(), key.address.begin());
    return find(view->tables->hosts6, key);
}

Index prefix6(const egress_view* view, const std::uint8_t* address) {
    egress::bpf::Prefix6Key key{};
    std::copy_n(address, key.address.size(), key.address.begin());
    for (key.length = 127; key.length > 16; --key.length) {
        key.address[key.length / 8] &= static_cast<std::uint8_t>(0xff00 >> key.length % 8);
        if (const Index found = find(view->tables->prefixes6, key)) {
            return found;
        }
    }
    return 0;
}

Index uid_rules(const egress_view* view, std::uint32_t uid) {
    return find(view->tables->uids, uid);
}

Index gid_rules(const egress_view* view, std::uint32_t gid) {
    return find(view->tables->gids, gid);
}

Index program_rules(const egress_view* view, const egress_file* file) {
    return find<egress_file, FileLess>(view->tables->programs, *file);
}

Index parent_rules(const egress_view* view, const egress_file* file) {
    return find<egress_file, FileLess>(view->tables->parents, *file);
}

Index under_rules(const egress_view* view, const egress_file* file) {
    return find<egress_file, FileLess>(view->tables->unders, *file);
}

Index command_rules(const egress_view* view, const char* text) {
    Command key{};
    std::copy_n(text, key.size(), key.begin());
    return find(view->tables->commands, key);
}

const egress_path_rules* tree_rules(const egress_view* view, const egress_tree* path) {
    const egress_path_rules* best = nullptr;
    std::size_t longest = 0;
    const std::string_view text(path->path, path->bits / 8);
    for (const auto& [tree, rules] : view->tables->trees) {
        if (text.starts_with(tree) && tree.size() > longest) {
            best = &rules;
            longest = tree.size();
        }
    }
    return best;
}

} // namespace

#include "daemon/bpf/verdict.h"

#include "daemon/bpf/container_name.h"

namespace egress::bpf {

Decision native_decide(const Tables& tables, const egress_process& process, const egress_flow& flow,
                       const std::vector<std::uint64_t>& cgroups, std::uint64_t now,
                       std::uint64_t week_at_boot) {
    const egress_view view{tables.base.get(), &tables};
    Decision out;
    if (!egress_select(&view, &process, &out.subject)) {
        out.rule = EGRESS_BROKEN;
        return out;
    }
    Index cgroup = 0;
    for (const auto id : cgroups) {
        if ((cgroup = find(tables.cgroups, id)) != 0) {
            break;
        }
    }
    struct egress_question question {};
    egress_ask(&view, &flow, &out.subject, cgroup, 0, &question);
    out.rule = egress_first(&view, &question, now, week_at_boot);
    const auto copy = [](const egress_vector* from) { return from ? *from : egress_vector{}; };
    out.destination = copy(question.destination);
    out.port = copy(question.port);
    out.protocol = copy(question.protocol);
    out.uid = copy(question.uid);
    out.gid = copy(question.gid);
    out.place = copy(question.place);
    out.cgroup = copy(question.cgroup);
    return out;
}

bool is_in_container(std::string_view cgroup) {
    auto outer = EGRESS_NAME_OTHER;
    while (!cgroup.empty()) {
        const auto length = std::min(cgroup.find('/'), cgroup.size());
        std::array<char, EGRESS_NAME_SIZE> name{};
        cgroup.copy(name.data(), std::min(length, name.size() - 1));
        const auto kind = egress_kind_of_name(name.data());
        if (egress_is_containers(kind, EGRESS_NAME_OTHER) || egress_is_containers(outer, kind) ||
            egress_is_id(name.data() + egress_before_id(name.data()))) {
            return true;
        }
        outer = kind;
        cgroup.remove_prefix(std::min(length + 1, cgroup.size()));
    }
    return false;
}

} // namespace egress::bpf

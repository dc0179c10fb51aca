#include "daemon/bpf/tables/native.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace {

using egress::bpf::Command;
using egress::bpf::FileLess;
using egress::bpf::IdPrefix;
using egress::bpf::Index;
using egress::bpf::Tables;

} // namespace

// What verdict.h requires: a policy and how to look up its tables.
struct egress_view {
    const egress_base* base;
    const Tables* tables;
    const egress_grants* grants; ///< EGRESS_GRANTS_SETS; null: none
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

const egress_names* names_at(const egress_view* view, std::uint32_t number) {
    return number < view->tables->names.size() ? &view->tables->names[number] : nullptr;
}

const egress_grants* grants_at(const egress_view* view, std::uint32_t number) {
    static const egress_grants empty{};
    return view->grants == nullptr ? &empty : view->grants + number;
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

Index id_range_rules(const egress::bpf::Table<IdPrefix>& table, std::uint32_t id) {
    for (std::uint32_t length = 32;; --length) {
        const std::uint32_t mask = length == 0 ? 0 : ~std::uint32_t{0} << (32 - length);
        if (const Index found = find(table, IdPrefix{id & mask, length}); found || length == 0) {
            return found;
        }
    }
}

Index uid_range_rules(const egress_view* view, std::uint32_t uid) {
    return id_range_rules(view->tables->uid_ranges, uid);
}

Index gid_range_rules(const egress_view* view, std::uint32_t gid) {
    return id_range_rules(view->tables->gid_ranges, gid);
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

const egress_path_rules* longest(const egress_view* view, std::uint32_t device,
                                 std::string_view text) {
    const egress_path_rules* best = nullptr;
    std::size_t length = 0;
    for (const auto& [place, rules] : view->tables->trees) {
        if (place.device == device && text.starts_with(place.path) &&
            (best == nullptr || place.path.size() > length)) {
            best = &rules;
            length = place.path.size();
        }
    }
    return best;
}

const egress_path_rules* tree_rules(const egress_view* view, const egress_tree* path) {
    const auto bits = path->bits > EGRESS_DEVICE_BITS ? path->bits - EGRESS_DEVICE_BITS : 0;
    return longest(view, path->device, {path->path, bits / 8});
}

} // namespace

#include "daemon/bpf/verdict.h"

#include "daemon/bpf/container_name.h"

namespace egress::bpf {

namespace {

/// Does what cgroups.h does.
egress_vector cgroup_rules(const egress_view& view, std::string_view cgroup) {
    egress_vector out = view.base->any_cgroup;
    const auto add = [&](const egress_path_rules* found) {
        egress_add(&out, vector_at(&view, found != nullptr ? found->rules : 0));
    };
    const std::string path = cgroup == "/" || cgroup.empty() ? "/" : std::string(cgroup) + "/";
    add(longest(&view, EGRESS_CGROUPS, std::string_view(path).substr(0, EGRESS_PATH_SIZE)));
    for (std::size_t at = 1; at < path.size();) {
        const auto end = path.find('/', at);
        add(longest(&view, EGRESS_UNITS, path.substr(at, end - at) + '\0'));
        at = end + 1;
    }
    return out;
}

} // namespace

egress_naming no_names() {
    egress_naming out{};
    std::ranges::fill(out.rules.words, ~std::uint64_t{0});
    out.rules.any = (1U << EGRESS_WORDS) - 1;
    return out;
}

Decision native_decide(const Tables& tables, const egress_process& process, const egress_flow& flow,
                       std::string_view cgroup, std::uint64_t now, std::uint64_t week_at_boot,
                       const egress_grants* grants) {
    const egress_view view{tables.base.get(), &tables, grants};
    Decision out;
    if (!egress_select(&view, &process, &out.subject)) {
        out.rule = EGRESS_BROKEN;
        return out;
    }
    out.cgroup = cgroup_rules(view, cgroup);
    struct egress_question question {};
    auto naming = no_names();
    naming.now = now;
    const bool has_names = view.base->has_names != 0;
    if (has_names && !egress_find_names(&view, flow.address, &naming)) {
        out.rule = EGRESS_BROKEN;
        return out;
    }
    egress_ask(&view, &flow, 0, &naming, &question);
    question.subject = &out.subject;
    question.cgroup = &out.cgroup;
    out.rule = egress_first(&view, &question, now, week_at_boot);
    out.named = has_names ? egress_named_by(&view, &naming, out.rule) : 0;
    const auto copy = [](const egress_vector* from) { return from ? *from : egress_vector{}; };
#define EGRESS_COPY(dimension, label) out.dimension = copy(question.dimension);
    EGRESS_DIMENSIONS(EGRESS_COPY)
#undef EGRESS_COPY
    return out;
}

bool is_in_container(std::string_view cgroup) {
    const auto beginning = [](std::string_view text) {
        std::array<char, EGRESS_NAME_SIZE> name{};
        text.copy(name.data(), name.size() - 1);
        return name;
    };
    auto outer = EGRESS_NAME_OTHER;
    while (!cgroup.empty()) {
        const auto length = std::min(cgroup.find('/'), cgroup.size());
        const auto text = cgroup.substr(0, length);
        const auto name = beginning(text);
        const auto kind = egress_kind_of_name(name.data());
        const auto id = beginning(text.substr(egress_before_id(name.data())));
        if (egress_is_containers(kind, EGRESS_NAME_OTHER) || egress_is_containers(outer, kind) ||
            egress_is_id(id.data())) {
            return true;
        }
        outer = kind;
        cgroup.remove_prefix(std::min(length + 1, cgroup.size()));
    }
    return false;
}

} // namespace egress::bpf

#include "daemon/bpf/load/install.h"

#include <algorithm>
#include <array>
#include <cstring>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <linux/bpf.h>

#include "daemon/bpf/load/map.h"

namespace egress::bpf {

namespace {

constexpr std::uint32_t array_flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP;
constexpr std::array<std::string_view, 14> names = {
    "bases",      "vectors",    "runs",     "hosts6",   "prefixes6", "uids",   "gids",
    "uid_ranges", "gid_ranges", "commands", "programs", "parents",   "unders", "trees"};

class Slot {
  public:
    Slot(std::uint32_t slot, const OuterMap& outer) : slot_(slot), outer_(outer) {}

    template <typename Value>
    void array(std::string_view name, const Value* values, std::size_t count,
               std::uint32_t flags = array_flags) {
        const MapShape shape{BPF_MAP_TYPE_ARRAY, std::string(name), sizeof(std::uint32_t),
                             sizeof(Value),      entries(count),    flags};
        put(shape,
            [&](const Fd& map) { return fill_array(map, shape, values, count * sizeof(Value)); });
    }

    /// `convert` returns each entry's key in the kernel's form.
    template <typename Key, typename Value, typename Entries, typename Convert>
    void table(std::string_view name, int type, const Entries& from, Convert convert) {
        std::vector<Key> keys;
        std::vector<Value> values;
        keys.reserve(from.size());
        values.reserve(from.size());
        for (const auto& [key, value] : from) {
            keys.push_back(convert(key));
            values.push_back(value);
        }
        const std::uint32_t flags = type == BPF_MAP_TYPE_LPM_TRIE ? BPF_F_NO_PREALLOC : 0;
        const MapShape shape{type,          std::string(name),    sizeof(Key),
                             sizeof(Value), entries(from.size()), flags};
        put(shape, [&](const Fd& map) {
            return fill_table(map, shape, keys.data(), values.data(),
                              static_cast<std::uint32_t>(keys.size()));
        });
    }

    template <typename Key, typename Entries>
    void hash(std::string_view name, const Entries& from) {
        table<Key, Index>(name, BPF_MAP_TYPE_HASH, from, [](const auto& key) {
            Key out;
            static_assert(sizeof out == sizeof key);
            std::memcpy(&out, &key, sizeof out);
            return out;
        });
    }

    Result<> result() { return std::move(result_); }

  private:
    static std::uint32_t entries(std::size_t count) {
        return static_cast<std::uint32_t>(std::max<std::size_t>(count, 1));
    }

    template <typename Fill>
    void put(const MapShape& shape, Fill fill) {
        if (!result_) {
            return;
        }
        auto map = make_map(shape);
        if (!map) {
            result_ = std::unexpected(map.error());
            return;
        }
        result_ = fill(*map);
        const int inner = map->get();
        if (result_ && bpf_map_update_elem(outer_(shape.name), &slot_, &inner, BPF_ANY) < 0) {
            result_ = fail_errno("cannot put the kernel's table " + shape.name + " in its place");
        }
    }

    std::uint32_t slot_;
    const OuterMap& outer_;
    Result<> result_;
};

egress_prefix6 key6(const Prefix6Key& key) {
    egress_prefix6 out{key.length, {}};
    std::copy(key.address.begin(), key.address.end(), out.address);
    return out;
}

egress_tree key_of_tree(const Place& place) {
    egress_tree out{};
    const std::size_t size = std::min(place.path.size(), sizeof out.path);
    out.bits = static_cast<std::uint32_t>(EGRESS_DEVICE_BITS + size * 8);
    out.device = place.device;
    std::copy_n(place.path.begin(), size, out.path);
    return out;
}

egress_id_range key_of_range(const IdPrefix& prefix) {
    return {prefix.length, htonl(prefix.id)};
}

} // namespace

Result<> fill_slot(const Tables& tables, std::uint32_t slot, const OuterMap& outer) {
    Slot to(slot, outer);
    to.array("vectors", tables.vectors.data(), tables.vectors.size());
    to.array("runs", tables.runs.data(), tables.runs.size());
    to.hash<Host6Key>("hosts6", tables.hosts6);
    to.table<egress_prefix6, Index>("prefixes6", BPF_MAP_TYPE_LPM_TRIE, tables.prefixes6, key6);
    to.hash<std::uint32_t>("uids", tables.uids);
    to.hash<std::uint32_t>("gids", tables.gids);
    to.table<egress_id_range, Index>("uid_ranges", BPF_MAP_TYPE_LPM_TRIE, tables.uid_ranges,
                                     key_of_range);
    to.table<egress_id_range, Index>("gid_ranges", BPF_MAP_TYPE_LPM_TRIE, tables.gid_ranges,
                                     key_of_range);
    to.hash<Command>("commands", tables.commands);
    to.hash<egress_file>("programs", tables.programs);
    to.hash<egress_file>("parents", tables.parents);
    to.hash<egress_file>("unders", tables.unders);
    to.table<egress_tree, egress_path_rules>("trees", BPF_MAP_TYPE_LPM_TRIE, tables.trees,
                                             key_of_tree);
    to.array("bases", tables.base.get(), 1, BPF_F_MMAPABLE);
    return to.result();
}

Result<Readers> Readers::make() {
    const MapShape shape{BPF_MAP_TYPE_ARRAY, "readers", sizeof(std::uint32_t), sizeof(Index), 1, 0};
    auto inner = make_map(shape);
    if (!inner) {
        return std::unexpected(inner.error());
    }
    Readers out;
    out.inner_ = std::move(*inner);
    bpf_map_create_opts options{};
    options.sz = sizeof options;
    options.inner_map_fd = static_cast<std::uint32_t>(out.inner_.get());
    const int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, shape.name.c_str(),
                                  sizeof(std::uint32_t), sizeof(std::uint32_t), 1, &options);
    if (fd < 0) {
        return fail_errno("cannot make what tells that a policy is left", -fd);
    }
    out.outer_.reset(fd);
    return out;
}

Result<> Readers::wait() const {
    // Any change of a map of maps waits for every running program. The policy's own maps do not
    // serve here: to get a descriptor of what another daemon put there needs a capability that
    // egressd does not have.
    const std::uint32_t first = 0;
    const int inner = inner_.get();
    return bpf_map_update_elem(outer_.get(), &first, &inner, BPF_ANY) == 0
               ? Result<>()
               : fail_errno("cannot wait for the policy before to be left");
}

void empty_slot(std::uint32_t slot, const OuterMap& outer) {
    for (const auto name : names) {
        (void)bpf_map_delete_elem(outer(name), &slot); // ENOENT: there was none
    }
}

} // namespace egress::bpf

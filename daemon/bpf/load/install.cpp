#include "daemon/bpf/load/install.h"

#include <algorithm>
#include <array>
#include <span>
#include <type_traits>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <linux/bpf.h>

#include "daemon/bpf/load/map.h"

namespace egress::bpf {

namespace {

constexpr std::array names = {"bases",
#define EGRESS_NAME(name, ...) #name,
                              EGRESS_TABLES(EGRESS_NAME)
#undef EGRESS_NAME
};

// Keys as the kernel has them.
template <typename Key>
const Key& key_of(const Key& key) {
    return key;
}

egress_prefix6 key_of(const Prefix6Key& key) {
    egress_prefix6 out{key.length, {}};
    std::copy(key.address.begin(), key.address.end(), out.address);
    return out;
}

egress_tree key_of(const Place& place) {
    egress_tree out{};
    const std::size_t size = std::min(place.path.size(), sizeof out.path);
    out.bits = static_cast<std::uint32_t>(EGRESS_DEVICE_BITS + size * 8);
    out.device = place.device;
    std::copy_n(place.path.begin(), size, out.path);
    return out;
}

egress_id_range key_of(const IdPrefix& prefix) {
    return {prefix.length, htonl(prefix.id)};
}

class Slot {
  public:
    Slot(std::uint32_t slot, const OuterMap& outer) : slot_(slot), outer_(outer) {}

    template <typename Key, typename Value>
    void fill(std::string_view name, int type, std::uint32_t flags, std::span<const Value> values) {
        const MapShape shape = shape_of<Key, Value>(name, type, flags, values.size());
        put(shape, [&](const Fd& map) {
            return fill_array(map, shape, values.data(), values.size_bytes());
        });
    }

    template <typename Key, typename Value, typename From>
    void fill(std::string_view name, int type, std::uint32_t flags,
              const std::vector<std::pair<From, Value>>& entries) {
        static_assert(sizeof(key_of(entries.front().first)) == sizeof(Key));
        std::vector<std::remove_cvref_t<decltype(key_of(entries.front().first))>> keys;
        std::vector<Value> values;
        keys.reserve(entries.size());
        values.reserve(entries.size());
        for (const auto& [key, value] : entries) {
            keys.push_back(key_of(key));
            values.push_back(value);
        }
        const MapShape shape = shape_of<Key, Value>(name, type, flags, entries.size());
        put(shape, [&](const Fd& map) {
            return fill_table(map, shape, keys.data(), values.data(),
                              static_cast<std::uint32_t>(keys.size()));
        });
    }

    Result<> result() { return std::move(result_); }

  private:
    template <typename Key, typename Value>
    static MapShape shape_of(std::string_view name, int type, std::uint32_t flags,
                             std::size_t count) {
        const auto entries = static_cast<std::uint32_t>(std::max<std::size_t>(count, 1));
        return {type, std::string(name), sizeof(Key), sizeof(Value), entries, flags};
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

} // namespace

Result<> fill_slot(const Tables& tables, std::uint32_t slot, const OuterMap& outer) {
    Slot to(slot, outer);
#define EGRESS_FILL(name, type, flags, key, value)                                                 \
    to.fill<key, value>(#name, type, flags, tables.name);
    EGRESS_TABLES(EGRESS_FILL)
#undef EGRESS_FILL
    to.fill<std::uint32_t, egress_base>("bases", BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE,
                                        std::span(tables.base.get(), 1));
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

#include "daemon/bpf/load/install.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <linux/bpf.h>

#include "daemon/bpf/abi.h"
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

/// What to do with a table: the shape that it needs, and what fills a map of that shape.
using OnTable = std::function<Result<>(const MapShape& shape, const std::function<Result<>(Fd&)>&)>;

class Slot {
  public:
    explicit Slot(const OnTable& on_table) : on_table_(on_table) {}

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
        if (result_) {
            result_ = on_table_(shape, fill);
        }
    }

    const OnTable& on_table_;
    Result<> result_;
};

/// Each table of the policy.
Result<> each_table(const Tables& tables, const OnTable& on_table) {
    Slot to(on_table);
#define EGRESS_FILL(name, type, flags, key, value)                                                 \
    to.fill<key, value>(#name, type, flags, tables.name);
    EGRESS_TABLES(EGRESS_FILL)
#undef EGRESS_FILL
    to.fill<std::uint32_t, egress_base>("bases", BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE,
                                        std::span(tables.base.get(), 1));
    return to.result();
}

/// Makes a map and puts it into the slot.
Result<Fd> place(const MapShape& shape, std::uint32_t slot, const OuterMap& outer,
                 const std::function<Result<>(Fd&)>& fill) {
    auto map = make_map(shape);
    if (!map) {
        return map;
    }
    if (auto filled = fill(*map); !filled) {
        return std::unexpected(filled.error());
    }
    const int inner = map->get();
    if (bpf_map_update_elem(outer(shape.name), &slot, &inner, BPF_ANY) < 0) {
        return fail_errno("cannot put the kernel's table " + shape.name + " in its place");
    }
    return map;
}

/// The size of a kept slot's table. The lines of a job need fewer entries, as they name no lists.
std::uint32_t room_of(std::string_view table) {
    constexpr std::uint32_t addresses = 1024;
    constexpr std::uint32_t buckets = 512;
    constexpr std::uint32_t ids = 256;
    return table == "vectors" || table == "runs" || table == "hosts6" || table == "prefixes6"
               ? addresses
           : table == "names"                                     ? buckets
           : table.starts_with("uid") || table.starts_with("gid") ? ids
                                                                  : 1;
}

/// Removes everything; arrays are overwritten instead.
Result<> empty(const Fd& map, const MapShape& shape) {
    std::vector<std::byte> key(shape.key_size);
    for (std::uint32_t i = 0; i <= room_of(shape.name); ++i) {
        if (bpf_map_get_next_key(map.get(), nullptr, key.data()) < 0) {
            return errno == ENOENT ? Result<>() : fail_errno("cannot read the table " + shape.name);
        }
        if (bpf_map_delete_elem(map.get(), key.data()) < 0) {
            return fail_errno("cannot empty the table " + shape.name);
        }
    }
    return fail("the table " + shape.name + " does not become empty");
}

} // namespace

Result<> fill_slot(const Tables& tables, std::uint32_t slot, const OuterMap& outer) {
    return each_table(tables, [&](const MapShape& shape, const auto& fill) -> Result<> {
        const auto map = place(shape, slot, outer, fill);
        return map ? Result<>() : std::unexpected(map.error());
    });
}

Result<KeptSlot> KeptSlot::make(std::uint32_t slot, const OuterMap& outer) {
    KeptSlot out;
    Tables none;
    none.base = std::make_unique<egress_base>();
    const auto made = each_table(none, [&](const MapShape& needed, const auto& fill) -> Result<> {
        MapShape shape = needed;
        shape.entries = room_of(shape.name);
        auto map = place(shape, slot, outer, fill);
        if (!map) {
            return std::unexpected(map.error());
        }
        out.maps_.emplace_back(shape.name, std::move(*map));
        return {};
    });
    return made ? Result<KeptSlot>(std::move(out)) : std::unexpected(made.error());
}

Result<> KeptSlot::fill(const Tables& tables) {
    return each_table(tables, [&](const MapShape& shape, const auto& fill) -> Result<> {
        const auto map = std::ranges::find(maps_, shape.name, &std::pair<std::string, Fd>::first);
        if (map == maps_.end() || shape.entries > room_of(shape.name)) {
            return fail("the lines need more room than a run has: fewer destinations, or lines of "
                        "the host's own rules for the rest");
        }
        if (shape.type != BPF_MAP_TYPE_ARRAY) {
            if (auto emptied = empty(map->second, shape); !emptied) {
                return emptied;
            }
        }
        return fill(map->second);
    });
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

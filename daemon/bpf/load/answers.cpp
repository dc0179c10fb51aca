#include "daemon/bpf/load/answers.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <sys/mman.h>

#include "daemon/bpf/tables/native.h"

namespace egress::bpf {

namespace {

constexpr std::size_t sets_size = EGRESS_GRANTS_SETS * sizeof(egress_grants);

egress_resolver key_of(const Endpoint& resolver) {
    egress_resolver out{};
    std::ranges::copy(resolver.address.raw(), out.address);
    out.port = resolver.port;
    return out;
}

bool same(const egress_resolver& a, const egress_resolver& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

/// What the map has now. Only the daemon changes it.
std::vector<egress_resolver> present(int map) {
    std::vector<egress_resolver> out;
    egress_resolver key{};
    const void* last = nullptr;
    for (egress_resolver next{};
         out.size() < EGRESS_MAX_RESOLVERS && bpf_map_get_next_key(map, last, &next) == 0;) {
        out.push_back(next);
        key = next;
        last = &key;
    }
    return out;
}

} // namespace

Result<> fill_namings(int map) {
    static_assert(sizeof(egress_naming) % 8 == 0); // or the kernel would pad each CPU's value
    const int cpus = libbpf_num_possible_cpus();
    const std::vector<egress_naming> values(static_cast<std::size_t>(std::max(cpus, 0)),
                                            no_names());
    const std::uint32_t first = 0;
    if (values.empty() || bpf_map_update_elem(map, &first, values.data(), BPF_ANY) < 0) {
        return fail_errno("cannot fill the kernel's table of names");
    }
    return {};
}

Result<> set_resolvers(int map, const std::vector<Endpoint>& wanted) {
    std::vector<egress_resolver> keys;
    std::ranges::transform(wanted, std::back_inserter(keys), key_of);
    keys.resize(std::min<std::size_t>(keys.size(), EGRESS_MAX_RESOLVERS));
    const auto before = present(map);
    const auto in = [](const auto& list, const egress_resolver& key) {
        return std::ranges::any_of(list, [&](const auto& each) { return same(each, key); });
    };
    // A full map has no room for a new one beside the old ones.
    const bool crowded = before.size() + keys.size() > EGRESS_MAX_RESOLVERS;
    const auto add = [&]() -> Result<> {
        for (const auto& key : keys) {
            const std::uint32_t one = 1;
            if (bpf_map_update_elem(map, &key, &one, BPF_ANY) < 0) {
                return fail_errno("cannot tell the kernel a resolver");
            }
        }
        return {};
    };
    if (auto added = crowded ? Result<>() : add(); !added) {
        return added;
    }
    for (const auto& key : before) {
        if (!in(keys, key)) {
            (void)bpf_map_delete_elem(map, &key); // ENOENT: it is gone
        }
    }
    return crowded ? add() : Result<>();
}

Result<GrantSets> GrantSets::open(int map) {
    void* const sets = mmap(nullptr, sets_size, PROT_READ, MAP_SHARED, map, 0);
    if (sets == MAP_FAILED) {
        return fail_errno("cannot read what names were granted");
    }
    GrantSets out;
    out.sets_ = static_cast<const egress_grants*>(sets);
    return out;
}

GrantSets::GrantSets(GrantSets&& other) noexcept : sets_(std::exchange(other.sets_, nullptr)) {}

GrantSets& GrantSets::operator=(GrantSets&& other) noexcept {
    std::swap(sets_, other.sets_);
    return *this;
}

GrantSets::~GrantSets() {
    if (sets_ != nullptr) {
        munmap(const_cast<egress_grants*>(sets_), sets_size);
    }
}

std::size_t GrantSets::in_force(std::uint64_t now) const {
    std::size_t out = 0;
    for (std::size_t i = 0; sets_ != nullptr && i < EGRESS_GRANTS_SETS; ++i) {
        for (const auto& grant : sets_[i].each) {
            out += grant.until != EGRESS_GRANT_WRITTEN && now < grant.until ? 1 : 0;
        }
    }
    return out;
}

} // namespace egress::bpf

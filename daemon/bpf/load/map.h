// Creates, fills and describes BPF maps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "lib/fd.h"

struct bpf_object;

namespace egress::bpf {

struct MapShape {
    int type = 0; ///< BPF_MAP_TYPE_*
    std::string name;
    std::uint32_t key_size = 0;
    std::uint32_t value_size = 0;
    std::uint32_t entries = 0; ///< at least 1
    std::uint32_t flags = 0;
};

Result<Fd> make_map(const MapShape& shape);

/// Describes the object's inner maps, before it is loaded, by maps like those of make_map(): Linux
/// 6.1 takes a map with BTF types and one without for different kinds. Keep the descriptors open
/// until the object is loaded.
Result<std::vector<Fd>> describe_inner_maps(bpf_object* object);

/// Writes all values of an array made with BPF_F_MMAPABLE; `size` bytes in the map's own layout.
Result<> fill_array(const Fd& map, const MapShape& shape, const void* data, std::size_t size);

/// Adds `count` entries; keys and values are arrays without gaps.
Result<> fill_table(const Fd& map, const MapShape& shape, const void* keys, const void* values,
                    std::uint32_t count);

/// A value of eight bytes on each CPU; empty: it cannot be read.
std::vector<std::uint64_t> each_cpu(int map, std::uint32_t index);
/// Sums a value of eight bytes over all CPUs.
std::uint64_t sum_over_cpus(int map, std::uint32_t index);

} // namespace egress::bpf

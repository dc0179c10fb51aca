#include "daemon/bpf/load/map.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <unistd.h>

namespace egress::bpf {

namespace {

std::size_t round_up(std::size_t size, std::size_t to) {
    return (size + to - 1) / to * to;
}

} // namespace

Result<Fd> make_map(const MapShape& shape) {
    bpf_map_create_opts options{};
    options.sz = sizeof options;
    options.map_flags = shape.flags;
    const int fd =
        bpf_map_create(static_cast<bpf_map_type>(shape.type), shape.name.substr(0, 15).c_str(),
                       shape.key_size, shape.value_size, shape.entries, &options);
    if (fd < 0) {
        return fail_errno("cannot make the kernel's table " + shape.name, -fd);
    }
    return Fd(fd);
}

Result<std::vector<Fd>> describe_inner_maps(bpf_object* object) {
    std::vector<Fd> out;
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
        const bpf_map* inner = bpf_map__inner_map(map);
        if (inner == nullptr) {
            continue;
        }
        auto made = make_map({static_cast<int>(bpf_map__type(inner)), bpf_map__name(map),
                              bpf_map__key_size(inner), bpf_map__value_size(inner), 1,
                              bpf_map__map_flags(inner)});
        if (!made) {
            return std::unexpected(made.error());
        }
        if (const int code = bpf_map__set_inner_map_fd(map, made->get()); code != 0) {
            return fail_errno("cannot describe the kernel's table", -code);
        }
        out.push_back(std::move(*made));
    }
    return out;
}

Result<> fill_array(const Fd& map, const MapShape& shape, const void* data, std::size_t size) {
    // Each value of such an array begins at a multiple of eight.
    const std::size_t stride = round_up(shape.value_size, 8);
    const std::size_t length =
        round_up(stride * shape.entries, static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
    void* const mapped = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, map.get(), 0);
    if (mapped == MAP_FAILED) {
        return fail_errno("cannot map the kernel's table " + shape.name);
    }
    auto* to = static_cast<std::byte*>(mapped);
    const auto* from = static_cast<const std::byte*>(data);
    if (size == 0) {
        // An empty table: its one entry is never looked up.
    } else if (stride == shape.value_size) {
        std::memcpy(to, from, size);
    } else {
        for (std::size_t at = 0; at < size; at += shape.value_size, to += stride) {
            std::memcpy(to, from + at, shape.value_size);
        }
    }
    munmap(mapped, length);
    return {};
}

Result<> fill_table(const Fd& map, const MapShape& shape, const void* keys, const void* values,
                    std::uint32_t count) {
    const auto* key = static_cast<const std::byte*>(keys);
    const auto* value = static_cast<const std::byte*>(values);
    std::uint32_t done = count;
    bpf_map_batch_opts options{};
    options.sz = sizeof options;
    if (count == 0) {
        return {};
    }
    const int code = bpf_map_update_batch(map.get(), keys, values, &done, &options);
    if (code == 0) {
        return {};
    }
    // For kernels without batches for this kind of table.
    for (std::uint32_t i = 0; i < count; ++i) {
        if (bpf_map_update_elem(map.get(), key + std::size_t{i} * shape.key_size,
                                value + std::size_t{i} * shape.value_size, BPF_ANY) < 0) {
            return fail_errno("cannot fill the kernel's table " + shape.name);
        }
    }
    return {};
}

std::vector<std::uint64_t> each_cpu(int map, std::uint32_t index) {
    const int cpus = libbpf_num_possible_cpus();
    std::vector<std::uint64_t> values(static_cast<std::size_t>(std::max(cpus, 0)));
    if (values.empty() || bpf_map_lookup_elem(map, &index, values.data()) < 0) {
        return {};
    }
    return values;
}

std::uint64_t sum_over_cpus(int map, std::uint32_t index) {
    const auto values = each_cpu(map, index);
    return std::accumulate(values.begin(), values.end(), std::uint64_t{0});
}

} // namespace egress::bpf

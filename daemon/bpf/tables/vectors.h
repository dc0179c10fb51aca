// Bit vectors of rules, each content stored once.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "daemon/bpf/abi.h"

namespace egress::bpf {

/// Index of a vector.
using Index = std::uint32_t;

inline void set(egress_vector& vector, std::size_t rule) {
    vector.words[rule / 64] |= std::uint64_t{1} << rule % 64;
    vector.any |= std::uint64_t{1} << rule / 64;
}

bool is_empty(const egress_vector& vector);

/// (base | plus) & ~minus.
egress_vector combine(const egress_vector& base, const egress_vector& plus,
                      const egress_vector& minus = {});

egress_vector intersect(const egress_vector& a, const egress_vector& b);

class VectorPool {
  public:
    VectorPool();

    /// Never 0, which tables use for "not there".
    Index add(const egress_vector& vector);
    const egress_vector& operator[](Index index) const { return vectors_[index]; }
    std::vector<egress_vector> take() { return std::move(vectors_); }

  private:
    struct Hash {
        std::size_t operator()(const egress_vector& vector) const;
    };
    struct Equal {
        bool operator()(const egress_vector& a, const egress_vector& b) const;
    };
    std::vector<egress_vector> vectors_;
    std::unordered_map<egress_vector, Index, Hash, Equal> index_;
};

} // namespace egress::bpf

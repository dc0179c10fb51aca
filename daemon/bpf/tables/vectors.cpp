#include "daemon/bpf/tables/vectors.h"

#include <algorithm>

namespace egress::bpf {

bool is_empty(const egress_vector& vector) {
    return vector.any == 0;
}

egress_vector combine(const egress_vector& base, const egress_vector& plus,
                      const egress_vector& minus) {
    egress_vector out{};
    for (std::size_t w = 0; w < EGRESS_WORDS; ++w) {
        out.words[w] = (base.words[w] | plus.words[w]) & ~minus.words[w];
        out.any |= std::uint64_t{out.words[w] != 0} << w;
    }
    return out;
}

std::size_t VectorPool::Hash::operator()(const egress_vector& vector) const {
    std::uint64_t hash = vector.any;
    for (const auto word : vector.words) {
        hash = (hash ^ word) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 32;
    }
    return hash;
}

bool VectorPool::Equal::operator()(const egress_vector& a, const egress_vector& b) const {
    return a.any == b.any && std::equal(std::begin(a.words), std::end(a.words), b.words);
}

egress_vector intersect(const egress_vector& a, const egress_vector& b) {
    egress_vector out{};
    for (std::size_t w = 0; w < EGRESS_WORDS; ++w) {
        out.words[w] = a.words[w] & b.words[w];
        out.any |= std::uint64_t{out.words[w] != 0} << w;
    }
    return out;
}

VectorPool::VectorPool() : vectors_(EGRESS_EMPTY + 1) {
    index_.emplace(egress_vector{}, EGRESS_EMPTY);
}

Index VectorPool::add(const egress_vector& vector) {
    const auto [entry, added] = index_.emplace(vector, static_cast<Index>(vectors_.size()));
    if (added) {
        vectors_.push_back(vector);
    }
    return entry->second;
}

} // namespace egress::bpf

#include "daemon/bpf/tables/runs.h"

#include <algorithm>
#include <utility>

namespace egress::bpf {

void RunPack::add(std::uint32_t first, Index vector) {
    if (used_ == EGRESS_RUNS_SIZE || !has_room(vector)) {
        finish();
    }
    put(first, number_of(vector));
    last_ = vector;
}

void RunPack::add_single(std::uint32_t first, Index vector, Index around) {
    // The two always differ: else the address would not be a run.
    const std::size_t unknown = (knows(vector) ? 0U : 1U) + (knows(around) ? 0U : 1U);
    if (used_ == EGRESS_RUNS_SIZE || known_ + unknown > EGRESS_RUNS_VECTORS ||
        around_.value_or(around) != around) {
        finish();
    }
    around_ = around;
    (void)number_of(around);
    put(first, number_of(vector) | EGRESS_RUN_SINGLE);
    last_ = around;
}

void RunPack::finish() {
    if (used_ == 0) {
        return;
    }
    while (used_ < EGRESS_RUNS_SIZE) {
        put(65535, number_of(last_));
    }
    // The vector after single addresses must be vectors[0]: swap it with the one there.
    const unsigned around = around_ ? number_of(*around_) : 0;
    std::swap(vectors_[0], vectors_[around]);
    egress_runs& runs = out_.emplace_back();
    std::copy(first_.begin(), first_.end(), std::begin(runs.first));
    for (std::size_t i = 0; i < known_; ++i) {
        runs.vectors[i] = static_cast<std::uint16_t>(vectors_[i]);
    }
    for (unsigned i = 0; i < EGRESS_RUNS_SIZE; ++i) {
        const unsigned which = codes_[i] & ~unsigned{EGRESS_RUN_SINGLE};
        const unsigned moved = which == around ? 0 : which == 0 ? around : which;
        runs.codes |= std::uint64_t{(codes_[i] & EGRESS_RUN_SINGLE) | moved} << (3 * i);
    }
    used_ = 0;
    known_ = 0;
    around_.reset();
}

bool RunPack::has_room(Index vector) const {
    return known_ < EGRESS_RUNS_VECTORS || knows(vector);
}

bool RunPack::knows(Index vector) const {
    return std::find(vectors_.begin(), vectors_.begin() + static_cast<std::ptrdiff_t>(known_),
                     vector) != vectors_.begin() + static_cast<std::ptrdiff_t>(known_);
}

/// The vector's number in the structure, which must have room for it.
unsigned RunPack::number_of(Index vector) {
    const auto end = vectors_.begin() + static_cast<std::ptrdiff_t>(known_);
    const auto at = std::find(vectors_.begin(), end, vector);
    if (at == end) {
        vectors_[known_++] = vector;
    }
    return static_cast<unsigned>(at - vectors_.begin());
}

void RunPack::put(std::uint32_t first, unsigned code) {
    first_[used_] = static_cast<std::uint16_t>(first);
    codes_[used_++] = code;
}

} // namespace egress::bpf

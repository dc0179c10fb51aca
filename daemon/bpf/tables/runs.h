// The runs below one entry of base->v4_top -> structures of them (struct egress_runs).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/bpf/tables/compile.h"

namespace egress::bpf {

/// Puts the runs of an entry into as few structures as hold them in order: they are given in the
/// order of their addresses, the first begins at 0, and each goes on up to the next.
class RunPack {
  public:
    /// Appends to `out`.
    explicit RunPack(std::vector<egress_runs>& out) : out_(out) {}

    /// `first`: last 16 bits of an address.
    void add(std::uint32_t first, Index vector);

    /// One address, never the entry's first or last. The run before it goes on behind it, and
    /// `around` is its vector.
    void add_single(std::uint32_t first, Index vector, Index around);

    /// Writes what there is. The next run may be one of another entry.
    void finish();

  private:
    bool has_room(Index vector) const;
    bool knows(Index vector) const;
    unsigned number_of(Index vector);
    void put(std::uint32_t first, unsigned code);

    std::vector<egress_runs>& out_;
    std::array<std::uint16_t, EGRESS_RUNS_SIZE> first_{};
    std::array<unsigned, EGRESS_RUNS_SIZE> codes_{};
    std::array<Index, EGRESS_RUNS_VECTORS> vectors_{};
    std::size_t used_ = 0;        ///< runs in the structure
    std::size_t known_ = 0;       ///< vectors in it
    Index last_ = EGRESS_EMPTY;   ///< what goes on behind the last run
    std::optional<Index> around_; ///< what goes on behind single addresses
};

} // namespace egress::bpf

// The runs below one entry of base->v4_top -> structures of them (struct egress_runs).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "daemon/bpf/tables/compile.h"

namespace egress::bpf {

/// Packs the runs of an entry into as few structures as possible. Add them in the order of their
/// addresses; the first begins at 0, and each ends where the next begins.
class RunPack {
  public:
    /// Appends to `out`.
    explicit RunPack(std::vector<egress_runs>& out) : out_(out) {}

    /// `first`: last 16 bits of an address.
    void add(std::uint32_t first, Index vector);

    /// Adds one address, never the entry's first or last. The run before it continues after it;
    /// `around` is that run's vector.
    void add_single(std::uint32_t first, Index vector, Index around);

    /// Writes the runs so far. The next run may belong to another entry.
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
    Index last_ = EGRESS_EMPTY;   ///< vector after the last run
    std::optional<Index> around_; ///< vector after single addresses
};

} // namespace egress::bpf

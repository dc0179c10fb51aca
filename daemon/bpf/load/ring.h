// Reading a ring of the kernel's events.
//
// What is read is the reader's position in the ring, which the kernel keeps with the map: the next
// daemon goes on where the one before was killed. The data counts as memory of ours while it is
// mapped, so it is only while there is something to read; and once and not twice, as a record never
// is longer than the one page that is mapped behind the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "daemon/base/result.h"
#include "lib/fd.h"

namespace egress::bpf {

class Ring {
  public:
    using OnRecord = std::function<void(std::span<const std::byte>)>;

    /// Takes a descriptor of the map.
    static Result<std::unique_ptr<Ring>> open(Fd map);
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    int fd() const { return map_.get(); } ///< readable when there is a record
    /// Hands over at most `most` records; how many there were. A record counts as read when the
    /// call with it has returned.
    std::size_t read(std::size_t most, const OnRecord& on_record);
    /// Records that wait to be read, those that are being written included. Nothing is known
    /// where the memory does not suffice.
    std::size_t waiting();
    /// Unmaps the data if all is read; the next record maps it again.
    void rest();

  private:
    explicit Ring(Fd map) : map_(std::move(map)) {}
    bool map_data();
    const std::byte* at(std::uint64_t position) const { return data_ + (position & (size_ - 1)); }
    std::uint32_t header_at(std::uint64_t position) const;

    Fd map_;
    std::size_t page_ = 0;
    std::size_t size_ = 0;                    ///< bytes of data, a power of two
    std::uint64_t* consumer_ = nullptr;       ///< mapped; a page
    const std::uint64_t* producer_ = nullptr; ///< mapped; a page
    std::byte* data_ = nullptr; ///< mapped or null; the data, and its first page again
};

} // namespace egress::bpf

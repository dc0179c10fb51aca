// Reads the kernel's ring of events.
//
// The kernel keeps the reader's position with the map: the next daemon continues where the last one
// was killed. Mapped data counts as the daemon's memory, so it is mapped only while there is
// something to read, and once instead of twice, as no record is longer than the one page mapped
// behind the end.
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

    /// Takes over a descriptor of the map.
    static Result<std::unique_ptr<Ring>> open(Fd map);
    ~Ring();
    Ring(const Ring&) = delete;
    Ring& operator=(const Ring&) = delete;

    int fd() const { return map_.get(); } ///< readable when there is a record
    /// Hands over at most `most` records; returns how many. A record counts as read once its call
    /// has returned.
    std::size_t read(std::size_t most, const OnRecord& on_record);
    /// Number of unread records, those being written included. 0 if memory does not suffice to
    /// know.
    std::size_t waiting();
    /// Unmaps the data if everything is read; the next record maps it again.
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

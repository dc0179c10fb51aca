#include "daemon/bpf/load/ring.h"

#include <atomic>

#include <bpf/bpf.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

namespace egress::bpf {

namespace {

constexpr std::size_t header_size = BPF_RINGBUF_HDR_SZ;

std::size_t step_of(std::uint32_t header) {
    const std::size_t length = header & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
    return (length + header_size + 7) / 8 * 8;
}

std::uint64_t load(const std::uint64_t* at) {
    return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}

} // namespace

Result<std::unique_ptr<Ring>> Ring::open(Fd map) {
    bpf_map_info info{};
    std::uint32_t length = sizeof info;
    if (bpf_obj_get_info_by_fd(map.get(), &info, &length) < 0 ||
        info.type != BPF_MAP_TYPE_RINGBUF) {
        return fail("cannot read the kernel's events: no ring");
    }
    std::unique_ptr<Ring> ring(new Ring(std::move(map)));
    ring->page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    ring->size_ = info.max_entries;
    void* const consumer =
        mmap(nullptr, ring->page_, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd(), 0);
    if (consumer == MAP_FAILED) {
        return fail_errno("cannot map the ring of the kernel's events");
    }
    ring->consumer_ = static_cast<std::uint64_t*>(consumer);
    void* const producer = mmap(nullptr, ring->page_, PROT_READ, MAP_SHARED, ring->fd(),
                                static_cast<off_t>(ring->page_));
    if (producer == MAP_FAILED) {
        return fail_errno("cannot map the ring of the kernel's events");
    }
    ring->producer_ = static_cast<const std::uint64_t*>(producer);
    return ring;
}

Ring::~Ring() {
    if (consumer_ != nullptr) {
        munmap(consumer_, page_);
    }
    if (producer_ != nullptr) {
        munmap(const_cast<std::uint64_t*>(producer_), page_);
    }
    if (data_ != nullptr) {
        munmap(data_, size_ + page_);
    }
}

bool Ring::map_data() {
    if (data_ == nullptr) {
        void* const data = mmap(nullptr, size_ + page_, PROT_READ, MAP_SHARED, fd(),
                                static_cast<off_t>(2 * page_));
        data_ = data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
    }
    return data_ != nullptr;
}

void Ring::rest() {
    if (data_ != nullptr && load(consumer_) == load(producer_)) {
        munmap(data_, size_ + page_);
        data_ = nullptr;
    }
}

std::uint32_t Ring::header_at(std::uint64_t position) const {
    return __atomic_load_n(reinterpret_cast<const std::uint32_t*>(at(position)), __ATOMIC_ACQUIRE);
}

std::size_t Ring::read(std::size_t most, const OnRecord& on_record) {
    std::size_t taken = 0;
    auto position = load(consumer_);
    auto end = load(producer_);
    while (position < end && taken < most && map_data()) {
        const auto header = header_at(position);
        if ((header & BPF_RINGBUF_BUSY_BIT) != 0) {
            break;
        }
        if ((header & BPF_RINGBUF_DISCARD_BIT) == 0) {
            on_record({at(position) + header_size, header});
            ++taken;
        }
        position += step_of(header);
        __atomic_store_n(consumer_, position, __ATOMIC_RELEASE);
        end = load(producer_);
    }
    return taken;
}

std::size_t Ring::waiting() {
    std::size_t count = 0;
    const auto end = load(producer_);
    for (auto position = load(consumer_); position < end && map_data();) {
        const auto header = header_at(position);
        count += (header & BPF_RINGBUF_DISCARD_BIT) == 0 ? 1 : 0;
        position += step_of(header);
    }
    return count;
}

} // namespace egress::bpf

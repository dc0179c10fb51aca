// One operation through io_uring, by bare system calls: a way out that no libc function takes.
#pragma once

#include <cerrno>
#include <cstdint>
#include <cstring>

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace egress::ctl {

/// A ring for a single operation. Its destructor frees everything.
class Uring {
  public:
    /// `flags` as in io_uring_setup(2). good() is false if the kernel refuses; errno says why.
    explicit Uring(unsigned flags = 0) {
        params_.flags = flags;
        fd_ = static_cast<int>(syscall(__NR_io_uring_setup, 4, &params_));
        if (fd_ < 0) {
            return;
        }
        submit_ = map(params_.sq_off.array + params_.sq_entries * sizeof(std::uint32_t),
                      IORING_OFF_SQ_RING);
        complete_ = map(params_.cq_off.cqes + params_.cq_entries * sizeof(io_uring_cqe),
                        IORING_OFF_CQ_RING);
        entries_ = map(params_.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
    }
    ~Uring() {
        for (const auto& area : {submit_, complete_, entries_}) {
            if (area.start != nullptr) {
                munmap(area.start, area.size);
            }
        }
        if (fd_ >= 0) {
            close(fd_);
        }
    }
    Uring(const Uring&) = delete;
    Uring& operator=(const Uring&) = delete;

    bool good() const {
        return submit_.start != nullptr && complete_.start != nullptr && entries_.start != nullptr;
    }

    /// Submits and waits; returns the operation's result, or minus an errno.
    int run(const io_uring_sqe& entry) {
        std::memcpy(entries_.start, &entry, sizeof entry);
        at(submit_, params_.sq_off.array) = 0;
        __atomic_store_n(&at(submit_, params_.sq_off.tail), at(submit_, params_.sq_off.tail) + 1,
                         __ATOMIC_RELEASE);
        unsigned flags = IORING_ENTER_GETEVENTS;
        if ((params_.flags & IORING_SETUP_SQPOLL) != 0) {
            flags |= IORING_ENTER_SQ_WAKEUP;
        }
        while (syscall(__NR_io_uring_enter, fd_, 1, 1, flags, nullptr, 0) < 0) {
            if (errno != EINTR) {
                return -errno;
            }
        }
        const std::uint32_t head = at(complete_, params_.cq_off.head);
        if (head == __atomic_load_n(&at(complete_, params_.cq_off.tail), __ATOMIC_ACQUIRE)) {
            return -EAGAIN;
        }
        const auto* const all = reinterpret_cast<const io_uring_cqe*>(
            static_cast<const char*>(complete_.start) + params_.cq_off.cqes);
        const int result = all[head & at(complete_, params_.cq_off.ring_mask)].res;
        __atomic_store_n(&at(complete_, params_.cq_off.head), head + 1, __ATOMIC_RELEASE);
        return result;
    }

  private:
    struct Area {
        void* start = nullptr;
        std::size_t size = 0;
    };

    Area map(std::size_t size, std::uint64_t offset) const {
        void* const start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                                 fd_, static_cast<off_t>(offset));
        return start == MAP_FAILED ? Area{} : Area{start, size};
    }
    static std::uint32_t& at(const Area& area, std::uint32_t offset) {
        return *reinterpret_cast<std::uint32_t*>(static_cast<char*>(area.start) + offset);
    }

    int fd_ = -1;
    io_uring_params params_{};
    Area submit_;
    Area complete_;
    Area entries_;
};

} // namespace egress::ctl

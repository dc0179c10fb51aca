#include "daemon/base/memory.h"

#include <cinttypes>
#include <cstdio>
#include <memory>
#include <new>
#include <string_view>

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

namespace egress {

void* map_aligned(std::size_t bytes) {
    void* const all =
        mmap(nullptr, bytes * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) {
        throw std::bad_alloc();
    }
    auto* const before = static_cast<char*>(all);
    const std::size_t offset = reinterpret_cast<std::uintptr_t>(all) % bytes;
    char* const begin = before + (offset == 0 ? 0 : bytes - offset);
    if (begin != before) {
        munmap(before, static_cast<std::size_t>(begin - before));
    }
    munmap(begin + bytes, static_cast<std::size_t>(before + bytes - begin));
    return begin;
}

void unmap(void* begin, std::size_t bytes) {
    munmap(begin, bytes);
}

void use_large_pages(void* begin, std::size_t bytes, bool wanted) {
    const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto from = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) & ~(page - 1);
    const auto to = (reinterpret_cast<std::uintptr_t>(begin) + bytes) & ~(page - 1);
    if (from < to) {
        madvise(reinterpret_cast<void*>(from), to - from, wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
}

void trim_memory() {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> maps(std::fopen("/proc/self/maps", "re"),
                                                               &std::fclose);
    char line[512];
    while (maps && std::fgets(line, sizeof line, maps.get()) != nullptr) {
        std::uintptr_t begin = 0;
        std::uintptr_t end = 0;
        char rights[5] = "";
        if (std::sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s", &begin, &end, rights) != 3) {
            continue;
        }
        // Skip private data that is read-only now: the linker wrote its resolved addresses.
        const std::string_view mode(rights);
        // Only files can be read again; memory shared with the kernel (its event ring) cannot.
        const bool file = std::string_view(line).find(" /") != std::string_view::npos;
        if (file && (mode == "r-xp" || mode == "r--s")) {
            madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
        }
    }
    malloc_trim(0);
}

} // namespace egress

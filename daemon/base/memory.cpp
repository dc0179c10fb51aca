#include "daemon/base/memory.h"

#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string_view>

#include <malloc.h>
#include <sys/mman.h>

namespace egress {

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

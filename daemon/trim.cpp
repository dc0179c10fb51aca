#include "daemon/trim.h"

#include <cstdint>

#include <link.h>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

namespace egress {

void trim_text() {
    const auto drop = [](dl_phdr_info* object, std::size_t, void*) {
        const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
        for (int i = 0; i < object->dlpi_phnum; ++i) {
            const auto& part = object->dlpi_phdr[i];
            // Text that is never written holds nothing but the file's own bytes.
            if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0 ||
                (part.p_flags & PF_W) != 0) {
                continue;
            }
            const std::uintptr_t begin = (object->dlpi_addr + part.p_vaddr) & ~(page - 1);
            const std::uintptr_t end = object->dlpi_addr + part.p_vaddr + part.p_memsz;
            // A mapping that has no file behind it (the vDSO) refuses or is refilled the same way.
            madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
        }
        return 0;
    };
    dl_iterate_phdr(drop, nullptr);
    malloc_trim(0);
}

} // namespace egress

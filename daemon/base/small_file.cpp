#include "daemon/base/small_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

namespace egress {

std::string read_small_file(const std::string& path, std::size_t most_bytes) {
    const Fd fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    struct stat st {};
    if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode)) {
        return "";
    }
    std::string out(most_bytes, '\0');
    std::size_t used = 0;
    while (used < out.size()) {
        const ssize_t got = read(fd.get(), out.data() + used, out.size() - used);
        if (got <= 0) {
            break;
        }
        used += static_cast<std::size_t>(got);
    }
    out.resize(used);
    return out;
}

} // namespace egress

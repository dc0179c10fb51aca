#include "daemon/bpf/pins.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>

namespace egress::bpf {

namespace {

Fd open_directory(const std::string& directory) {
    return Fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

} // namespace

Fd hold_pins(const std::string& directory) {
    Fd fd = open_directory(directory);
    if (fd) {
        flock(fd.get(), LOCK_SH | LOCK_NB);
    }
    return fd;
}

bool pins_held(const std::string& directory) {
    const Fd fd = open_directory(directory);
    return fd && flock(fd.get(), LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

Result<std::size_t> remove_pins(const std::string& directory) {
    std::error_code code;
    std::vector<std::filesystem::path> pins;
    for (auto entry = std::filesystem::directory_iterator(directory, code);
         !code && entry != std::filesystem::directory_iterator(); entry.increment(code)) {
        pins.push_back(entry->path());
    }
    if (code == std::errc::no_such_file_or_directory) {
        return 0;
    }
    if (code) {
        return fail("cannot read " + directory + ": " + code.message(), code.value());
    }
    // The links first: no program may run without its maps being whole.
    std::ranges::partition(
        pins, [](const auto& path) { return path.filename().string().starts_with("link_"); });
    for (const auto& path : pins) {
        if (!std::filesystem::remove(path, code) && code) {
            return fail("cannot remove " + path.string() + ": " + code.message(), code.value());
        }
    }
    return pins.size();
}

} // namespace egress::bpf

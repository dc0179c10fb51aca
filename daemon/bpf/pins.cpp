#include "daemon/bpf/pins.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>

namespace egress::bpf {

namespace {

Fd open_directory(const std::string& directory) {
    return Fd(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/// The entries of the directory: directories, or all others.
Result<std::vector<std::filesystem::path>> list(const std::string& directory, bool directories) {
    std::error_code code;
    std::vector<std::filesystem::path> out;
    for (auto entry = std::filesystem::directory_iterator(directory, code);
         !code && entry != std::filesystem::directory_iterator(); entry.increment(code)) {
        if (entry->is_directory() == directories) {
            out.push_back(entry->path());
        }
    }
    if (code && code != std::errc::no_such_file_or_directory) {
        return fail("cannot read " + directory + ": " + code.message(), code.value());
    }
    return out;
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

bool has_pins(const std::string& directory) {
    std::error_code code;
    return std::filesystem::directory_iterator(directory, code) !=
           std::filesystem::directory_iterator();
}

Result<std::size_t> remove_own_pins(const std::string& directory) {
    auto pins = list(directory, false);
    if (!pins) {
        return std::unexpected(pins.error());
    }
    // The links first: no program may run with only part of its maps.
    std::ranges::partition(
        *pins, [](const auto& path) { return path.filename().string().starts_with("link_"); });
    for (const auto& path : *pins) {
        std::error_code code;
        if (!std::filesystem::remove(path, code) && code) {
            return fail("cannot remove " + path.string() + ": " + code.message(), code.value());
        }
    }
    return pins->size();
}

Result<> set_pins_aside(const std::string& directory, std::uint32_t abi) {
    const std::filesystem::path aside = directory + "/abi-" + std::to_string(abi);
    auto pins = list(directory, false);
    std::error_code code;
    std::filesystem::create_directory(aside, code);
    // The settings last: after a kill in the middle they still identify the version of the others.
    if (pins) {
        std::ranges::partition(*pins, [](const auto& path) { return path.filename() != "config"; });
    }
    for (std::size_t i = 0; pins && !code && i < pins->size(); ++i) {
        std::filesystem::rename((*pins)[i], aside / (*pins)[i].filename(), code);
    }
    if (!pins) {
        return std::unexpected(pins.error());
    }
    return code ? fail("cannot set the pins of another version aside in " + aside.string() + ": " +
                           code.message(),
                       code.value())
                : Result<>();
}

Result<std::size_t> remove_pins_set_aside(const std::string& directory) {
    const auto asides = list(directory, true);
    if (!asides) {
        return std::unexpected(asides.error());
    }
    std::size_t number = 0;
    for (const auto& aside : *asides) {
        const auto removed = remove_own_pins(aside.string());
        if (!removed) {
            return removed;
        }
        number += *removed;
        std::error_code code;
        std::filesystem::remove(aside, code); // an empty directory does no harm
    }
    return number;
}

Result<std::size_t> remove_pins(const std::string& directory) {
    const auto own = remove_own_pins(directory);
    if (!own) {
        return own;
    }
    const auto aside = remove_pins_set_aside(directory);
    return aside ? Result<std::size_t>(*own + *aside) : aside;
}

} // namespace egress::bpf

#include "daemon/bpf/tables/multi_call.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

namespace egress::bpf {

namespace {

// The names that these files have in distributions. A file with many links need be none of them:
// perl and python are linked under their versions.
constexpr std::array<std::string_view, 4> known{"busybox", "busybox.static", "toybox", "coreutils"};

} // namespace

std::string multi_call_file(const std::string& path) {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path file = fs::canonical(path, error);
    if (error || !fs::is_regular_file(file, error)) {
        return {};
    }
    if (std::ranges::find(known, file.filename().string()) != known.end()) {
        return file;
    }
    for (const fs::path& directory : {file.parent_path(), fs::path("/bin"), fs::path("/usr/bin")}) {
        for (const auto name : known) {
            if (fs::equivalent(file, directory / name, error) && !error) {
                return directory / name;
            }
        }
    }
    return {};
}

} // namespace egress::bpf

// Where the corpora are, and files as text.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "daemon/policy/parser.h"

namespace egress::policy {

inline std::filesystem::path source_root() {
    const char* root = std::getenv("EGRESS_TEST_SOURCE");
    REQUIRE_MESSAGE(root != nullptr,
                    "EGRESS_TEST_SOURCE must name the source tree; run it by ctest");
    return root;
}

/// Users, programs and lists that the corpora name are the same on every machine.
inline Sources corpus_sources() {
    return {source_root() / "test/policy/system/etc/egress.d",
            source_root() / "test/policy/system"};
}

inline std::string read_text(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

/// The *.conf of a folder below test/policy, sorted.
inline std::vector<std::filesystem::path> corpus(const std::string& folder) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry :
         std::filesystem::directory_iterator(source_root() / "test/policy" / folder)) {
        if (entry.path().extension() == ".conf") {
            paths.push_back(entry.path());
        }
    }
    std::sort(paths.begin(), paths.end());
    return paths;
}

} // namespace egress::policy

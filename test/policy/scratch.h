// A directory of its own that goes away with the test.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>

#include <doctest/doctest.h>
#include <stdlib.h>

#include "daemon/policy/parser.h"

namespace egress::policy {

class Scratch {
  public:
    Scratch() {
        std::string name = (std::filesystem::temp_directory_path() / "egress-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        root_ = name;
        for (const char* each : {"d", "egress.d"}) {
            std::filesystem::create_directory(root_ / each);
            std::filesystem::permissions(root_ / each, std::filesystem::perms(0755));
        }
    }
    ~Scratch() { std::filesystem::remove_all(root_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    std::string write(const std::string& name, const std::string& text) const {
        const auto path = root_ / name;
        std::ofstream(path, std::ios::binary) << text;
        std::filesystem::permissions(path, std::filesystem::perms(0644));
        return path.string();
    }
    std::string path(const std::string& name) const { return (root_ / name).string(); }

    /// "name:line: text" of each diagnostic, without the directory.
    std::string said(const Parsed& parsed) const {
        std::string out;
        for (const auto& diagnostic : parsed.diagnostics) {
            out += without_root(diagnostic.message()) + "\n";
        }
        return out;
    }

  private:
    std::string without_root(std::string text) const {
        const auto root = root_.string() + "/";
        for (auto at = text.find(root); at != text.npos; at = text.find(root, at)) {
            text.erase(at, root.size());
        }
        return text;
    }

    std::filesystem::path root_;
};

} // namespace egress::policy

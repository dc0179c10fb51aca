// The routes and the document that describes them to others (etc/egress-openapi.yaml).
#include "daemon/control/routes.h"

#include <cctype>
#include <fstream>
#include <set>
#include <string>

#include <doctest/doctest.h>

using namespace egress;

namespace {

/// "GET /v1/status" for each operation: paths are indented by two blanks, methods by four.
std::set<std::string> documented() {
    std::ifstream file(EGRESS_TEST_SOURCE "/etc/egress-openapi.yaml");
    REQUIRE(file);
    std::set<std::string> out;
    std::string path;
    bool paths = false;
    for (std::string line; std::getline(file, line);) {
        if (!line.empty() && line[0] != ' ') {
            paths = line == "paths:";
        } else if (paths && line.starts_with("  /")) {
            path = line.substr(2, line.find(':') - 2);
        } else if (paths && line.starts_with("    ") && line.ends_with(':') && line[4] != ' ') {
            std::string method = line.substr(4, line.size() - 5);
            for (char& c : method) {
                c = static_cast<char>(std::toupper(c));
            }
            out.insert(method + " " + path);
        }
    }
    return out;
}

} // namespace

TEST_CASE("routes: the document describes each, and no other") {
    std::set<std::string> served;
    for (const auto& route : routes()) {
        CHECK(served.insert(std::string(route.method) + " " + std::string(route.path)).second);
    }
    const auto described = documented();
    CHECK(described.size() > 10);
    CHECK(served == described);
}

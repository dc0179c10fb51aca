// The routes and the document that describes them to others (etc/egress-openapi.yaml).
#include "daemon/control/routes.h"

#include <cctype>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include <doctest/doctest.h>

using namespace egress;

namespace {

struct Operation {
    bool body = false;
    std::set<std::string> query;
};

/// By "GET /v1/status": paths are indented by two blanks, methods by four, what they take by six.
std::map<std::string, Operation> documented() {
    std::ifstream file(EGRESS_TEST_SOURCE "/etc/egress-openapi.yaml");
    REQUIRE(file);
    std::map<std::string, Operation> out;
    std::string path;
    Operation* operation = nullptr;
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
            operation = &out[method + " " + path];
        } else if (paths && line == "      requestBody:") {
            operation->body = true;
        } else if (paths && line.starts_with("        - ")) {
            constexpr std::string_view name = "name: "; // of an argument, with or without a brace
            if (const auto at = line.find(name); at <= 11) {
                const auto rest = line.substr(at + name.size());
                operation->query.insert(rest.substr(0, rest.find(',')));
            }
        }
    }
    return out;
}

} // namespace

TEST_CASE("routes: the document describes each with what it takes, and no other") {
    const auto described = documented();
    CHECK(described.size() > 10);
    CHECK(described.size() == routes().size());
    for (const auto& route : routes()) {
        const auto name = std::string(route.method) + " " + std::string(route.path);
        CAPTURE(name);
        const auto found = described.find(name);
        REQUIRE(found != described.end());
        CHECK(found->second.body == route.body);
        std::istringstream words{std::string(route.query)};
        const std::set<std::string> query{std::istream_iterator<std::string>(words), {}};
        CHECK(found->second.query == query);
    }
}

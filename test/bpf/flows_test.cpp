// The table of flows (test/flows), judged by the compiled rules without a kernel.
#include <fstream>
#include <sstream>

#include "test/bpf/build.h"

using namespace egress;
using namespace egress::bpf;

namespace {

struct Flow {
    std::string text; ///< the line
    Scene scene;
    std::string result;
};

struct Group {
    std::string name;
    std::string rules;
    std::vector<Flow> flows;
};

Flow flow_from(const std::string& line) {
    Flow flow;
    flow.text = line;
    std::istringstream words(line);
    std::string mark;
    std::string kind;
    std::string address;
    words >> mark >> kind >> address >> flow.scene.port;
    flow.scene.destination = Address::parse(address).value();
    flow.scene.type = kind == "tcp" ? 1 : kind == "udp" ? 2 : 3; // SOCK_STREAM, _DGRAM, _RAW
    flow.scene.protocol = kind == "tcp" ? 6 : kind == "udp" ? 17 : int{flow.scene.port};
    flow.scene.path = "/usr/bin/python3";
    flow.scene.command = "python3";
    for (std::string word; words >> word;) {
        if (word.starts_with("uid=")) {
            flow.scene.uid = static_cast<std::uint32_t>(std::stoul(word.substr(4)));
        } else if (word.starts_with("gid=")) {
            flow.scene.gid = static_cast<std::uint32_t>(std::stoul(word.substr(4)));
        } else if (word == "->") {
            words >> flow.result;
        }
    }
    return flow;
}

std::vector<Group> groups() {
    std::ifstream file(EGRESS_TEST_SOURCE "/test/flows/flows.txt");
    REQUIRE(file);
    std::vector<Group> out;
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("== ")) {
            out.push_back({line.substr(3), {}, {}});
        } else if (line.starts_with("? ")) {
            out.back().flows.push_back(flow_from(line));
        } else if (!line.empty() && line[0] != '#') {
            out.back().rules += line + "\n";
        }
    }
    return out;
}

std::string result_of(const policy::Policy& policy, const Scene& scene) {
    using Kind = policy::Verdict::Kind;
    const auto number = decide_compiled(tables_of(policy), scene).rule;
    if (number >= policy.egress.size() || policy.egress[number].options.audit) {
        return "ok";
    }
    const auto kind = policy.egress[number].verdict.kind;
    return kind == Kind::allow ? "ok" : kind == Kind::reject ? "ECONNREFUSED" : "EPERM";
}

} // namespace

TEST_CASE("flows: the native verdict gives what the table says") {
    const auto table = groups();
    REQUIRE(table.size() > 10);
    for (const auto& group : table) {
        CAPTURE(group.name);
        const auto policy = policy_of(group.rules);
        CHECK(group.flows.size() > 0);
        for (const auto& flow : group.flows) {
            CAPTURE(flow.text);
            CHECK(result_of(policy, flow.scene) == flow.result);
        }
    }
}

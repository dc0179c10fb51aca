// Within explain: a question that has been prepared, and the pieces of the answer.
#pragma once

#include <nlohmann/json.hpp>

#include "daemon/egress/explain.h"

namespace egress::explained {

struct Scene {
    struct {
        const Question& question;
        const bpf::Loader& loader;
        const policy::Policy& policy;
        const bpf::Tables& tables;
        const KnownAnswers& answers;
    } asked;
    egress_process process{};
    egress_flow flow{};
    std::uint64_t now = 0; ///< boot clock
};

/// What the rules say of one address; null: the tables are inconsistent.
nlohmann::json verdict(const Scene& scene, const Address& address);

/// What the rules say of the question's name, at each address that it has now; null as above.
nlohmann::json name(const Scene& scene);

} // namespace egress::explained

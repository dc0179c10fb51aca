#include "daemon/egress/looker.h"

#include <doctest/doctest.h>

#include "daemon/policy/parser.h"

namespace egress {

TEST_CASE(
    "names to look up: those of lines, once each; with queries listed those for any program") {
    const auto parsed = policy::parse_text("[egress]\n"
                                           "a.example:80,443 stream tcp * * allow\n"
                                           "a.example:25 stream tcp * * allow\n"
                                           "*.b.example * * * * allow\n"
                                           "c.example * * nobody * allow\n"
                                           "d.example * * * /usr/bin/curl allow\n"
                                           "e.example * * * * allow parent=/usr/bin/make\n"
                                           "f.example * * * * deny\n"
                                           "192.0.2.1 * * * * allow\n",
                                           "rules");
    REQUIRE(parsed.ok());
    const auto& rules = parsed.policy.egress;
    using Names = std::vector<std::string>;
    CHECK(Looker::names_of(rules, false) ==
          Names{"a.example", "c.example", "d.example", "e.example", "f.example"});
    CHECK(Looker::names_of(rules, true) == Names{"a.example"});
}

} // namespace egress

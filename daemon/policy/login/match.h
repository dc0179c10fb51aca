// Finds the lines that decide for a report: the most specific [local] and [remote] rule.
//
// The most specific line wins in any order of the text. The comparison goes by the location (an
// interface or "self" before an address before "*"; the longer prefix first), then by whether the
// line gives the port, the protocol, the family of the protocol ("tcp6" before "tcp"), the type,
// the owner; of equal lines the first wins (check() warns of the second). Immutable once made;
// look-ups allocate no memory.
//
// [local] matches the local address, its interface and port; [remote] matches the remote address
// and, like [local], the local port. The family of a protocol ("tcp6") must be the remote's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "daemon/policy/rules/rule.h"

namespace egress::policy {

/// Number of a name in the daemon's table of names (0: the -R name).
using NameId = std::uint16_t;

/// The parts of a report that rules match.
struct Subject {
    Endpoint local;             ///< port 0: unknown, matches only rules for any port
    std::string_view interface; ///< name of the interface that has `local`; empty: unknown
    Endpoint remote;            ///< the verified remote address
    int type = 0;               ///< SOCK_*
    int protocol = 0;           ///< IPPROTO_*
    std::uint32_t uid = 0;      ///< of the reporter
    bool remote_own = false;    ///< `remote` is an address of this host
};

/// The combined rule for a report.
struct EffectiveRule {
    const Rule* local = nullptr;  ///< never null
    const Rule* remote = nullptr; ///< null: no [remote] line matches
    NameId name = 0;
    Prefix counted;      ///< the remote address at the length at which it is counted
    bool limited = true; ///< false: it never blocks (nfail is "*", or disable 0)
    std::uint32_t nfail = 0;
    Seconds disable = 0; ///< `forever` for "*"
    std::uint32_t escalate_percent = 100;
    Seconds max = forever;
    Seconds window = forever; ///< forever: only `disable` ages a count
    LoginOptions::Grow grow;  ///< for the counted address's family, shorter than it; count 0: none
    bool kill = false;
    bool reject = false;
    bool spoofable = false;
    bool by_name = false;   ///< counted and blocked whatever the port and the protocol
    bool all_ports = false; ///< blocked whatever the port and the protocol
    bool keep = false;      ///< a success clears no count and lifts no block
};

class Matcher {
  public:
    /// `intern` returns the id of a set name: standard_name, standard_name + "-x" or the literal.
    Matcher(Policy policy, std::string_view standard_name,
            const std::function<NameId(std::string_view)>& intern);
    ~Matcher();
    Matcher(Matcher&&) noexcept;
    Matcher& operator=(Matcher&&) noexcept;

    /// Fills `out` and returns true. False: no [local] line matches.
    bool match(const Subject& subject, EffectiveRule& out) const;

    /// The [trusted] line for `uid` that fits: the first that names the uid, else the first for
    /// "*". Null: none.
    const Trusted* trusted(std::uint32_t uid,
                           const std::function<bool(const Trusted&)>& fits) const;

    const Policy& policy() const;

  private:
    struct Index;
    std::unique_ptr<Index> index_;
};

} // namespace egress::policy

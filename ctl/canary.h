// Tries every way out of a process, as a process of which the hooks refuse every check.
//
// Nothing leaves the host: all destinations are this process' own sockets on the loopback device.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "lib/fd.h"

namespace egress::ctl {

/// The result of trying a way out.
struct Attempt {
    enum class Kind : unsigned char { passed, refused, untried };
    Kind kind = Kind::untried;
    std::string why; ///< untried: what is missing

    static Attempt passed() { return {Kind::passed, {}}; }
    static Attempt untried(std::string why) { return {Kind::untried, std::move(why)}; }
    /// From the result of a system call.
    static Attempt of(long result, int error);
};

/// The sockets to which the ways lead, and some created before the mark.
class Canary {
  public:
    /// Call it before the process is marked.
    Canary();
    ~Canary();

    struct Sockets;
    const Sockets& sockets() const { return *sockets_; }

  private:
    std::unique_ptr<Sockets> sockets_;
};

struct Way {
    std::string_view name;
    std::string_view hook; ///< that should see it; "": no cgroup hook does
    Attempt (*attempt)(const Canary::Sockets&);
};

std::span<const Way> ways();

} // namespace egress::ctl

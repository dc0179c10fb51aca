// The ways out of a process, each really tried: by a process whose every look the hooks refuse.
//
// Nothing leaves the host: all destinations are sockets of this process on the loopback device.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "lib/fd.h"

namespace egress::ctl {

/// What trying a way out came to.
struct Attempt {
    enum class Kind : unsigned char { passed, refused, untried };
    Kind kind = Kind::untried;
    std::string why; ///< untried: what is missing

    static Attempt passed() { return {Kind::passed, {}}; }
    static Attempt untried(std::string why) { return {Kind::untried, std::move(why)}; }
    /// By what a system call gave.
    static Attempt of(long result, int error);
};

/// Sockets to try the ways to, and some that are older than the mark.
class Canary {
  public:
    /// Before the process is marked.
    Canary();
    ~Canary();

    struct Sockets;
    const Sockets& sockets() const { return *sockets_; }

  private:
    std::unique_ptr<Sockets> sockets_;
};

struct Way {
    std::string_view name;
    std::string_view hook; ///< that has to see it; "": no hook of the cgroup level does
    Attempt (*attempt)(const Canary::Sockets&);
};

std::span<const Way> ways();

} // namespace egress::ctl

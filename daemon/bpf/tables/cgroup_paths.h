// Ids of cgroups -> paths, for a process that may not open a directory by its id: that needs
// CAP_DAC_READ_SEARCH, which the service does not have.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <unordered_map>

namespace egress::bpf {

class CgroupPaths {
  public:
    explicit CgroupPaths(std::string root) : root_(std::move(root)) {}

    /// "/path" below the root; "": no such cgroup, or one too new to be known yet. A missing id
    /// starts a walk of the hierarchy, but walks take no more than a hundredth of the time.
    std::string find(std::uint64_t id);

  private:
    void walk();

    std::string root_;
    std::unordered_map<std::uint64_t, std::string> paths_;
    std::chrono::steady_clock::time_point next_;
};

} // namespace egress::bpf

// The sockets of AF_UNIX that jobs may connect to, as the kernel has them (hooks/unix.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/bpf/load/loader.h"

struct bpf_object;

namespace egress::bpf {

/// Chooses the programs for loading with the object if this kernel has their hooks; returns those
/// that it lacks.
std::vector<Coverage> choose_unix(bpf_object* object);

/// Puts in what all jobs may connect to, and what is refused to them without a word.
Result<> allow_common_unix(int map);

/// The names that a job may connect to: paths, or "@" and an abstract name.
Result<> allow_unix(int map, std::uint32_t job, const std::vector<std::string>& names);

/// Takes out what belongs to jobs that do not live.
void forget_unix(int map, const std::function<bool(std::uint32_t job)>& lives);

/// What an event of a job went to, by the address in it; "": it is forgotten.
std::string unix_name_of(int map, const egress_flow& flow);

} // namespace egress::bpf

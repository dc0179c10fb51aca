// Files that are many programs, and decide by the name they are started by which one: a line for
// one of these names is a line for all.
#pragma once

#include <string>

namespace egress::bpf {

/// The file of many programs that the path leads to, by link or hard link, as far as such files are
/// known: busybox, toybox, and coreutils in one file. "": none.
std::string multi_call_file(const std::string& path);

} // namespace egress::bpf

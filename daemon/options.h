// The command line of egressd, and nothing more.
#pragma once

#include <string>
#include <vector>

#include "daemon/base/clock.h"
#include "daemon/base/result.h"

namespace egress {

struct DaemonOptions {
    std::string conf;           ///< -c; its ".d" directory is read after it
    std::string helper;         ///< -C
    std::string database;       ///< -D
    std::string sockets_file;   ///< -P: more report sockets, one path a line
    std::string report_socket;  ///< -s
    std::string control_socket; ///< -S
    std::string standard_name;  ///< -R
    std::string cgroup;         ///< -G: where the egress hooks will attach
    Seconds reconcile = 60;     ///< -t
    bool foreground = false;    ///< -d
    bool flush = false;         ///< -f
    bool restore = false;       ///< -r
    bool verbose = false;       ///< -v
    bool check = false;         ///< -n
    bool monitor = false;       ///< -m
    bool help = false;          ///< -h, --help
    bool version = false;       ///< -V, --version
    std::string rules_error;    ///< of the files, where kept rules stand in for them; else empty
    bool hold_egress = false;   ///< the kept rules lack [egress]: what the kernel has stays
};

/// An error is one line that names the wrong word.
Result<DaemonOptions> parse_options(int argc, char** argv);
std::string usage();

} // namespace egress

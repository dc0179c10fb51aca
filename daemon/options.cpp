#include "daemon/options.h"

#include <fmt/format.h>
#include <getopt.h>

#include "daemon/base/log.h"
#include "daemon/base/number.h"
#include "daemon/base/set_name.h"
#include "egress-paths.h"

namespace egress {

namespace {

Result<Seconds> parse_seconds(std::string_view text) {
    constexpr Seconds most = 24 * 60 * 60;
    const auto value = parse_decimal<Seconds>(text);
    if (!value || *value < 1 || *value > most) {
        return fail(
            fmt::format("-t takes seconds from 1 to {}, not \"{}\"", most, escape(text, 32)));
    }
    return *value;
}

Result<std::string> parse_name(std::string_view text) {
    constexpr std::size_t most = 32; // a rule may put as much behind it ("-x")
    if (!is_set_name(text) || text.size() > most) {
        return fail(fmt::format(
            "-R takes a set name of at most 32 letters, digits, \"_\", \"-\" and \".\", not \"{}\"",
            escape(text, 64)));
    }
    return std::string(text);
}

} // namespace

Result<DaemonOptions> parse_options(int argc, char** argv) {
    DaemonOptions options;
    options.conf = EGRESS_CONF;
    options.helper = EGRESS_HELPER;
    options.database = EGRESS_DB_DIR;
    options.report_socket = EGRESS_REPORT_SOCKET;
    options.control_socket = EGRESS_CONTROL_SOCKET;
    options.standard_name = "egress";
    static const option longs[] = {{"help", no_argument, nullptr, 'h'},
                                   {"version", no_argument, nullptr, 'V'},
                                   {nullptr, 0, nullptr, 0}};
    opterr = 0;
    optind = 1;
    int letter = 0;
    while ((letter = getopt_long(argc, argv, ":c:C:D:P:s:S:R:G:t:dfrvnmhV", longs, nullptr)) !=
           -1) {
        switch (letter) {
        case 'c':
            options.conf = optarg;
            break;
        case 'C':
            options.helper = optarg;
            break;
        case 'D':
            options.database = optarg;
            break;
        case 'P':
            options.sockets_file = optarg;
            break;
        case 's':
            options.report_socket = optarg;
            break;
        case 'S':
            options.control_socket = optarg;
            break;
        case 'G':
            options.cgroup = optarg;
            break;
        case 'd':
            options.foreground = true;
            break;
        case 'f':
            options.flush = true;
            break;
        case 'r':
            options.restore = true;
            break;
        case 'v':
            options.verbose = true;
            break;
        case 'n':
            options.check = true;
            break;
        case 'm':
            options.monitor = true;
            break;
        case 'h':
            options.help = true;
            break;
        case 'V':
            options.version = true;
            break;
        case 'R': {
            auto name = parse_name(optarg);
            if (!name) {
                return std::unexpected(name.error());
            }
            options.standard_name = *name;
            break;
        }
        case 't': {
            const auto seconds = parse_seconds(optarg);
            if (!seconds) {
                return std::unexpected(seconds.error());
            }
            options.reconcile = *seconds;
            break;
        }
        case ':':
            return fail(fmt::format("-{} needs a value", static_cast<char>(optopt)));
        default: {
            const bool is_short = optopt > 0x20 && optopt < 0x7f;
            return fail(is_short ? fmt::format("unknown option -{}", static_cast<char>(optopt))
                                 : fmt::format("unknown option {}", escape(argv[optind - 1], 64)));
        }
        }
    }
    if (optind < argc) {
        return fail(fmt::format("unexpected word \"{}\"", escape(argv[optind], 64)));
    }
    return options;
}

std::string usage() {
    return fmt::format(
        "usage: egressd [-dfmnrv] [-c conf] [-C helper] [-D dbdir] [-G cgroup] [-P sockfile]\n"
        "               [-R name] [-s socket] [-S control-socket] [-t seconds]\n"
        "\n"
        "  -c conf      rules file ({}); conf.d/*.conf beside it are read too\n"
        "  -C helper    firewall helper ({})\n"
        "  -d           stay in the foreground and log to standard error\n"
        "  -D dbdir     database directory ({})\n"
        "  -f           forget everything: empty the database and the firewall's sets\n"
        "  -G cgroup    cgroup to attach the hooks of [egress] to (the cgroup2 root)\n"
        "  -m           monitor: judge and record, block nothing\n"
        "  -n           check the rules and exit\n"
        "  -P sockfile  file that names further report sockets, one a line\n"
        "  -r           give every block of the database to the helper again\n"
        "  -R name      standard rule (set) name (egress)\n"
        "  -s socket    report socket ({})\n"
        "  -S socket    control socket ({})\n"
        "  -t seconds   how often the firewall is compared with the database (60)\n"
        "  -v           log every report\n"
        "  -h, --help   this text\n"
        "  -V, --version\n",
        EGRESS_CONF, EGRESS_HELPER, EGRESS_DB_DIR, EGRESS_REPORT_SOCKET, EGRESS_CONTROL_SOCKET);
}

} // namespace egress

// pam_egress.so: reports the log-ins of any PAM service without rebuilding it.
//
// In the auth stack the administrator places it where only failures reach it, and it reports them;
// in the account or session stack it reports success. It always returns PAM_IGNORE: it observes and
// never decides. It links the library's objects, because set-uid programs and chroots load it, and
// there a search for another library at run time may fail.
#include <cerrno>
#include <cstdio>
#include <cstring>

#include <pwd.h>
#include <sys/auxv.h>
#include <syslog.h>

#include <security/pam_ext.h>
#include <security/pam_modules.h>

#include "lib/api.h"
#include "lib/pam/service_socket.h"
#include "lib/report.h"

namespace egress::client {
namespace {

struct Options {
    bool debug = false;
    const char* socket = nullptr; ///< null: the library's default
};

Options read_options(pam_handle_t* pamh, int argc, const char** argv) {
    constexpr char socket_is[] = "socket=";
    Options options;
    for (int i = 0; i < argc; ++i) {
        if (std::strcmp(argv[i], "debug") == 0) {
            options.debug = true;
        } else if (std::strncmp(argv[i], socket_is, sizeof socket_is - 1) == 0) {
            options.socket = argv[i] + sizeof socket_is - 1;
        } else {
            pam_syslog(pamh, LOG_ERR, "unknown argument \"%s\" (known: debug, socket=PATH)",
                       argv[i]);
        }
    }
    return options;
}

/// An item as text; "": the service has not set it. Never prompts the user.
const char* text_item(pam_handle_t* pamh, int item) {
    const void* value = nullptr;
    if (pam_get_item(pamh, item, &value) != PAM_SUCCESS || value == nullptr) {
        return "";
    }
    return static_cast<const char*>(value);
}

/// Escapes untrusted text for the log: keeps printable ASCII, writes the rest as \xNN, cuts to fit.
void escape(const char* text, char* out, std::size_t size) {
    constexpr std::size_t longest = 5; // \xNN and the terminator
    std::size_t used = 0;
    for (; *text != '\0' && used + longest <= size; ++text) {
        const auto byte = static_cast<unsigned char>(*text);
        if (byte >= 0x20 && byte < 0x7f && byte != '\\') {
            out[used++] = *text;
        } else {
            used += static_cast<std::size_t>(std::snprintf(out + used, longest, "\\x%02x", byte));
        }
    }
    out[used] = '\0';
}

/// True only if the user database confirms that there is no such account. If it fails, or the entry
/// is too long for the buffer, the account may exist.
bool is_unknown_user(const char* user) {
    passwd entry;
    passwd* found = nullptr;
    char buffer[4096];
    return ::getpwnam_r(user, &entry, buffer, sizeof buffer, &found) == 0 && found == nullptr;
}

/// Finds the service's socket, the client's address, or both. False: the client is unknown.
///
/// The report carries the address besides the socket because the client may hang up before egressd
/// reads the report, and a connection that was reset has no peer address.
bool find_remote(const char* rhost, Report& report, sockaddr_storage& address) {
    // The caller of a set-uid program chooses its descriptors: those prove nothing about a client.
    const bool chosen = getauxval(AT_SECURE) != 0;
    socklen_t length = parse_numeric(rhost, address);
    if (length > 0) {
        report.fd = find_socket_of(address);
        if (report.fd < 0 && !chosen) {
            report.fd = find_reset_socket(address);
        }
    } else {
        report.fd = chosen ? -1 : find_only_socket();
        if (report.fd < 0) {
            return false;
        }
    }
    // The socket also has the port.
    if (const socklen_t asked = peer_of(report.fd, address); asked > 0) {
        length = asked;
    }
    if (length > 0) {
        report.remote = reinterpret_cast<const sockaddr*>(&address);
        report.remote_length = length;
    }
    return true;
}

void log_debug(pam_handle_t* pamh, const Report& report, const char* rhost, int error) {
    char from[256];
    char what[512];
    escape(rhost, from, sizeof from);
    escape(report.message, what, sizeof what);
    if (error == 0) {
        pam_syslog(pamh, LOG_DEBUG, "reported action %d, fd %d, rhost \"%s\": %s", report.action,
                   report.fd, from, what);
    } else {
        pam_syslog(pamh, LOG_DEBUG, "not reported: action %d, fd %d, rhost \"%s\": %s: %s",
                   report.action, report.fd, from, what, std::strerror(error));
    }
}

void report_login(pam_handle_t* pamh, int action, const Options& options) {
    Quiet quiet;
    const char* rhost = text_item(pamh, PAM_RHOST);
    const char* user = text_item(pamh, PAM_USER);
    char message[wire::max_message + 1];
    std::snprintf(message, sizeof message, "%.64s: user %.*s", text_item(pamh, PAM_SERVICE),
                  static_cast<int>(wire::utf8_cut(user, 256)), user);
    Report report{action};
    report.message = message;
    sockaddr_storage address;
    const bool known = find_remote(rhost, report, address);
    const int error = known ? send_report(options.socket, report) : ENOTSOCK;
    if (options.debug) {
        log_debug(pamh, report, rhost, error);
    }
}

/// Reports success once, although a module in both stacks is called twice.
int report_success(pam_handle_t* pamh, int argc, const char** argv) {
    constexpr char mark[] = "egress-success";
    const void* seen = nullptr;
    const Options options = read_options(pamh, argc, argv);
    if (pam_get_data(pamh, mark, &seen) != PAM_SUCCESS) {
        report_login(pamh, EGRESS_AUTH_OK, options);
        (void)pam_set_data(pamh, mark, pamh, nullptr);
    }
    return PAM_IGNORE;
}

} // namespace
} // namespace egress::client

#define EGRESS_PAM_ENTRY extern "C" __attribute__((visibility("default"))) int

EGRESS_PAM_ENTRY pam_sm_authenticate(pam_handle_t* pamh, int, int argc, const char** argv) {
    const egress::client::Options options = egress::client::read_options(pamh, argc, argv);
    const char* user = egress::client::text_item(pamh, PAM_USER);
    const bool unknown = *user != '\0' && egress::client::is_unknown_user(user);
    egress::client::report_login(pamh, unknown ? EGRESS_BAD_USER : EGRESS_AUTH_FAIL, options);
    return PAM_IGNORE;
}

EGRESS_PAM_ENTRY pam_sm_setcred(pam_handle_t*, int, int, const char**) {
    return PAM_IGNORE;
}

EGRESS_PAM_ENTRY pam_sm_acct_mgmt(pam_handle_t* pamh, int, int argc, const char** argv) {
    return egress::client::report_success(pamh, argc, argv);
}

EGRESS_PAM_ENTRY pam_sm_open_session(pam_handle_t* pamh, int, int argc, const char** argv) {
    return egress::client::report_success(pamh, argc, argv);
}

EGRESS_PAM_ENTRY pam_sm_close_session(pam_handle_t*, int, int, const char**) {
    return PAM_IGNORE;
}

// A PAM application that fails to authenticate root; pam_test runs it, also as a set-uid program.
//   pam_probe CONFDIR [RHOST]
#include <security/pam_appl.h>

namespace {
int no_talk(int, const pam_message**, pam_response**, void*) {
    return PAM_CONV_ERR;
}
} // namespace

int main(int argc, char** argv) {
    const pam_conv conversation{no_talk, nullptr};
    pam_handle_t* pamh = nullptr;
    if (argc < 2 ||
        pam_start_confdir("test", "root", &conversation, argv[1], &pamh) != PAM_SUCCESS) {
        return 2;
    }
    if (argc > 2) {
        (void)pam_set_item(pamh, PAM_RHOST, argv[2]);
    }
    const int result = pam_authenticate(pamh, 0);
    pam_end(pamh, result);
    return result == PAM_AUTH_ERR ? 0 : 1;
}

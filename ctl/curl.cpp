#include "ctl/curl.h"

#include <dlfcn.h>

#include "ctl/out.h"

namespace egress::ctl {

namespace {

/// Of libcurl's OpenSSL variant in Debian 12 and 13. The number is that of the ABI.
constexpr const char* library = "libcurl.so.4";

std::string& trouble() {
    static std::string text;
    return text;
}

template <typename Function>
bool find(void* from, const char* name, Function& into) {
    into = reinterpret_cast<Function>(dlsym(from, name));
    if (into == nullptr) {
        trouble() = fmt::format("{} has no {}", library, name);
    }
    return into != nullptr;
}

bool load(Curl& curl) {
    void* const from = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (from == nullptr) {
        const char* const why = dlerror();
        trouble() = why != nullptr ? why : library;
        return false;
    }
    return find(from, "curl_global_init", curl.global_init) &&
           find(from, "curl_easy_init", curl.easy_init) &&
           find(from, "curl_easy_cleanup", curl.easy_cleanup) &&
           find(from, "curl_easy_setopt", curl.easy_setopt) &&
           find(from, "curl_easy_getinfo", curl.easy_getinfo) &&
           find(from, "curl_easy_perform", curl.easy_perform) &&
           find(from, "curl_easy_strerror", curl.easy_strerror) &&
           find(from, "curl_slist_append", curl.slist_append) &&
           find(from, "curl_slist_free_all", curl.slist_free_all) &&
           curl.global_init(CURL_GLOBAL_NOTHING) == CURLE_OK;
}

} // namespace

const Curl* load_curl() {
    static Curl curl;
    static const bool loaded = load(curl);
    return loaded ? &curl : nullptr;
}

Failure curl_failure() {
    return {Exit::unreachable,
            fmt::format("cannot load {}, by which it speaks to egressd: {}; install libcurl4",
                        library, printable(trouble()))};
}

} // namespace egress::ctl

// libcurl, loaded when the first request goes out.
//
// It brings 36 shared objects with it, whose start takes three times as long as all else that
// egressctl does: commands that talk to no daemon need not pay for it. It stays the client, because
// it is maintained and reads hostile answers well.
#pragma once

#define CURL_DISABLE_TYPECHECK // its macros call the functions by their names
#include <curl/curl.h>
#undef curl_easy_setopt
#undef curl_easy_getinfo

#include "ctl/context.h"

namespace egress::ctl {

/// The functions of libcurl that egressctl calls.
struct Curl {
    decltype(&curl_global_init) global_init = nullptr;
    decltype(&curl_easy_init) easy_init = nullptr;
    decltype(&curl_easy_cleanup) easy_cleanup = nullptr;
    decltype(&curl_easy_setopt) easy_setopt = nullptr;
    decltype(&curl_easy_getinfo) easy_getinfo = nullptr;
    decltype(&curl_easy_perform) easy_perform = nullptr;
    decltype(&curl_easy_strerror) easy_strerror = nullptr;
    decltype(&curl_slist_append) slist_append = nullptr;
    decltype(&curl_slist_free_all) slist_free_all = nullptr;
};

/// Loads it once; null: it cannot be loaded, and curl_failure() says why.
const Curl* load_curl();
Failure curl_failure();

} // namespace egress::ctl

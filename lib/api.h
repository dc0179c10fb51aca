// egress.h for our own sources.
//
// The public handle is `struct egress` and our namespace is `egress`; C++ forbids both in one
// scope. So our sources rename the tag to `egress_handle`. Symbol names do not contain the tag, so
// they stay the same. Our sources are compiled with hidden symbols; the ones declared here are
// exported.
#pragma once

#pragma GCC visibility push(default)
#define egress egress_handle
#include "lib/include/egress.h"
#undef egress
#pragma GCC visibility pop

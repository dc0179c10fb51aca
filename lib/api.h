// egress.h for our own sources.
//
// The public handle is `struct egress`, and our namespace is `egress`; C++ does not let the two
// share a scope. In here the tag reads `egress_handle`; names in the library's symbol table are
// not affected, for they do not contain it. Our sources hide their symbols; these are the ones that
// are not hidden.
#pragma once

#pragma GCC visibility push(default)
#define egress egress_handle
#include "lib/include/egress.h"
#undef egress
#pragma GCC visibility pop

// The types of a kernel or of a program (BTF), freed by their owner's end.
#pragma once

#include <memory>

#include <bpf/btf.h>

namespace egress::bpf {

struct FreeTypes {
    void operator()(btf* types) const { btf__free(types); }
};
using Types = std::unique_ptr<btf, FreeTypes>;

} // namespace egress::bpf

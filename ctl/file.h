// A stdio file with one owner, closed when the owner ends.
#pragma once

#include <cstdio>
#include <memory>

namespace egress::ctl {

struct CloseFile {
    void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

} // namespace egress::ctl

#include "ctl/rules_file.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ctl/file.h"
#include "ctl/out.h"
#include "lib/fd.h"

namespace egress::ctl {

namespace {

constexpr std::size_t largest = 64u << 20u; ///< bytes of rules; far more than in any real file

Outcome<std::string> read_stream(std::FILE* file, std::string_view name) {
    std::string text;
    char buffer[65536];
    while (const auto got = std::fread(buffer, 1, sizeof buffer, file)) {
        text.append(buffer, got);
        if (text.size() > largest) {
            return fail(Exit::unreachable,
                        fmt::format("{} is longer than {} bytes", printable(name), largest));
        }
    }
    if (std::ferror(file) != 0) {
        return fail(Exit::unreachable,
                    fmt::format("cannot read {}: {}", printable(name), std::strerror(errno)));
    }
    return text;
}

/// Resolves the path, so that a symbolic link stays one.
std::string target_of(const std::string& path) {
    const std::unique_ptr<char, decltype(&std::free)> real(realpath(path.c_str(), nullptr),
                                                           std::free);
    return real ? std::string(real.get()) : path;
}

std::string directory_of(const std::string& path) {
    const auto slash = path.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
}

Result<> write_all(int fd, std::string_view text, const std::string& path) {
    while (!text.empty()) {
        const auto put = write(fd, text.data(), text.size());
        if (put < 0 && errno != EINTR) {
            return egress::fail_errno("cannot write " + path);
        }
        text.remove_prefix(put > 0 ? static_cast<std::size_t>(put) : 0);
    }
    return fsync(fd) == 0 ? Result<>{} : egress::fail_errno("cannot write " + path);
}

void sync_directory(const std::string& path) {
    const Fd directory(open(directory_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (directory) {
        fsync(directory.get());
    }
}

} // namespace

Outcome<std::string> read_rules(const Context& context, const std::string& path) {
    if (path == "-") {
        return read_stream(context.in, "standard input");
    }
    const File file(std::fopen(path.c_str(), "re"));
    if (!file) {
        return fail(Exit::unreachable,
                    fmt::format("cannot read {}: {}", printable(path), std::strerror(errno)));
    }
    return read_stream(file.get(), path);
}

Result<Replacement> Replacement::prepare(const std::string& path, std::string_view text) {
    Replacement out;
    out.path_ = target_of(path);
    struct stat before {};
    out.had_ = stat(out.path_.c_str(), &before) == 0;
    const std::string fresh = fmt::format("{}.{}.new", out.path_, getpid());
    const Fd file(open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!file) {
        return egress::fail_errno("cannot write " + fresh);
    }
    out.fresh_ = fresh;
    if (auto written = write_all(file.get(), text, fresh); !written) {
        return std::unexpected(written.error());
    }
    const mode_t mode = out.had_ ? before.st_mode & 0777 : 0644;
    const bool owned = !out.had_ || fchown(file.get(), before.st_uid, before.st_gid) == 0;
    if (!owned || fchmod(file.get(), mode) != 0) {
        return egress::fail_errno("cannot give " + fresh + " the owner and mode of " + out.path_);
    }
    return out;
}

Replacement::Replacement(Replacement&& other) noexcept
    : path_(std::move(other.path_)), fresh_(std::exchange(other.fresh_, {})), had_(other.had_) {}

Replacement::~Replacement() {
    if (!fresh_.empty()) {
        unlink(fresh_.c_str());
    }
}

Result<> Replacement::put() {
    const std::string link_name = fresh_ + ".old";
    if (had_ && (link(path_.c_str(), link_name.c_str()) != 0 ||
                 rename(link_name.c_str(), old().c_str()) != 0)) {
        auto failed = egress::fail_errno("cannot keep the previous rules as " + old());
        unlink(link_name.c_str());
        return failed;
    }
    if (rename(fresh_.c_str(), path_.c_str()) != 0) {
        return egress::fail_errno("cannot replace " + path_);
    }
    fresh_.clear();
    sync_directory(path_);
    return {};
}

Result<> Replacement::undo() {
    const int code = had_ ? rename(old().c_str(), path_.c_str()) : unlink(path_.c_str());
    if (code != 0) {
        return egress::fail_errno("cannot restore the previous rules in " + path_);
    }
    sync_directory(path_);
    return {};
}

} // namespace egress::ctl

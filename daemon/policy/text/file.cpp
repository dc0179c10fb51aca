#include "daemon/policy/text/file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/policy/text/lexer.h"
#include "lib/fd.h"

namespace egress::policy {

namespace {

constexpr std::size_t max_files = 1000;

std::unexpected<FileProblem> problem(std::string what, std::string hint = {}) {
    return std::unexpected(FileProblem{std::move(what), std::move(hint)});
}

std::string cannot(std::string_view what) {
    return fmt::format("cannot {}: {}", what, std::strerror(errno));
}

std::expected<std::string, FileProblem> read_all(int fd) {
    std::string text;
    while (text.size() <= max_text) {
        char chunk[65536];
        const ssize_t got = read(fd, chunk, sizeof chunk);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return problem(cannot("read the rules file"));
        }
        if (got == 0) {
            break;
        }
        text.append(chunk, static_cast<std::size_t>(got));
    }
    return text; // the lexer refuses one that is too long
}

} // namespace

std::expected<std::string, FileProblem> read_rules_file(const std::string& path) {
    // O_NONBLOCK: opening a FIFO without a writer must not wait.
    const Fd fd(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (fd.get() < 0) {
        return problem(cannot("open the rules file"));
    }
    struct stat st {};
    if (fstat(fd.get(), &st) != 0) {
        return problem(cannot("examine the rules file"));
    }
    if (!S_ISREG(st.st_mode)) {
        return problem("the rules file is not a regular file");
    }
    if ((st.st_mode & S_IWOTH) != 0) {
        return problem("every user may write the rules file, and so decide who gets blocked",
                       "take the right away with chmod o-w");
    }
    return read_all(fd.get());
}

std::vector<std::string> list_directory(const std::string& directory, Diagnostics& out) {
    std::vector<std::string> paths;
    if (directory.empty()) {
        return paths;
    }
    const std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(directory.c_str()), closedir);
    if (!dir) {
        if (errno != ENOENT) {
            out.error({directory, 0, 0}, cannot("open the rules directory"));
        }
        return paths;
    }
    struct stat st {};
    if (fstat(dirfd(dir.get()), &st) == 0 && (st.st_mode & S_IWOTH) != 0) {
        out.error({directory, 0, 0},
                  "every user may write to the rules directory, and so decide who gets blocked",
                  "take the right away with chmod o-w");
        return paths;
    }
    while (const dirent* entry = readdir(dir.get())) {
        const std::string_view name = entry->d_name;
        if (name.ends_with(".conf") && name[0] != '.') {
            paths.push_back(fmt::format("{}/{}", directory, name));
        }
    }
    std::ranges::sort(paths);
    if (paths.size() > max_files) {
        out.error({directory, 0, 0},
                  fmt::format("{} rules files; {} are the most", paths.size(), max_files));
        paths.clear();
    }
    return paths;
}

} // namespace egress::policy

// What starting a process takes: fork and wait, or a new program and wait.
//
// usage: process_cost fork|exec NUMBER      prints the median and the quartiles in nanoseconds
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

double once(bool exec, char* self) {
    const auto begin = std::chrono::steady_clock::now();
    pid_t child = 0;
    if (exec) {
        char none[] = "nothing";
        char* const arguments[] = {self, none, nullptr};
        char* const environment[] = {nullptr};
        if (posix_spawn(&child, self, nullptr, nullptr, arguments, environment) != 0) {
            std::exit(1);
        }
    } else {
        child = fork();
        if (child == 0) {
            _exit(0);
        }
    }
    if (child < 0 || waitpid(child, nullptr, 0) != child) {
        std::exit(1);
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    return took.count();
}

} // namespace

int main(int argc, char** argv) {
    if (argc == 2 && std::strcmp(argv[1], "nothing") == 0) {
        return 0;
    }
    if (argc != 3) {
        std::fprintf(stderr, "usage: process_cost fork|exec NUMBER\n");
        return 2;
    }
    const bool exec = std::strcmp(argv[1], "exec") == 0;
    std::vector<double> took(static_cast<std::size_t>(std::max(std::atoi(argv[2]), 4)));
    for (auto& each : took) {
        each = once(exec, argv[0]);
    }
    std::sort(took.begin(), took.end());
    std::printf("%.0f %.0f %.0f\n", took[took.size() / 2], took[took.size() / 4],
                took[took.size() * 3 / 4]);
    return 0;
}

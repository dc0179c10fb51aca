// What a look-up costs: no allocation (asserted), time with thousands of lines (printed).
#include <chrono>
#include <cstdlib>
#include <new>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "test/policy/random_policy.h"

namespace {
thread_local std::size_t allocations = 0;
}

void* operator new(std::size_t size) {
    ++allocations;
    if (void* const memory = std::malloc(size == 0 ? 1 : size)) {
        return memory;
    }
    throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}

namespace egress::policy {

TEST_CASE("a look-up allocates nothing, however many the lines") {
    Random random(1);
    std::vector<Subject> subjects;
    for (int i = 0; i < 20000; ++i) {
        subjects.push_back(random_subject(random));
    }
    for (const std::size_t lines : {10, 100, 1000, 10000}) {
        const Matcher matcher(random_policy(random, lines, lines), "egress",
                              [](std::string_view) { return NameId{0}; });
        std::size_t matched = 0;
        const auto before = allocations;
        const auto start = std::chrono::steady_clock::now();
        for (const auto& subject : subjects) {
            EffectiveRule decision;
            matched += matcher.match(subject, decision);
        }
        const std::chrono::duration<double, std::nano> time =
            std::chrono::steady_clock::now() - start;
        CHECK(allocations == before);
        CHECK(matched > 0);
        fmt::print("{:6} + {:6} random lines: {:.0f} ns a report\n", lines, lines,
                   time.count() / static_cast<double>(subjects.size()));
    }
}

} // namespace egress::policy

// Any file as a list: the same whatever pieces it comes in, bounded errors, and only prefixes and
// names that can be written as a line of a list again.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "daemon/policy/egress/list.h"

using namespace egress;
using namespace egress::policy;

namespace {

void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "does not hold: %s\n", what);
        std::abort();
    }
}

struct Read {
    AddressList list{"fuzz", "fuzz", {}, {}};
    std::vector<Diagnostic> diagnostics;
};

Read read(std::string_view text, std::size_t piece) {
    Read out;
    Diagnostics diagnostics;
    ListText reader(out.list, diagnostics);
    while (!text.empty() && reader.feed(text.substr(0, piece))) {
        text.remove_prefix(std::min(piece, text.size()));
    }
    reader.finish();
    out.diagnostics = diagnostics.take();
    return out;
}

std::string line_of(const NamePatterns::Pattern& pattern) {
    std::string out = pattern.kind == NameKind::exact ? ""
                      : pattern.kind == NameKind::one ? "*."
                                                      : "**.";
    return out.append(pattern.name) + "\n";
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const auto whole = read(text, std::string_view::npos);
    const auto pieces = read(text, size == 0 ? 1 : 1 + data[0] % 64U);
    require(same_meaning(whole.list, pieces.list), "pieces make the same list");
    require(whole.diagnostics.size() == pieces.diagnostics.size(), "pieces make the same errors");
    require(whole.diagnostics.size() <= max_list_errors + 1, "errors are bounded");
    for (const auto& diagnostic : whole.diagnostics) {
        const auto message = diagnostic.message();
        require(message.size() < 1024, "a message is bounded");
        require(
            std::ranges::none_of(
                message, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }),
            "a message holds no control character");
    }
    std::string again;
    for (const auto& prefix : whole.list.prefixes) {
        require(Prefix::parse(prefix.text()) == prefix, "a prefix has no host bits");
        again += prefix.text() + "\n";
    }
    std::size_t names = 0;
    whole.list.names.each([&](const auto& pattern) {
        again += line_of(pattern);
        ++names;
    });
    require(names == whole.list.names.size(), "every name is counted");
    const auto written = read(again, std::string_view::npos);
    require(written.diagnostics.empty(), "what is written is right");
    require(same_meaning(written.list, whole.list), "what is written means the same");
    return 0;
}

// What every parser of a column works with.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/lexer.h"
#include "daemon/policy/text/names.h"

namespace egress::policy {

enum class Section : std::uint8_t { local, remote, trusted, settings, egress };

/// What every column parser works with.
struct Context {
    Diagnostics& out;
    LocalNames& names;
    Section section = Section::local;

    bool remote() const { return section == Section::remote; }
    /// Reports and gives nothing, so that a parser can `return context.error(...)`.
    std::nullopt_t error(const Cell& cell, std::string text, std::string hint = {}) const {
        out.error(cell.place(), std::move(text), std::move(hint));
        return std::nullopt;
    }
};

} // namespace egress::policy

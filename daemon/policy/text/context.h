// The context of every column parser.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "daemon/policy/text/diagnostics.h"
#include "daemon/policy/text/lexer.h"
#include "daemon/policy/text/names.h"

namespace egress::policy {

enum class Section : std::uint8_t { local, remote, trusted, settings, dns, egress };

/// The diagnostics, names and section that column parsers share.
struct Context {
    Diagnostics& out;
    LocalNames& names;
    Section section = Section::local;

    bool remote() const { return section == Section::remote; }
    /// Reports an error and returns nullopt, so that a parser can `return context.error(...)`.
    std::nullopt_t error(const Cell& cell, std::string text, std::string hint = {}) const {
        out.error(cell.place(), std::move(text), std::move(hint));
        return std::nullopt;
    }
};

} // namespace egress::policy

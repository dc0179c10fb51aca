#include "daemon/base/fields.h"

#include "daemon/base/log.h"
#include "daemon/base/protocol.h"
#include "daemon/base/suggest.h"

namespace egress {

using nlohmann::json;

const json* Fields::find(const char* key) const {
    known_.insert(key);
    const auto found = body_.find(key);
    return found == body_.end() ? nullptr : &*found;
}

std::optional<std::string> Fields::text(const char* key, Kind kind) {
    const auto* const found = find(key);
    return found == nullptr ? std::nullopt : checked(key, *found, kind);
}

std::vector<std::string> Fields::texts(const char* key, std::size_t most, Kind kind) {
    std::vector<std::string> out;
    const auto* const found = find(key);
    if (found == nullptr) {
        return out;
    }
    if (!found->is_array() || found->size() > most) {
        wrong(key, fmt::format("is not a list of at most {}", most));
        return out;
    }
    for (const auto& each : *found) {
        out.push_back(checked(key, each, kind).value_or(""));
    }
    return out;
}

std::optional<bool> Fields::flag(const char* key) {
    const auto* const found = find(key);
    if (found == nullptr) {
        return std::nullopt;
    }
    if (!found->is_boolean()) {
        wrong(key, "is neither true nor false");
        return std::nullopt;
    }
    return found->get<bool>();
}

std::optional<std::uint8_t> Fields::protocol(const char* key) {
    const auto* const found = find(key);
    if (found == nullptr) {
        return std::nullopt;
    }
    if (found->is_number_unsigned() && found->get<std::uint64_t>() <= 255) {
        return static_cast<std::uint8_t>(found->get<unsigned>());
    }
    const auto protocol =
        found->is_string() ? protocol_of(found->get_ref<const std::string&>()) : std::nullopt;
    if (!protocol) {
        wrong(key, "is not tcp, udp or a number up to 255");
    }
    return protocol;
}

void Fields::wrong(std::string_view key, std::string_view what) {
    if (error_.empty()) {
        error_ = fmt::format("\"{}\" {}", key, what);
    }
}

Result<> Fields::good() const {
    const auto what = error_.empty() ? unknown() : error_;
    return what.empty() ? Result<>() : fail(what);
}

/// A key that is ignored may be a mistyped one that matters: "for" in the place of "seconds".
std::string Fields::unknown() const {
    for (const auto& [key, value] : body_.items()) {
        if (!known_.contains(key)) {
            const std::vector<std::string_view> known(known_.begin(), known_.end());
            return fmt::format("\"{}\" is no key here; {}", escape(key, 64), hint(key, known));
        }
    }
    return {};
}

std::optional<std::string> Fields::checked(const char* key, const json& value, Kind kind) {
    if (!value.is_string()) {
        wrong(key, "is not a text");
        return std::nullopt;
    }
    const auto& text = value.get_ref<const std::string&>();
    if (kind == Kind::path && !text.starts_with('/')) {
        wrong(key, "is no absolute path");
        return std::nullopt;
    }
    const bool document = kind == Kind::document;
    if (text.size() > (document ? most_document : most_text)) {
        wrong(key, "is too long");
        return std::nullopt;
    }
    if (!document && text.find('\0') != std::string::npos) {
        wrong(key, "has a NUL character in it");
        return std::nullopt;
    }
    return text;
}

} // namespace egress

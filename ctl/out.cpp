#include "ctl/out.h"

#include <cerrno>
#include <ctime>

#include "lib/utf8.h"

namespace egress::ctl {

namespace {

template <typename Keep, typename Escape>
void walk(std::string_view text, const Keep& keep, const Escape& escape) {
    while (!text.empty()) {
        const auto [code, length] = utf8::first(text);
        const std::size_t taken = length == 0 ? 1 : length;
        if (length == 0 || utf8::is_harmful(code)) {
            escape(text.substr(0, taken), code);
        } else {
            keep(text.substr(0, taken));
        }
        text.remove_prefix(taken);
    }
}

std::string escaped(std::string_view text, std::string_view spared) {
    std::string result;
    result.reserve(text.size());
    const auto keep = [&](std::string_view part) { result += part; };
    walk(text, keep, [&](std::string_view part, char32_t code) {
        if (part.size() == 1 && spared.find(part[0]) != std::string_view::npos) {
            result += part;
        } else if (part.size() == 1) {
            result += fmt::format("\\x{:02x}", static_cast<unsigned char>(part[0]));
        } else {
            result += fmt::format("\\u{{{:x}}}", static_cast<std::uint32_t>(code));
        }
    });
    return result;
}

std::string formatted(const char* form, const std::tm& parts) {
    char buffer[64];
    return {buffer, std::strftime(buffer, sizeof buffer, form, &parts)};
}

} // namespace

std::string printable(std::string_view text) {
    return escaped(text, {});
}

std::string printable_lines(std::string_view text) {
    return escaped(text, "\n\t");
}

bool is_printable(std::string_view text) {
    bool clean = true;
    const auto keep = [](std::string_view) {};
    walk(text, keep, [&](std::string_view, char32_t) { clean = false; });
    return clean;
}

std::string to_text(const Json& value, int indent) {
    return value.dump(indent, ' ', true, Json::error_handler_t::replace);
}

std::optional<Json> parse_json(std::string_view text) {
    // Printing recurses once per level, so the depth is bounded here.
    constexpr int deepest = 32;
    bool too_deep = false;
    const auto watch = [&](int depth, Json::parse_event_t, Json&) {
        too_deep = too_deep || depth > deepest;
        return !too_deep;
    };
    auto value = Json::parse(text, watch, false);
    if (value.is_discarded() || too_deep) {
        return std::nullopt;
    }
    return value;
}

const Json* member(const Json& object, const char* key) {
    if (!object.is_object()) {
        return nullptr;
    }
    const auto found = object.find(key);
    return found == object.end() ? nullptr : &*found;
}

std::optional<std::int64_t> number_at(const Json& object, const char* key) {
    const auto* value = member(object, key);
    return value != nullptr && value->is_number_integer()
               ? std::optional(value->get<std::int64_t>())
               : std::nullopt;
}

std::string text_at(const Json& object, const char* key) {
    const auto* value = member(object, key);
    return value != nullptr && value->is_string() ? printable(value->get_ref<const std::string&>())
                                                  : std::string{};
}

bool true_at(const Json& object, const char* key) {
    const auto* value = member(object, key);
    return value != nullptr && value->is_boolean() && value->get<bool>();
}

std::string local_time(std::int64_t wall_seconds) {
    const auto seconds = static_cast<std::time_t>(wall_seconds);
    std::tm parts{};
    return localtime_r(&seconds, &parts) == nullptr ? "-" : formatted("%Y/%m/%d %H:%M:%S", parts);
}

Failure unreadable_database(const Error& error) {
    auto text = printable(error.text);
    if (error.code == EACCES || error.code == EPERM) {
        text += "; you must be root to read the database";
    } else if (error.code == ENOENT) {
        text += "; no egressd has run with it (-D names another directory)";
    }
    return {Exit::unreachable, text};
}

Exit complain(const Context& context, const Failure& failure) {
    print(context.err, "egressctl: {}\n", failure.text);
    return failure.status;
}

} // namespace egress::ctl

// metrics: the daemon's counters, in Prometheus' form or as JSON.
#include <algorithm>
#include <charconv>

#include "ctl/commands/commands.h"
#include "ctl/http.h"
#include "ctl/out.h"

namespace egress::ctl {

namespace {

/// The value of one sample: a number, or its text if JSON has no such number (NaN, +Inf).
Json sample_value(std::string_view text) {
    std::int64_t whole = 0;
    double real = 0;
    const auto* const last = text.data() + text.size();
    if (const auto [end, error] = std::from_chars(text.data(), last, whole);
        error == std::errc{} && end == last) {
        return whole;
    }
    const auto [end, error] = std::from_chars(text.data(), last, real);
    return error == std::errc{} && end == last && real - real == 0 ? Json(real)
                                                                   : Json(std::string(text));
}

/// `name="value",...` after the opening brace; nullopt: not of this form.
std::optional<Json> sample_labels(std::string_view& rest) {
    Json labels = Json::object();
    while (!rest.empty() && rest[0] != '}') {
        const auto equals = rest.find("=\"");
        if (equals == std::string_view::npos) {
            return std::nullopt;
        }
        const std::string key(rest.substr(0, equals));
        rest.remove_prefix(equals + 2);
        std::string value;
        while (!rest.empty() && rest[0] != '"') {
            const bool escape = rest[0] == '\\' && rest.size() > 1;
            value += escape ? (rest[1] == 'n' ? '\n' : rest[1]) : rest[0];
            rest.remove_prefix(escape ? 2 : 1);
        }
        rest.remove_prefix(std::min<std::size_t>(rest.size(), 1));
        rest.remove_prefix(rest.starts_with(',') ? 1 : 0);
        labels[key] = value;
    }
    if (rest.empty()) {
        return std::nullopt;
    }
    rest.remove_prefix(1);
    return labels;
}

/// {"name","labels","value"} of a line; nullopt: a comment, or no sample.
std::optional<Json> sample(std::string_view line) {
    if (line.empty() || line[0] == '#') {
        return std::nullopt;
    }
    const auto end = line.find_first_of("{ ");
    if (end == std::string_view::npos) {
        return std::nullopt;
    }
    Json json;
    json["name"] = std::string(line.substr(0, end));
    auto rest = line.substr(end);
    if (rest[0] == '{') {
        rest.remove_prefix(1);
        auto labels = sample_labels(rest);
        if (!labels) {
            return std::nullopt;
        }
        json["labels"] = std::move(*labels);
    }
    const auto first = rest.find_first_not_of(' ');
    if (first == std::string_view::npos) {
        return std::nullopt;
    }
    rest.remove_prefix(first);
    json["value"] = sample_value(rest.substr(0, rest.find(' ')));
    return json;
}

Json samples(std::string_view text) {
    Json list = Json::array();
    while (!text.empty()) {
        const auto end = std::min(text.find('\n'), text.size());
        if (auto one = sample(text.substr(0, end))) {
            list.push_back(std::move(*one));
        }
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return list;
}

} // namespace

Exit run_metrics(const Context& context, const Arguments&) {
    const auto reply = exchange(context, {"GET", "/metrics"});
    if (!reply) {
        return complain(context, reply.error());
    }
    if (reply->status != 200) {
        return complain(context, refusal(*reply));
    }
    print(context.out, "{}",
          context.json ? to_text(samples(reply->body)) + "\n" : printable_lines(reply->body));
    return Exit::ok;
}

} // namespace egress::ctl

#include "daemon/egress/asked_names.h"

#include <algorithm>

#include <fmt/format.h>

namespace egress {

namespace {

constexpr std::size_t most_bytes = 255; // of a name in a message
constexpr std::uint8_t most_label = 63;

void append(std::string& out, char c) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    const bool plain = (lower >= 'a' && lower <= 'z') || (lower >= '0' && lower <= '9') ||
                       lower == '-' || lower == '_';
    if (plain) {
        out += lower;
    } else if (lower > ' ' && lower < 0x7f) {
        out += {'\\', lower};
    } else {
        out += fmt::format("\\{:03}", static_cast<unsigned char>(lower));
    }
}

} // namespace

std::optional<std::string> name_text(std::span<const std::uint8_t> labels) {
    std::string out;
    std::size_t at = 0;
    while (at < std::min(labels.size(), most_bytes)) {
        const std::size_t length = labels[at];
        if (length == 0) {
            return out.empty() ? std::nullopt : std::optional(std::move(out));
        }
        if (length > most_label || at + 1 + length >= labels.size()) {
            return std::nullopt;
        }
        out += out.empty() ? "" : ".";
        for (const auto byte : labels.subspan(at + 1, length)) {
            append(out, static_cast<char>(byte));
        }
        at += 1 + length;
    }
    return std::nullopt;
}

std::optional<AskedNames::Taken> AskedNames::take(const egress_told& told) {
    auto text = name_text(told.name);
    if (!text) {
        return std::nullopt;
    }
    const auto name = std::make_shared<const std::string>(std::move(*text));
    std::uint64_t until = 0;
    const auto keys = std::min<std::uint32_t>(told.keys_used, EGRESS_TOLD_KEYS);
    const auto addresses = std::min<std::uint32_t>(told.addresses_used, EGRESS_TOLD_ADDRESSES);
    const std::lock_guard lock(mutex_);
    for (const auto& granted : std::span(told.addresses).first(addresses)) {
        const auto address = Address::from_bytes(granted.address);
        until = std::max<std::uint64_t>(until, granted.until);
        for (std::uint32_t i = 0; address && i < keys; ++i) {
            if ((granted.keys >> i & 1) != 0) {
                put({*address, told.keys[i]}, name, granted.until);
            }
        }
    }
    return Taken{name, until};
}

void AskedNames::put(const Key& key, const std::shared_ptr<const std::string>& name,
                     std::uint64_t until) {
    if (const auto found = grants_.find(key); found != grants_.end()) {
        auto& value = found->second;
        ends_.erase({value.until, key});
        value = {name, std::max(value.until, until)};
        ends_.emplace(value.until, key);
        return;
    }
    if (grants_.size() >= names_max) {
        grants_.erase(ends_.begin()->second);
        ends_.erase(ends_.begin());
    }
    grants_.emplace(key, Value{name, until});
    ends_.emplace(until, key);
}

std::shared_ptr<const std::string> AskedNames::find(const Address& address,
                                                    std::uint64_t key) const {
    const std::lock_guard lock(mutex_);
    const auto found = grants_.find({address, key});
    return found != grants_.end() ? found->second.name : nullptr;
}

std::size_t AskedNames::size() const {
    const std::lock_guard lock(mutex_);
    return grants_.size();
}

std::vector<AskedNames::Asked> AskedNames::of_name(std::string_view name) const {
    std::vector<Asked> out;
    const std::lock_guard lock(mutex_);
    for (const auto& [key, value] : grants_) {
        if (*value.name == name) {
            out.push_back({key.first, key.second, value.name, value.until});
        }
    }
    return out;
}

void AskedNames::forget(std::uint64_t now) {
    const std::lock_guard lock(mutex_);
    while (!ends_.empty() && ends_.begin()->first + kept_ns < now) {
        grants_.erase(ends_.begin()->second);
        ends_.erase(ends_.begin());
    }
}

} // namespace egress

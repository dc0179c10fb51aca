// Fields of a JSON object from outside: each is read as one kind of value, and the first that is
// wrong is remembered.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "daemon/base/result.h"

namespace egress {

class Fields {
  public:
    static constexpr std::size_t most_text = 4096;          ///< bytes of a text
    static constexpr std::size_t most_document = 16u << 20; ///< bytes of a whole file

    enum class Kind : std::uint8_t { text, path, document };

    /// `body` must outlive this object.
    explicit Fields(const nlohmann::json& body) : body_(body) {}
    Fields(nlohmann::json&&) = delete;

    /// nullopt: absent, or wrong.
    template <typename T>
    std::optional<T> number(const char* key, std::uint64_t most, std::uint64_t least = 0) {
        const auto* const found = find(key);
        if (found == nullptr) {
            return std::nullopt;
        }
        if (!found->is_number_unsigned() || found->get<std::uint64_t>() < least ||
            found->get<std::uint64_t>() > most) {
            wrong(key, least == 0 ? fmt::format("is not a number up to {}", most)
                                  : fmt::format("is not a number from {} to {}", least, most));
            return std::nullopt;
        }
        return static_cast<T>(found->get<std::uint64_t>());
    }
    std::optional<std::string> text(const char* key, Kind kind = Kind::text);
    std::vector<std::string> texts(const char* key, std::size_t most, Kind kind = Kind::text);
    std::vector<std::string> paths(const char* key, std::size_t most) {
        return texts(key, most, Kind::path);
    }
    std::optional<bool> flag(const char* key);
    /// A protocol by name or number.
    std::optional<std::uint8_t> protocol(const char* key);

    bool has(const char* key) const { return find(key) != nullptr; }
    /// Stores the error of a field, unless there is one already.
    void wrong(std::string_view key, std::string_view what);
    /// The first error; or an error for a key of the object that no call has asked for.
    Result<> good() const;

  private:
    const nlohmann::json* find(const char* key) const;
    std::string unknown() const;
    std::optional<std::string> checked(const char* key, const nlohmann::json& value, Kind kind);

    const nlohmann::json& body_;
    mutable std::set<std::string, std::less<>> known_; ///< keys that were asked for
    std::string error_;
};

} // namespace egress

// Users or groups of this system by name and number. Reads local files only, never a network
// service.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace egress {

class Ids {
  public:
    Ids() = default;
    /// Reads a file of "name:password:number:..." lines, passwd(5) or group(5). A file that cannot
    /// be read gives no names. The first of several lines with one name counts.
    explicit Ids(const std::string& file);

    std::optional<std::uint32_t> number(std::string_view name) const;
    bool has(std::uint32_t number) const { return names_.contains(number); }
    /// The name in the first line with the number; null: none.
    const std::string* name(std::uint32_t number) const;
    /// All names with the number.
    std::set<std::string> names(std::uint32_t number) const;
    const std::map<std::string, std::uint32_t, std::less<>>& all() const { return numbers_; }

  private:
    std::map<std::string, std::uint32_t, std::less<>> numbers_;
    std::map<std::uint32_t, std::string> names_;
};

} // namespace egress

// Users or groups of this system by name and by number, from its own files; nothing asks a network.
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
    /// be read has no names. Of lines with one name the first counts.
    explicit Ids(const std::string& file);

    std::optional<std::uint32_t> number(std::string_view name) const;
    bool has(std::uint32_t number) const { return names_.contains(number); }
    /// The first line's name; null: no line has the number.
    const std::string* name(std::uint32_t number) const;
    /// Every name of the number.
    std::set<std::string> names(std::uint32_t number) const;
    const std::map<std::string, std::uint32_t, std::less<>>& all() const { return numbers_; }

  private:
    std::map<std::string, std::uint32_t, std::less<>> numbers_;
    std::map<std::uint32_t, std::string> names_;
};

} // namespace egress

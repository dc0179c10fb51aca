// Small numbers for texts that recur in rows (set names, reasons).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace egress {

/// Append-only and bounded: once it is full, every new text gets number 0.
class Intern {
  public:
    explicit Intern(std::string_view zero) { number(zero); }

    std::uint16_t number(std::string_view text);
    const std::string& text(std::uint16_t number) const { return *texts_.at(number); }
    std::size_t size() const { return texts_.size(); }

  private:
    std::map<std::string, std::uint16_t, std::less<>> numbers_;
    std::vector<const std::string*> texts_; // keys of the map, whose addresses are stable
};

} // namespace egress

// The names of a list, packed: a million of them take little more than their text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace egress::policy {

enum class NameKind : std::uint8_t {
    exact, ///< the name itself
    one,   ///< "*.": one label before it
    deep,  ///< "**.": one label or more before it
};

class NamePatterns {
  public:
    struct Pattern {
        NameKind kind;
        std::string_view name; ///< lower case, without the final dot; valid as long as the object
        friend bool operator==(const Pattern&, const Pattern&) = default;
    };

    /// `name` has at most 255 bytes.
    void add(const Pattern& pattern);
    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    std::size_t bytes() const; ///< that they take

    /// Calls what(pattern) for each, in the order of the text.
    template <typename What>
    void each(What&& what) const {
        for (const auto& piece : pieces_) {
            for (std::size_t at = 0; at < piece.size();) {
                const auto length = static_cast<std::uint8_t>(piece[at + 1]);
                what(Pattern{static_cast<NameKind>(piece[at]),
                             std::string_view(piece).substr(at + 2, length)});
                at += std::size_t{2} + length;
            }
        }
    }
    friend bool operator==(const NamePatterns&, const NamePatterns&) = default;

  private:
    /// Of each pattern the kind, the length of its name, and the name. In pieces, as growing one
    /// text would copy it and hold twice the memory meanwhile.
    std::vector<std::string> pieces_;
    std::size_t size_ = 0;
};

} // namespace egress::policy

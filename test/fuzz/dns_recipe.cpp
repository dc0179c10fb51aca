#include "dns_recipe.h"

#include <array>
#include <map>
#include <string>
#include <string_view>

namespace egress {

namespace {

using namespace std::string_view_literals;

/// As lists of labels: some are others' ends, some differ only in what must not matter, or must.
using Name = std::vector<std::string>;
const std::array<Name, 16> pool = {{
    {"a"},
    {"b"},
    {"a", "b"},
    {"b", "a"},
    {"c", "a", "b"},
    {"d", "c", "a", "b"},
    {"files", "example", "org"},
    {"www", "files", "example", "org"},
    {"file", "sexample", "org"},
    {"a.b"},
    {std::string("a\0", 2), "b"},
    {"@[`{", "b"},
    {"\xc1\xda", "b"},
    {std::string(63, 'x'), "b"},
    {std::string(63, 'x'), std::string(63, 'y'), std::string(63, 'z'), std::string(58, 'w'), "b"},
    {},
}};

constexpr std::array<unsigned, 8> types = {1, 28, 5, 1, 5, 28, 65, 15};

class Cook {
  public:
    explicit Cook(std::span<const std::uint8_t> recipe) : left_(recipe) {}

    Message cook() {
        const unsigned answers = next() % 40;
        const unsigned odd = next();
        two(4711);
        two(odd == 1 ? 0x8183 : 0x8180);
        two(odd == 2 ? 2 : 1);
        two(answers);
        two(0);
        two(0);
        name(next());
        constexpr std::array<unsigned, 4> asked = {1, 28, 255, 65};
        two(asked[next() % asked.size()]);
        two(odd == 3 ? 3 : 1);
        for (unsigned i = 0; i < answers; ++i) {
            record();
        }
        if (odd == 4 && !out_.empty()) {
            out_[(next() << 8 | next()) % out_.size()] = static_cast<std::uint8_t>(next());
        }
        if (odd == 5) {
            out_.resize((next() << 8 | next()) % (out_.size() + 1));
        }
        return out_;
    }

  private:
    unsigned next() {
        if (left_.empty()) {
            return 0;
        }
        const unsigned out = left_.front();
        left_ = left_.subspan(1);
        return out;
    }
    void one(unsigned value) { out_.push_back(static_cast<std::uint8_t>(value)); }
    void two(unsigned value) {
        one(value >> 8);
        one(value & 0xff);
    }

    /// Which name, and in which form.
    void name(unsigned which) {
        const unsigned form = next();
        const Name& labels = pool[which % pool.size()];
        for (std::size_t i = 0; i < labels.size(); ++i) {
            const Name rest(labels.begin() + static_cast<std::ptrdiff_t>(i), labels.end());
            const auto known = places_.find(rest);
            if (known != places_.end() && (form >> (i % 4) & 1) == 0) {
                two(0xc000U | (form == 0xff ? static_cast<unsigned>(out_.size()) : known->second));
                return;
            }
            if (out_.size() < 0x4000) {
                places_[rest] = static_cast<unsigned>(out_.size());
            }
            one(static_cast<unsigned>(labels[i].size()));
            for (const char letter : labels[i]) {
                const bool turn = (form & 0x40) != 0 && letter >= 'a' && letter <= 'z';
                one(static_cast<std::uint8_t>(turn ? letter - 0x20 : letter));
            }
        }
        one(0);
    }

    void record() {
        name(next());
        const unsigned shape = next();
        const unsigned type = types[shape % types.size()];
        two(type);
        two(shape >> 3 == 31 ? 3 : 1);
        two(shape >> 3 == 30 ? 0x8000 : 0);
        two(next());
        const std::size_t length = out_.size();
        two(0);
        if (type == 5) {
            name(next());
        } else {
            const unsigned size = type == 1 ? 4 : type == 28 ? 16 : next() % 32;
            for (unsigned i = 0; i < size; ++i) {
                one(i < 2 ? next() : i);
            }
        }
        const std::size_t size = out_.size() - length - 2 + (shape >> 3 == 29 ? 1 : 0);
        out_[length] = static_cast<std::uint8_t>(size >> 8);
        out_[length + 1] = static_cast<std::uint8_t>(size);
    }

    std::span<const std::uint8_t> left_;
    Message out_;
    std::map<Name, unsigned> places_; ///< where it begins
};

} // namespace

Message cook(std::span<const std::uint8_t> recipe) {
    return Cook(recipe).cook();
}

} // namespace egress

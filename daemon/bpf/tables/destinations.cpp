#include "daemon/bpf/tables/destinations.h"

#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "daemon/bpf/tables/runs.h"
#include "daemon/bpf/unix_name.h"

namespace egress::bpf {

namespace {

using policy::Destination;

/// An address as a number with the bits of its family, for arithmetic.
struct Bits4 {
    using Key = std::uint32_t;
    static constexpr int width = 32;
    static Key key(const Prefix& prefix) {
        const auto bytes = prefix.base.bytes();
        return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
               std::uint32_t{bytes[2]} << 8 | bytes[3];
    }
    static bool same_start(Key a, Key b, int length) {
        return length == 0 || (a ^ b) >> (width - length) == 0;
    }
    static std::uint32_t first16(Key key) { return key >> 16; }
};

struct Bits6 {
    using Key = std::array<std::uint8_t, 16>;
    static constexpr int width = 128;
    static Key key(const Prefix& prefix) { return prefix.base.raw(); }
    static bool same_start(const Key& a, const Key& b, int length) {
        const auto bytes = static_cast<std::size_t>(length / 8);
        if (!std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(bytes), b.begin())) {
            return false;
        }
        const int rest = length % 8;
        return rest == 0 || (a[bytes] ^ b[bytes]) >> (8 - rest) == 0;
    }
    static std::uint32_t first16(const Key& key) { return std::uint32_t{key[0]} << 8 | key[1]; }
};

/// How one prefix changes the set of rules around it.
struct Mark {
    egress_vector plus{};
    egress_vector minus{};
};
using MarkId = std::uint32_t;

template <typename Bits>
struct Item {
    typename Bits::Key key;
    std::uint8_t length;
    MarkId mark;
    friend bool operator<(const Item& a, const Item& b) {
        return std::tie(a.key, a.length, a.mark) < std::tie(b.key, b.length, b.mark);
    }
    bool same_prefix(const Item& other) const { return key == other.key && length == other.length; }
};

struct ClassPrefix {
    const char* text;
    bool inside; ///< false: cut out of the ones around it
};

// Sources: the IANA special-purpose address registries (RFC 6890 and its successors).
constexpr ClassPrefix local_prefixes[] = {
    {"127.0.0.0/8", true}, {"0.0.0.0", true}, {"::1", true}, {"::", true}};
constexpr ClassPrefix private_prefixes[] = {{"10.0.0.0/8", true},     {"172.16.0.0/12", true},
                                            {"192.168.0.0/16", true}, {"100.64.0.0/10", true},
                                            {"169.254.0.0/16", true}, {"fc00::/7", true},
                                            {"fe80::/10", true}};
/// Without those of the other classes.
constexpr ClassPrefix internet_prefixes[] = {{"0.0.0.0/0", true},     {"0.0.0.0/8", false},
                                             {"224.0.0.0/4", false},  {"255.255.255.255", false},
                                             {"2000::/3", true},      {"64:ff9b::/96", true},
                                             {"64:ff9b:1::/48", true}};
constexpr ClassPrefix multicast_prefixes[] = {{"224.0.0.0/4", true}, {"ff00::/8", true}};
constexpr ClassPrefix broadcast_prefixes[] = {{"255.255.255.255", true}};

std::span<const ClassPrefix> prefixes_of(Destination::Kind kind) {
    switch (kind) {
    case Destination::Kind::local:
        return local_prefixes;
    case Destination::Kind::private_:
        return private_prefixes;
    case Destination::Kind::internet:
        return internet_prefixes;
    case Destination::Kind::multicast:
        return multicast_prefixes;
    case Destination::Kind::broadcast:
        return broadcast_prefixes;
    default:
        return {};
    }
}

/// All prefixes of all rules, each with its mark.
class Items {
  public:
    std::vector<Item<Bits4>> v4;
    std::vector<Item<Bits6>> v6;
    std::vector<Mark> marks;

    void add(const policy::Policy& policy, const World& world) {
        std::map<std::tuple<std::string, int>, egress_vector> lists; // by list and family
        for (std::size_t rule = 0; rule < policy.egress.size(); ++rule) {
            const Destination& destination = policy.egress[rule].destination;
            const int family = policy.egress[rule].protocol.family;
            if (destination.kind == Destination::Kind::list) {
                set(lists[{destination.text, family}], rule);
                continue;
            }
            if (destination.kind == Destination::Kind::socket) {
                add_socket(destination.text, world, rule);
                continue;
            }
            add_rule(destination, family, rule);
        }
        for (const auto& [which, rules] : lists) {
            for (const auto& list : policy.lists) {
                if (list->name == std::get<0>(which)) {
                    add_list(*list, std::get<1>(which), rules);
                }
            }
        }
    }

  private:
    MarkId mark(const egress_vector& rules, bool inside) {
        marks.push_back(inside ? Mark{rules, {}} : Mark{{}, rules});
        return static_cast<MarkId>(marks.size() - 1);
    }

    void add(const Prefix& prefix, int family, MarkId id) {
        if (family != AF_UNSPEC && family != prefix.base.family()) {
            return;
        }
        if (prefix.base.is_v4()) {
            v4.push_back({Bits4::key(prefix), prefix.length, id});
        } else {
            v6.push_back({Bits6::key(prefix), prefix.length, id});
        }
    }

    void add_rule(const Destination& destination, int family, std::size_t rule) {
        egress_vector self{};
        set(self, rule);
        const MarkId inside = mark(self, true);
        if (destination.kind == Destination::Kind::any) {
            add(*Prefix::parse("0.0.0.0/0"), family, inside);
            add(*Prefix::parse("::/0"), family, inside);
            return;
        }
        if (destination.kind == Destination::Kind::prefix) {
            add(destination.prefix, family, inside);
            return;
        }
        const auto prefixes = prefixes_of(destination.kind); // names: none
        const MarkId outside = prefixes.empty() ? inside : mark(self, false);
        for (const auto& each : prefixes) {
            add(*Prefix::parse(each.text), family, each.inside ? inside : outside);
        }
        if (destination.kind == Destination::Kind::internet && family != AF_INET6) {
            // Its IPv6 prefixes contain none of theirs.
            for (const auto other : {Destination::Kind::private_, Destination::Kind::local}) {
                for (const auto& each : prefixes_of(other)) {
                    add(*Prefix::parse(each.text), AF_INET, outside);
                }
            }
        }
    }

    void add_socket(const std::string& name, const World& world, std::size_t rule) {
        egress_vector self{};
        set(self, rule);
        Bits6::Key address{};
        egress_put_unix(address.data(), 0, 1);
        std::uint8_t length = EGRESS_UNIX_PREFIX_BITS;
        if (name != "*") {
            const auto read = unix_name(name);
            const std::array<__u64, 2> key = {world.names_key[0], world.names_key[1]};
            egress_put_unix(address.data(), egress_unix_hash(key.data(), &read), 1);
            length = Bits6::width;
        }
        v6.push_back({address, length, mark(self, true)});
    }

    void add_list(const policy::AddressList& list, int family, const egress_vector& rules) {
        const MarkId id = mark(rules, true);
        v4.reserve(v4.size() + list.prefixes.size());
        for (const auto& prefix : list.prefixes) {
            add(prefix, family, id);
        }
    }
};

/// Walks the prefixes from the widest inwards and gives each its vector.
template <typename Bits>
class Walk {
  public:
    using Prefix = Item<Bits>;

    Walk(const std::vector<Mark>& marks, VectorPool& pool) : marks_(marks), pool_(pool) {}

    /// Calls emit(prefix, vector) for each prefix whose vector differs from that of the prefix
    /// around it, outer ones first. Sorts `items`.
    template <typename Emit>
    void run(std::vector<Prefix>& items, Emit&& emit) {
        std::sort(items.begin(), items.end());
        for (std::size_t at = 0; at < items.size();) {
            const Prefix& prefix = items[at];
            while (!around_.empty() && !contains(around_.back(), prefix)) {
                around_.pop_back();
            }
            const Index before = around_.empty() ? EGRESS_EMPTY : around_.back().vector;
            Index vector = before;
            for (; at < items.size() && items[at].same_prefix(prefix); ++at) {
                vector = apply(vector, items[at].mark);
            }
            if (vector != before) {
                around_.push_back({prefix.key, prefix.length, vector});
                emit(prefix, vector);
            }
        }
    }

  private:
    struct Around {
        typename Bits::Key key;
        std::uint8_t length;
        Index vector;
    };

    static bool contains(const Around& outer, const Prefix& inner) {
        return outer.length <= inner.length && Bits::same_start(outer.key, inner.key, outer.length);
    }

    Index apply(Index vector, MarkId id) {
        const auto [entry, added] = applied_.emplace(std::uint64_t{vector} << 32 | id, 0);
        if (added) {
            const Mark& mark = marks_[id];
            entry->second = pool_.add(combine(pool_[vector], mark.plus, mark.minus));
        }
        return entry->second;
    }

    const std::vector<Mark>& marks_;
    VectorPool& pool_;
    std::vector<Around> around_;
    std::unordered_map<std::uint64_t, Index> applied_;
};

/// Turns the prefixes below one entry (16 bits), outer ones first, into its runs.
class Fill4 {
  public:
    explicit Fill4(Tables& out) : out_(out) {}

    void operator()(const Item<Bits4>& prefix, Index vector) {
        ++out_.prefixes;
        const std::uint32_t at = Bits4::first16(prefix.key);
        if (prefix.length <= 16) {
            flush();
            std::fill_n(out_.base->v4_top + at, std::size_t{1} << (16 - prefix.length), vector);
            return;
        }
        if (starts_.empty() || at != top_) {
            flush();
            top_ = at;
            begin(0, 0xffff, static_cast<Index>(out_.base->v4_top[at]));
        }
        const std::uint32_t low = prefix.key & 0xffff;
        while (around_.back().last < low) {
            end();
        }
        begin(low, low + (1U << (32 - prefix.length)) - 1, vector);
    }

    /// Writes the rest; fails if there are more vectors than a run can name.
    Result<> finish() {
        flush();
        if (greatest_ > EGRESS_RUNS_INDEX) {
            return fail(fmt::format("the IPv4 addresses of [egress] overlap in more than {} ways: "
                                    "join lists that lines have in common",
                                    EGRESS_RUNS_INDEX));
        }
        return {};
    }

  private:
    struct Around {
        std::uint32_t last; ///< address
        Index vector;
    };

    void begin(std::uint32_t first, std::uint32_t last, Index vector) {
        around_.push_back({last, vector});
        greatest_ = std::max(greatest_, vector);
        put(first, vector);
    }

    /// After the innermost prefix, the vector of the one around it applies again.
    void end() {
        const std::uint32_t next = around_.back().last + 1;
        around_.pop_back();
        if (!around_.empty() && next <= around_.back().last) {
            put(next, around_.back().vector);
        }
    }

    void put(std::uint32_t first, Index vector) {
        if (!starts_.empty() && starts_.back().first == first) {
            starts_.pop_back(); // a prefix inside it or next to it begins at the same address
        }
        if (starts_.empty() || starts_.back().second != vector) {
            starts_.emplace_back(first, vector);
        }
    }

    void flush() {
        if (starts_.empty()) {
            return;
        }
        while (!around_.empty()) {
            end();
        }
        const std::size_t from = out_.runs.size();
        RunPack pack(out_.runs);
        for (std::size_t i = 0; i < starts_.size(); ++i) {
            const auto& [first, vector] = starts_[i];
            const bool single = i > 0 && i + 1 < starts_.size() &&
                                starts_[i + 1].first == first + 1 &&
                                starts_[i + 1].second == starts_[i - 1].second;
            if (single) {
                pack.add_single(first, vector, starts_[i - 1].second);
                ++i; // the vector after it needs no run of its own
            } else {
                pack.add(first, vector);
            }
        }
        pack.finish();
        const std::size_t number = out_.runs.size() - from;
        const std::uint64_t middle = out_.runs[from + number / 2].first[0];
        out_.base->v4_top[top_] = EGRESS_RUNS | middle << 47 | (number - 1) << 32 | from;
        starts_.clear();
    }

    Tables& out_;
    std::uint32_t top_ = 0;                               ///< the current entry
    std::vector<Around> around_;                          ///< its prefixes that have not ended
    std::vector<std::pair<std::uint32_t, Index>> starts_; ///< its runs
    Index greatest_ = 0;
};

class Fill6 {
  public:
    explicit Fill6(Tables& out) : out_(out) {}

    void operator()(const Item<Bits6>& prefix, Index vector) {
        ++out_.prefixes;
        std::uint32_t* const top = out_.base->v6_top;
        const std::uint32_t at = Bits6::first16(prefix.key);
        if (prefix.length <= 16) {
            std::fill_n(top + at, std::size_t{1} << (16 - prefix.length), vector);
            return;
        }
        top[at] |= EGRESS_FINER;
        if (prefix.length == Bits6::width) {
            out_.hosts6.emplace_back(Host6Key{prefix.key}, vector);
        } else {
            out_.prefixes6.emplace_back(Prefix6Key{prefix.key, prefix.length}, vector);
        }
    }

  private:
    Tables& out_;
};

} // namespace

egress_unix_name unix_name(std::string_view name) {
    egress_unix_name out{};
    out.abstract = name.starts_with('@') ? 1 : 0;
    out.length = static_cast<std::uint32_t>(name.size());
    name.copy(out.text, sizeof out.text);
    if (out.abstract != 0) {
        out.text[0] = '\0';
    }
    return out;
}

Result<> compile_destinations(const policy::Policy& policy, const World& world, VectorPool& pool,
                              Tables& out) {
    std::fill(std::begin(out.base->v4_top), std::end(out.base->v4_top), EGRESS_EMPTY);
    std::fill(std::begin(out.base->v6_top), std::end(out.base->v6_top), EGRESS_EMPTY);
    Items items;
    items.add(policy, world);
    Fill4 fill4(out);
    Walk<Bits4>(items.marks, pool).run(items.v4, fill4);
    Walk<Bits6>(items.marks, pool).run(items.v6, Fill6(out));
    return fill4.finish();
}

} // namespace egress::bpf

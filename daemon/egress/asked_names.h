// The names that programs asked for, by what was granted for them: the text for events and explain.
//
// The kernel side has only keys, which several names may share ("*.example.org"). It tells each
// answer that granted something; what is lost or forgotten costs its text, and no verdict. For any
// thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/base/address.h"
#include "daemon/bpf/abi.h"

namespace egress {

class AskedNames {
  public:
    static constexpr std::size_t names_max = 65'536; ///< grants with a text, about 16 MiB
    /// A connection goes on after its grant, and so do its events.
    static constexpr std::uint64_t kept_ns = 3'600'000'000'000ULL;

    /// What one grant was made for.
    struct Asked {
        Address address;
        std::uint64_t key = 0;
        std::shared_ptr<const std::string> name;
        std::uint64_t until = 0; ///< boot clock, nanoseconds
    };

    /// Takes a record of the hooks; of a full table, what ends first goes.
    /// The name, and until when; nullopt: the record is none.
    struct Taken {
        std::shared_ptr<const std::string> name;
        std::uint64_t until = 0; ///< of the grant that ends last
    };
    std::optional<Taken> take(const egress_told& told);
    /// The name asked for, the last one if the key stands for several; null: it is not known.
    std::shared_ptr<const std::string> find(const Address& address, std::uint64_t key) const;
    std::vector<Asked> of_name(std::string_view name) const;
    /// Drops what ended more than kept_ns before.
    void forget(std::uint64_t now);
    std::size_t size() const;

  private:
    using Key = std::pair<Address, std::uint64_t>;
    struct Value {
        std::shared_ptr<const std::string> name;
        std::uint64_t until = 0;
    };
    using Grants = std::map<Key, Value>;
    void put(const Key& key, const std::shared_ptr<const std::string>& name, std::uint64_t until);

    mutable std::mutex mutex_; // guards the next two
    Grants grants_;
    std::set<std::pair<std::uint64_t, Key>> ends_; ///< all of them, by when they end
};

/// A name in the form of a message, as text in lower case, without the final dot. What is no
/// letter, digit, '-' or '_' is escaped as in master files (RFC 1035, 5.1). nullopt: it is none.
std::optional<std::string> name_text(std::span<const std::uint8_t> labels);

} // namespace egress

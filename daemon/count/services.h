// What stands and what came for each service: a rule name, a port and a protocol.
//
// Bounded: from the last place on, all other services are counted together as one without port and
// protocol, and stay there.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "daemon/count/table.h"

namespace egress {

class Services {
  public:
    static constexpr std::size_t most = 1024;

    struct Service {
        policy::NameId name = 0;
        std::uint16_t port = 0; ///< host byte order; 0: every port
        std::uint8_t protocol = 0;
        bool others = false; ///< those that found no place
        std::uint32_t counting = 0;
        std::uint32_t blocked = 0;
        std::uint32_t releasing = 0;
        std::uint64_t failures = 0;  ///< since the start
        std::uint64_t successes = 0; ///< the same
        std::uint64_t blocks = 0;    ///< the same
    };

    /// The service of a row's key; made when it is new.
    Service& of(const Key& key);
    void leave(const Key& key, store::State state) { --number(of(key), state); }
    void enter(const Key& key, store::State state) { ++number(of(key), state); }
    /// At most `most_told`, those with the most blocks first; services without anything are left
    /// out.
    std::vector<Service> busiest(std::size_t most_told) const;

  private:
    static std::uint32_t& number(Service& service, store::State state);

    std::unordered_map<std::uint64_t, Service> services_;
    std::uint64_t last_code_ = 0; ///< of the service that was asked for last
    Service* last_ = nullptr;
};

} // namespace egress

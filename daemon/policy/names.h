// Services and users by name, from the system's local files; nothing asks the network.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace egress::policy {

/// Reads each file at its first use. A machine without a list of services still knows the usual
/// ones, so that the shipped rules are good everywhere.
class LocalNames {
  public:
    /// Port in host byte order: as a TCP service, else as a UDP one, else as any.
    std::optional<std::uint16_t> port(std::string_view service);
    std::optional<std::uint32_t> uid(std::string_view user);

    std::vector<std::string_view> services(); ///< all names; valid as long as this
    std::vector<std::string_view> users();

    /// Whether a network interface of that name exists now.
    static bool interface_exists(std::string_view name);

  private:
    struct Service {
        std::uint16_t port = 0;
        int rank = 0; // of the protocol; the least wins
    };
    void load_services();
    void load_users();

    std::map<std::string, Service, std::less<>> services_;
    std::map<std::string, std::uint32_t, std::less<>> users_;
    bool services_loaded_ = false;
    bool users_loaded_ = false;
};

} // namespace egress::policy

// Services, users and groups by name, from the system's local files; nothing asks the network.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/base/ids.h"

namespace egress::policy {

/// Reads each file at its first use. A machine without a list of services still knows the usual
/// ones, so that the shipped rules are good everywhere.
class LocalNames {
  public:
    /// `root` stands before /etc.
    explicit LocalNames(std::string root = {}) : root_(std::move(root)) {}

    /// Port in host byte order: as a TCP service, else as a UDP one, else as any.
    std::optional<std::uint16_t> port(std::string_view service);
    std::optional<std::uint32_t> uid(std::string_view user) { return user_ids().number(user); }
    std::optional<std::uint32_t> gid(std::string_view group) { return group_ids().number(group); }
    bool has_uid(std::uint32_t uid) { return user_ids().has(uid); } ///< some user has it
    bool has_gid(std::uint32_t gid) { return group_ids().has(gid); }

    std::vector<std::string_view> services(); ///< all names; valid as long as this
    std::vector<std::string_view> users();
    std::vector<std::string_view> groups();

    /// Whether a network interface of that name exists now.
    static bool interface_exists(std::string_view name);
    /// The first port that users may open, now (net.ipv4.ip_unprivileged_port_start).
    static std::uint16_t unprivileged_port();

  private:
    struct Service {
        std::uint16_t port = 0;
        int rank = 0; // of the protocol; the least wins
    };
    void load_services();
    const Ids& user_ids();
    const Ids& group_ids();

    std::string root_;
    std::map<std::string, Service, std::less<>> services_;
    std::optional<Ids> users_;
    std::optional<Ids> groups_;
    bool services_loaded_ = false;
};

} // namespace egress::policy

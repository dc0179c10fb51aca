// Services, users and groups by name, from local files only, never from the network.
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

/// Reads each file at its first use. Without a list of services on the machine it still knows the
/// usual ones, so that the shipped rules work everywhere.
class LocalNames {
  public:
    /// `root` is the prefix of /etc.
    explicit LocalNames(std::string root = {}) : root_(std::move(root)) {}

    /// Port in host byte order: of the TCP service, else of the UDP service, else of any.
    std::optional<std::uint16_t> port(std::string_view service);
    std::optional<std::uint32_t> uid(std::string_view user) { return user_ids().number(user); }
    std::optional<std::uint32_t> gid(std::string_view group) { return group_ids().number(group); }
    bool has_uid(std::uint32_t uid) { return user_ids().has(uid); } ///< true: a user has it
    bool has_gid(std::uint32_t gid) { return group_ids().has(gid); }

    std::vector<std::string_view> services(); ///< all names; valid while this object lives
    std::vector<std::string_view> users();
    std::vector<std::string_view> groups();

    /// True if a network interface of that name exists now.
    static bool interface_exists(std::string_view name);
    /// The first port that users may open now (net.ipv4.ip_unprivileged_port_start).
    static std::uint16_t unprivileged_port();
    /// True if the kernel tells which process is at the other end of a unix socket (Linux 6.5).
    static bool tells_peers();

  private:
    struct Service {
        std::uint16_t port = 0;
        int rank = 0; // of the protocol; the lowest wins
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

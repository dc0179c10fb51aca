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

namespace egress::policy {

/// Reads each file at its first use. A machine without a list of services still knows the usual
/// ones, so that the shipped rules are good everywhere.
class LocalNames {
  public:
    /// `root` stands before /etc.
    explicit LocalNames(std::string root = {}) : root_(std::move(root)) {}

    /// Port in host byte order: as a TCP service, else as a UDP one, else as any.
    std::optional<std::uint16_t> port(std::string_view service);
    std::optional<std::uint32_t> uid(std::string_view user);
    std::optional<std::uint32_t> gid(std::string_view group);
    bool has_uid(std::uint32_t uid); ///< some user has it
    bool has_gid(std::uint32_t gid);

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
    /// Users or groups by name; passwd(5) and group(5) have name and number in the same columns.
    struct Ids {
        std::map<std::string, std::uint32_t, std::less<>> numbers;
        bool loaded = false;
        void load(const std::string& file);
        std::optional<std::uint32_t> find(std::string_view name) const;
        bool has(std::uint32_t number) const;
    };
    void load_services();

    std::string root_;
    std::map<std::string, Service, std::less<>> services_;
    Ids users_;
    Ids groups_;
    bool services_loaded_ = false;
};

} // namespace egress::policy

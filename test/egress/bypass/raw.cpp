// Below UDP and TCP, and around the host's stack altogether.
#include "bypass.h"

#include <cerrno>
#include <cstring>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/vm_sockets.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace bypass {

namespace {

constexpr int protocol_test = 253; // RFC 3692: for experiments

std::uint16_t checksum(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i < size; i += 2) {
        sum += static_cast<std::uint32_t>(bytes[i] << 8 | (i + 1 < size ? bytes[i + 1] : 0));
    }
    sum = (sum >> 16) + (sum & 0xffff);
    return htons(static_cast<std::uint16_t>(~(sum + (sum >> 16))));
}

/// A whole IPv4 packet with the token in a UDP datagram.
std::string packet4(const Job& job, const std::string& from, const std::string& to) {
    iphdr ip{};
    udphdr udp{};
    ip.version = 4;
    ip.ihl = 5;
    ip.ttl = 64;
    ip.protocol = IPPROTO_UDP;
    ip.tot_len = htons(static_cast<std::uint16_t>(sizeof ip + sizeof udp + job.token.size()));
    inet_pton(AF_INET, from.c_str(), &ip.saddr);
    inet_pton(AF_INET, to.c_str(), &ip.daddr);
    ip.check = checksum(&ip, sizeof ip);
    udp.source = htons(4000);
    udp.dest = htons(job.port);
    udp.len = htons(static_cast<std::uint16_t>(sizeof udp + job.token.size()));
    std::string out(reinterpret_cast<const char*>(&ip), sizeof ip);
    out.append(reinterpret_cast<const char*>(&udp), sizeof udp);
    return out + job.token;
}

std::string send_bytes(const Fd& fd, const Place& to, const std::string& bytes) {
    return fd.get() < 0 ? failed(errno)
                        : told(sendto(fd.get(), bytes.data(), bytes.size(), 0, &to.any, to.size()));
}

std::string echo(const Job& job, unsigned char type) {
    const unsigned char header[8] = {type, 0, 0, 0, 0, 0, 0, 1};
    std::string out(reinterpret_cast<const char*>(header), sizeof header);
    return out + job.token;
}

std::string ping4(const Job& job) {
    return send_bytes(make(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), place(job.v4, 0),
                      echo(job, ICMP_ECHO));
}
std::string ping6(const Job& job) {
    return send_bytes(make(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6), place(job.v6, 0),
                      echo(job, ICMP6_ECHO_REQUEST));
}
std::string ping_connect(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
    const Place to = place(job.v4, 0);
    if (fd.get() < 0 || connect(fd.get(), &to.any, to.size()) < 0) {
        return failed(errno);
    }
    const auto bytes = echo(job, ICMP_ECHO);
    return told(send(fd.get(), bytes.data(), bytes.size(), 0));
}
std::string raw4(const Job& job) {
    return send_to(make(AF_INET, SOCK_RAW, protocol_test), place(job.v4, 0), job);
}
std::string raw6(const Job& job) {
    return send_to(make(AF_INET6, SOCK_RAW, protocol_test), place(job.v6, 0), job);
}
std::string raw_header(const Job& job) {
    return send_bytes(make(AF_INET, SOCK_RAW, IPPROTO_RAW), place(job.v4, 0),
                      packet4(job, "0.0.0.0", job.v4));
}
/// The header names another destination than the call.
std::string raw_lying(const Job& job) {
    return send_bytes(make(AF_INET, SOCK_RAW, IPPROTO_RAW), place(job.other4, 0),
                      packet4(job, "0.0.0.0", job.v4));
}
std::string raw_hdrincl(const Job& job) {
    const Fd fd = make(AF_INET, SOCK_RAW, IPPROTO_UDP);
    const int on = 1;
    if (fd.get() < 0) {
        return failed(errno);
    }
    setsockopt(fd.get(), IPPROTO_IP, IP_HDRINCL, &on, sizeof on);
    return send_bytes(fd, place(job.v4, 0), packet4(job, "0.0.0.0", job.v4));
}
std::string raw6_header(const Job& job) {
    std::string packet(40, '\0');
    const auto size =
        static_cast<std::uint16_t>(htons(static_cast<std::uint16_t>(job.token.size())));
    packet[0] = 0x60;
    std::memcpy(&packet[4], &size, 2);
    packet[6] = static_cast<char>(protocol_test);
    packet[7] = 64;
    inet_pton(AF_INET6, job.extra.c_str(), &packet[8]);
    inet_pton(AF_INET6, job.v6.c_str(), &packet[24]);
    return send_bytes(make(AF_INET6, SOCK_RAW, IPPROTO_RAW), place(job.v6, 0), packet + job.token);
}

/// By way of one address to another, as the loose source route of a header of its own says.
std::string routed_by_header(const Job& job, const std::string& first, const std::string& last) {
    unsigned char option[8] = {1, 131, 7, 4}; // no operation, loose source route, length, pointer
    auto packet = packet4(job, "0.0.0.0", first);
    inet_pton(AF_INET, last.c_str(), option + 4);
    packet.insert(sizeof(iphdr), reinterpret_cast<const char*>(option), sizeof option);
    packet[0] = 0x47;
    return send_bytes(make(AF_INET, SOCK_RAW, IPPROTO_RAW), place(first, 0), packet);
}
std::string raw_source_routed(const Job& job) {
    return routed_by_header(job, job.v4, job.other4);
}
std::string raw_source_routed_back(const Job& job) {
    return routed_by_header(job, job.other4, job.v4);
}
/// The same with a segment routing header of IPv6.
std::string raw6_segment_routed(const Job& job) {
    unsigned char segments[40] = {protocol_test, 4, 4, 1, 1}; // the last to be visited stands first
    std::string packet(40, '\0');
    const auto size = htons(static_cast<std::uint16_t>(sizeof segments + job.token.size()));
    packet[0] = 0x60;
    std::memcpy(&packet[4], &size, 2);
    packet[6] = IPPROTO_ROUTING;
    packet[7] = 64;
    inet_pton(AF_INET6, job.extra.c_str(), &packet[8]);
    inet_pton(AF_INET6, job.v6.c_str(), &packet[24]);
    inet_pton(AF_INET6, job.other6.c_str(), segments + 8);
    inet_pton(AF_INET6, job.v6.c_str(), segments + 24);
    packet.append(reinterpret_cast<const char*>(segments), sizeof segments);
    return send_bytes(make(AF_INET6, SOCK_RAW, IPPROTO_RAW), place(job.v6, 0), packet + job.token);
}

/// A frame on the first wire that is no loopback; the receiver takes broadcasts for its own.
std::string packet_socket(const Job& job) {
    const Fd fd = make(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));
    if (fd.get() < 0) {
        return failed(errno);
    }
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_protocol = htons(ETH_P_IP);
    to.sll_ifindex = static_cast<int>(if_nametoindex("to-peer"));
    to.sll_halen = 6;
    std::memset(to.sll_addr, 0xff, 6);
    const auto bytes = packet4(job, "10.77.1.1", job.v4);
    return told(sendto(fd.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&to),
                       sizeof to));
}

/// A packet that comes out of a device of ours, as if from a wire, for a server of this host.
std::string tun(const Job& job) {
    const Fd fd(open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    ifreq device{};
    device.ifr_flags = IFF_TUN | IFF_NO_PI;
    std::strcpy(device.ifr_name, "tun-bypass");
    if (fd.get() < 0 || ioctl(fd.get(), TUNSETIFF, &device) < 0) {
        throw Cannot("tun: " + failed(errno));
    }
    const Fd control(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const Place own = place("10.79.0.1", 0);
    std::memcpy(&device.ifr_addr, &own.v4, sizeof own.v4);
    if (ioctl(control.get(), SIOCSIFADDR, &device) < 0 ||
        ioctl(control.get(), SIOCGIFFLAGS, &device) < 0) {
        throw Cannot("tun address: " + failed(errno));
    }
    device.ifr_flags |= IFF_UP;
    const Place mask = place("255.255.255.0", 0);
    ifreq netmask = device;
    std::memcpy(&netmask.ifr_netmask, &mask.v4, sizeof mask.v4);
    if (ioctl(control.get(), SIOCSIFFLAGS, &device) < 0 ||
        ioctl(control.get(), SIOCSIFNETMASK, &netmask) < 0) {
        throw Cannot("tun up: " + failed(errno));
    }
    const auto bytes = packet4(job, "10.79.0.2", "10.66.0.1");
    return told(write(fd.get(), bytes.data(), bytes.size()));
}

/// To a listener of its own, by the loopback of vsock.
std::string vsock(const Job& job) {
    const Fd server = make(AF_VSOCK, SOCK_STREAM);
    const Fd client = make(AF_VSOCK, SOCK_STREAM);
    sockaddr_vm at{};
    at.svm_family = AF_VSOCK;
    at.svm_cid = VMADDR_CID_ANY;
    at.svm_port = job.port;
    auto* const any = reinterpret_cast<sockaddr*>(&at);
    if (bind(server.get(), any, sizeof at) < 0 || listen(server.get(), 1) < 0) {
        throw Cannot("vsock: " + failed(errno));
    }
    at.svm_cid = VMADDR_CID_LOCAL;
    if (connect(client.get(), any, sizeof at) < 0) {
        if (errno == EPERM || errno == ECONNREFUSED) {
            return failed(errno);
        }
        throw Cannot("vsock loopback: " + failed(errno));
    }
    const Fd accepted(accept(server.get(), nullptr, nullptr));
    std::vector<char> got(job.token.size());
    return say(client, job) == "sent" && read(accepted.get(), got.data(), got.size()) ==
                                             static_cast<ssize_t>(job.token.size())
               ? "arrived"
               : failed(errno);
}

constexpr Named all[] = {
    {"ping4", ping4},
    {"ping6", ping6},
    {"ping-connect", ping_connect},
    {"raw4", raw4},
    {"raw6", raw6},
    {"raw-header", raw_header},
    {"raw-lying", raw_lying},
    {"raw-hdrincl", raw_hdrincl},
    {"raw6-header", raw6_header},
    {"raw-source-routed", raw_source_routed},
    {"raw-source-routed-back", raw_source_routed_back},
    {"raw6-segment-routed", raw6_segment_routed},
    {"packet", packet_socket},
    {"tun", tun},
    {"vsock", vsock},
};

} // namespace

std::span<const Named> raw_paths() {
    return all;
}

} // namespace bypass

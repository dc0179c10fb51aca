#include "load_status.h"

#include <array>
#include <cstring>

#include <sys/socket.h>
#include <sys/un.h>

#include "lib/fd.h"

namespace egress::bench {

nlohmann::json status(const std::string& control_socket) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    control_socket.copy(address.sun_path, sizeof address.sun_path - 1);
    const Fd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
        return nullptr;
    }
    constexpr std::string_view request = "GET /v1/status HTTP/1.1\r\nHost: egress\r\n"
                                         "Connection: close\r\n\r\n";
    if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) {
        return nullptr;
    }
    std::string answer;
    std::array<char, 8192> buffer;
    for (ssize_t got = 0; (got = read(fd.get(), buffer.data(), buffer.size())) > 0;) {
        answer.append(buffer.data(), static_cast<std::size_t>(got));
    }
    const auto body = answer.find("\r\n\r\n");
    return body == std::string::npos
               ? nlohmann::json()
               : nlohmann::json::parse(answer.substr(body + 4), nullptr, false);
}

} // namespace egress::bench

#include "daemon/count/services.h"

#include <algorithm>
#include <tuple>

namespace egress {

namespace {

constexpr std::uint64_t others_code = ~std::uint64_t{0};

std::uint64_t code_of(const Key& key) {
    return std::uint64_t{key.name} << 24 | std::uint64_t{key.port} << 8 | key.protocol;
}

} // namespace

Services::Service& Services::of(const Key& key) {
    auto code = code_of(key);
    if (last_ != nullptr && last_code_ == code) {
        return *last_;
    }
    last_code_ = code;
    auto found = services_.find(code);
    if (found == services_.end()) {
        const bool room = services_.size() < most;
        found = services_
                    .try_emplace(room ? code : others_code,
                                 room ? Service{key.name, key.port, key.protocol}
                                      : Service{0, 0, 0, true})
                    .first;
    }
    last_ = &found->second; // elements of an unordered_map do not move
    return *last_;
}

std::uint32_t& Services::number(Service& service, store::State state) {
    switch (state) {
    case store::State::blocked:
        return service.blocked;
    case store::State::releasing:
        return service.releasing;
    case store::State::counting:
        break;
    }
    return service.counting;
}

std::vector<Services::Service> Services::busiest(std::size_t most_told) const {
    std::vector<Service> found;
    for (const auto& [code, service] : services_) {
        if (service.counting + service.blocked + service.releasing > 0 || service.failures > 0 ||
            service.successes > 0 || service.blocks > 0) {
            found.push_back(service);
        }
    }
    std::ranges::sort(found, [](const Service& a, const Service& b) {
        return std::tie(b.blocked, b.blocks, b.counting, b.failures, a.name, a.port, a.protocol) <
               std::tie(a.blocked, a.blocks, a.counting, a.failures, b.name, b.port, b.protocol);
    });
    found.resize(std::min(found.size(), most_told));
    return found;
}

} // namespace egress

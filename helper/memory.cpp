#include "helper/memory.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <utility>

#include <unistd.h>

#include "daemon/base/clock.h"

namespace egress::helper {

namespace {

std::uint64_t random_number() {
    std::uint64_t number = 0;
    return getentropy(&number, sizeof number) == 0 ? number : 0;
}

} // namespace

std::int64_t kernel_now() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

/// Attackers choose addresses: the seed keeps them from finding many that share a bucket.
std::size_t Memory::Hash::operator()(const Target& target) const {
    constexpr std::uint64_t odd = 0x9e3779b97f4a7c15; // 2^64 divided by the golden ratio
    static const std::uint64_t seed = random_number();
    std::uint64_t hash = seed ^ (target.port | std::uint64_t{target.protocol} << 16U |
                                 std::uint64_t{target.source.length} << 24U);
    const auto bytes = target.source.base.bytes();
    for (std::size_t at = 0; at < bytes.size(); at += sizeof hash) {
        std::uint64_t part = 0;
        std::memcpy(&part, bytes.data() + at, std::min(sizeof part, bytes.size() - at));
        hash = (hash ^ part) * odd;
        hash ^= hash >> 32U;
    }
    return hash;
}

Memory::Fact Memory::fact(const Block& block, bool there, std::int64_t now) {
    const auto ends = block.seconds == for_ever
                          ? never
                          : after(now, static_cast<std::int64_t>(block.seconds) * 1000);
    return {block.action, there, ends};
}

void Memory::learn(const std::string& name, const std::vector<Element>& all, std::int64_t now) {
    if (all.size() > max_facts) {
        names_.erase(name);
        return;
    }
    Facts facts;
    facts.reserve(all.size());
    for (const Element& element : all) {
        facts.insert_or_assign(element.block.target, fact(element.block, true, now));
    }
    names_.insert_or_assign(name, std::move(facts));
}

void Memory::expect(const std::string& name, std::size_t targets) {
    if (const auto known = names_.find(name); known != names_.end()) {
        known->second.reserve(std::min(targets, max_facts));
    }
}

bool Memory::settled(const std::string& name, const Target& target) const {
    const auto known = names_.find(name);
    return known != names_.end() && known->second.contains(target);
}

void Memory::note(const std::string& name, const Block& block, bool there, std::int64_t now) {
    const auto known = names_.find(name);
    if (known == names_.end()) {
        return;
    }
    known->second.insert_or_assign(block.target, fact(block, there, now));
    if (known->second.size() > max_facts) {
        names_.erase(known);
    }
}

std::optional<std::vector<Element>> Memory::recall(const std::string& name, std::int64_t now) {
    const auto known = names_.find(name);
    if (known == names_.end()) {
        return std::nullopt;
    }
    Facts& facts = known->second;
    std::erase_if(facts,
                  [&](const auto& one) { return !one.second.there || one.second.ends <= now; });
    std::vector<Element> elements;
    elements.reserve(facts.size());
    for (const auto& [target, one] : facts) {
        const std::uint64_t seconds =
            one.ends == never ? for_ever : static_cast<std::uint64_t>(one.ends - now + 999) / 1000;
        elements.push_back(Element{Block{target, one.action, seconds}, 0, 0});
    }
    std::ranges::sort(elements, {}, [](const Element& one) { return one.block.target; });
    return elements;
}

} // namespace egress::helper

#include "helper/memory.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "daemon/base/clock.h"

namespace egress::helper {

namespace {

constexpr std::size_t fold_at = 4096; ///< unsorted facts that are always acceptable

} // namespace

std::int64_t kernel_now() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

Memory::Fact Memory::fact(const Block& block, bool there, std::int64_t now) {
    const auto ends = block.seconds == for_ever
                          ? never
                          : after(now, static_cast<std::int64_t>(block.seconds) * 1000);
    return {block.target, 0, block.action, there, ends};
}

/// Keeps one fact for each existing target, in order of targets.
void Memory::fold(Facts& facts) {
    auto& all = facts.all;
    for (std::size_t i = 0; i < all.size(); ++i) {
        all[i].at = static_cast<std::uint32_t>(i);
    }
    std::ranges::sort(all, {}, [](const Fact& one) { return std::pair(one.target, one.at); });
    std::size_t kept = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
        const bool last = i + 1 == all.size() || all[i].target != all[i + 1].target;
        if (last && all[i].there) {
            all[kept++] = all[i];
        }
    }
    all.resize(kept);
    facts.folded = kept;
}

void Memory::learn(const std::string& name, const std::vector<Element>& all, std::int64_t now) {
    if (all.size() > max_facts) {
        names_.erase(name);
        return;
    }
    Facts facts;
    facts.all.reserve(all.size());
    for (const Element& element : all) {
        facts.all.push_back(fact(element.block, true, now));
    }
    fold(facts);
    names_.insert_or_assign(name, std::move(facts));
}

void Memory::note(const std::string& name, const Block& block, bool there, std::int64_t now) {
    const auto known = names_.find(name);
    if (known == names_.end()) {
        return;
    }
    Facts& facts = known->second;
    facts.all.push_back(fact(block, there, now));
    // Fold in proportion to the folded facts, so that it costs little per note.
    if (facts.all.size() - facts.folded > std::max(fold_at, facts.folded)) {
        fold(facts);
    }
    if (facts.all.size() > max_facts) {
        names_.erase(known);
    }
}

std::optional<std::vector<Element>> Memory::recall(const std::string& name, std::int64_t now) {
    const auto known = names_.find(name);
    if (known == names_.end()) {
        return std::nullopt;
    }
    Facts& facts = known->second;
    fold(facts);
    std::erase_if(facts.all, [&](const Fact& one) { return one.ends <= now; });
    facts.folded = facts.all.size();
    std::vector<Element> elements;
    elements.reserve(facts.all.size());
    for (const Fact& one : facts.all) {
        const std::uint64_t seconds =
            one.ends == never ? for_ever : static_cast<std::uint64_t>(one.ends - now + 999) / 1000;
        elements.push_back(Element{Block{one.target, one.action, seconds}, 0, 0});
    }
    return elements;
}

} // namespace egress::helper

#include "helper/elements.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>

#include "helper/attributes.h"
#include "helper/memory.h"

namespace egress::helper {

namespace {

constexpr std::size_t list_limit = 60'000; ///< bytes of elements in one attribute of at most 65,535
constexpr int resized_attempts = 4;        ///< a resize takes less time than such a reading
constexpr std::size_t element_room = 256;  ///< more than one element with its envelope

struct Key {
    std::array<std::uint8_t, 24> bytes{};
    std::uint32_t size = 0;

    void append(std::span<const std::uint8_t> part) {
        std::ranges::copy(part, bytes.begin() + size);
        size += (static_cast<std::uint32_t>(part.size()) + 3U) & ~3U;
    }
};

Key key_of(const Target& target) {
    Key key;
    key.append(target.source.base.bytes());
    if (target.protocol != 0) {
        key.append(std::array{target.protocol});
    }
    if (target.port != 0) {
        key.append(std::array{static_cast<std::uint8_t>(target.port >> 8),
                              static_cast<std::uint8_t>(target.port)});
    }
    return key;
}

std::optional<Target> target_of(std::span<const std::uint8_t> key, const SetId& set) {
    if (key.size() != key_size(set)) {
        return std::nullopt;
    }
    const std::size_t address_size = set.v6 ? 16 : 4;
    Target target;
    target.source.base = *Address::from_bytes(key.first(address_size));
    target.source.length = set.length;
    auto rest = key.subspan(address_size);
    if (set.shape == Shape::exact || set.shape == Shape::protocol) {
        target.protocol = rest[0];
        rest = rest.subspan(4);
    }
    if (set.shape == Shape::exact || set.shape == Shape::port) {
        target.port = static_cast<std::uint16_t>(rest[0] << 8 | rest[1]);
    }
    return target;
}

void put_key(nlmsghdr* message, const Key& key) {
    nlattr* const nest = mnl_attr_nest_start(message, NFTA_SET_ELEM_KEY);
    mnl_attr_put(message, NFTA_DATA_VALUE, key.size, key.bytes.data());
    mnl_attr_nest_end(message, nest);
}

void put_counter(nlmsghdr* message, const Lifetime& lifetime) {
    nlattr* const expression = mnl_attr_nest_start(message, NFTA_SET_ELEM_EXPR);
    mnl_attr_put_strz(message, NFTA_EXPR_NAME, "counter");
    nlattr* const data = mnl_attr_nest_start(message, NFTA_EXPR_DATA);
    mnl_attr_put_u64(message, NFTA_COUNTER_BYTES, htobe64(lifetime.bytes));
    mnl_attr_put_u64(message, NFTA_COUNTER_PACKETS, htobe64(lifetime.packets));
    mnl_attr_nest_end(message, data);
    mnl_attr_nest_end(message, expression);
}

void put_lifetime(nlmsghdr* message, const Lifetime& lifetime) {
    if (lifetime.seconds != for_ever) {
        const std::uint64_t ms = std::min(lifetime.seconds, longest_timeout) * 1000;
        mnl_attr_put_u64(message, NFTA_SET_ELEM_TIMEOUT, htobe64(ms));
        if (lifetime.renew) {
            mnl_attr_put_u64(message, NFTA_SET_ELEM_EXPIRATION, htobe64(ms));
        }
    }
    if (lifetime.packets != 0) {
        put_counter(message, lifetime);
    }
}

std::uint64_t be64(const nlattr* attribute) {
    std::uint64_t value = 0;
    if (mnl_attr_get_payload_len(attribute) == sizeof value) {
        std::memcpy(&value, mnl_attr_get_payload(attribute), sizeof value);
    }
    return be64toh(value);
}

/// The attribute of this type inside another; null: none.
const nlattr* inner(const nlattr* outer, std::uint16_t type) {
    for (const nlattr* attribute : Attributes(outer)) {
        if (mnl_attr_get_type(attribute) == type) {
            return attribute;
        }
    }
    return nullptr;
}

/// Reads packets and bytes of a counter expression; ignores other expressions.
void read_counter(const nlattr* expression, Element& out) {
    const nlattr* const name = inner(expression, NFTA_EXPR_NAME);
    const nlattr* const data = inner(expression, NFTA_EXPR_DATA);
    if (name == nullptr || data == nullptr || mnl_attr_validate(name, MNL_TYPE_NUL_STRING) < 0 ||
        std::string_view(mnl_attr_get_str(name)) != "counter") {
        return;
    }
    if (const nlattr* const packets = inner(data, NFTA_COUNTER_PACKETS)) {
        out.packets = be64(packets);
    }
    if (const nlattr* const bytes = inner(data, NFTA_COUNTER_BYTES)) {
        out.bytes = be64(bytes);
    }
}

/// nullopt: the element is not of our form, or has expired.
std::optional<Element> read_one(const nlattr* attribute, const SetId& set) {
    Element out;
    std::uint64_t timeout = 0;
    std::uint64_t left = 0;
    std::optional<Target> target;
    for (const nlattr* part : Attributes(attribute)) {
        switch (mnl_attr_get_type(part)) {
        case NFTA_SET_ELEM_KEY:
            if (const nlattr* const value = inner(part, NFTA_DATA_VALUE)) {
                target = target_of({static_cast<const std::uint8_t*>(mnl_attr_get_payload(value)),
                                    mnl_attr_get_payload_len(value)},
                                   set);
            }
            break;
        case NFTA_SET_ELEM_TIMEOUT:
            timeout = be64(part);
            break;
        case NFTA_SET_ELEM_EXPIRATION:
            left = be64(part);
            break;
        case NFTA_SET_ELEM_EXPR:
            read_counter(part, out);
            break;
        case NFTA_SET_ELEM_EXPRESSIONS:
            if (const nlattr* const first = inner(part, NFTA_LIST_ELEM)) {
                read_counter(first, out);
            }
            break;
        default:
            break;
        }
    }
    if (!target || (timeout != 0 && left == 0)) {
        return std::nullopt;
    }
    out.block = Block{*target, set.action, timeout == 0 ? for_ever : (left + 999) / 1000};
    return out;
}

/// The elements in a reply to NFT_MSG_GETSETELEM.
void read_reply(const nlmsghdr* message, const SetId& set, std::vector<Element>& out) {
    for (const nlattr* attribute : Attributes(message, sizeof(nfgenmsg))) {
        if (mnl_attr_get_type(attribute) != NFTA_SET_ELEM_LIST_ELEMENTS) {
            continue;
        }
        for (const nlattr* element : Attributes(attribute)) {
            if (auto read = read_one(element, set)) {
                out.push_back(*read);
            }
        }
    }
}

bool has_twice(std::span<const Element> elements) {
    std::vector<Target> targets;
    targets.reserve(elements.size());
    for (const Element& element : elements) {
        targets.push_back(element.block.target);
    }
    std::ranges::sort(targets);
    return std::ranges::adjacent_find(targets) != targets.end();
}

void put_address_of_set(nlmsghdr* message, const std::string& name) {
    mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_TABLE, table_name);
    mnl_attr_put_strz(message, NFTA_SET_ELEM_LIST_SET, name.c_str());
}

} // namespace

ElementWriter::ElementWriter(Batch& batch, std::uint16_t type, const std::string& set, int owner)
    : batch_(batch), type_(type), set_(set), owner_(owner) {}

void ElementWriter::put(const Target& target, const Lifetime* lifetime) {
    const bool one = owner_ != Batch::shared;
    if (message_ != nullptr &&
        (one || mnl_nlmsg_get_payload_len(message_) + element_room > list_limit)) {
        finish();
    }
    if (message_ == nullptr) {
        const std::uint16_t flags = type_ == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0;
        message_ =
            batch_.open(type_, flags, one ? 2 * element_room : list_limit + element_room, owner_);
        put_address_of_set(message_, set_);
        list_ = mnl_attr_nest_start(message_, NFTA_SET_ELEM_LIST_ELEMENTS);
    }
    nlattr* const element = mnl_attr_nest_start(message_, NFTA_LIST_ELEM);
    put_key(message_, key_of(target));
    if (lifetime != nullptr) {
        put_lifetime(message_, *lifetime);
    }
    mnl_attr_nest_end(message_, element);
}

void ElementWriter::finish() {
    if (message_ != nullptr) {
        mnl_attr_nest_end(message_, list_);
        batch_.close();
        message_ = nullptr;
    }
}

Result<bool> read_elements(Netlink& netlink, const SetId& set, const std::string& name,
                           std::int64_t start, std::vector<Element>& out, const Show& show) {
    char buffer[512];
    nlmsghdr* const request = request_header(buffer, NFT_MSG_GETSETELEM, NLM_F_DUMP);
    put_address_of_set(request, name);
    const std::size_t before = out.size();
    const auto take = [&](const nlmsghdr* message) {
        const std::size_t known = out.size();
        read_reply(message, set, out);
        const auto elapsed = static_cast<std::uint64_t>(kernel_now() - start) / 1000;
        for (std::size_t i = known; i < out.size(); ++i) {
            if (show) {
                show(out[i]);
            }
            if (out[i].block.seconds != for_ever) {
                out[i].block.seconds += elapsed;
            }
        }
    };
    // The kernel does not say that it resized the hash table meanwhile: what came twice shows it,
    // and as much may be missing.
    Result<bool> whole = false;
    for (int attempt = 0; attempt < resized_attempts; ++attempt) {
        whole = netlink.ask(
            request, [&] { out.resize(before); }, take);
        if (!whole || !*whole || !has_twice(std::span(out).subspan(before))) {
            return whole;
        }
    }
    return false;
}

Result<std::optional<Element>> read_element(Netlink& netlink, const SetId& set,
                                            const std::string& name, const Target& target) {
    char buffer[1024];
    nlmsghdr* const request = request_header(buffer, NFT_MSG_GETSETELEM, 0);
    put_address_of_set(request, name);
    nlattr* const list = mnl_attr_nest_start(request, NFTA_SET_ELEM_LIST_ELEMENTS);
    nlattr* const element = mnl_attr_nest_start(request, NFTA_LIST_ELEM);
    put_key(request, key_of(target));
    mnl_attr_nest_end(request, element);
    mnl_attr_nest_end(request, list);
    std::vector<Element> found;
    const auto asked = netlink.ask(
        request, [&] { found.clear(); },
        [&](const nlmsghdr* message) { read_reply(message, set, found); });
    if (!asked && asked.error().code != ENOENT) {
        return std::unexpected(asked.error());
    }
    return found.empty() ? std::nullopt : std::optional(found.front());
}

} // namespace egress::helper

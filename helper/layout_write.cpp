// Messages that make and remove the parts of our table.
#include <algorithm>
#include <array>
#include <cstring>

#include <arpa/inet.h>
#include <libnftnl/chain.h>
#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <netinet/in.h>

#include "helper/counters.h"
#include "helper/elements.h"
#include "helper/exempt.h"
#include "helper/layout.h"
#include "helper/nftnl.h"

namespace egress::helper {

namespace {

constexpr std::size_t room = 4096; ///< more than any message of this file

/// nft's types of keys, so that it can print our sets.
constexpr std::uint32_t type_bits = 6;
constexpr std::uint32_t type_ipv4 = 7;
constexpr std::uint32_t type_ipv6 = 8;
constexpr std::uint32_t type_protocol = 12;
constexpr std::uint32_t type_service = 13;
constexpr std::uint32_t big_endian = 2;

std::uint32_t key_type(const SetId& set) {
    std::uint32_t type = set.v6 ? type_ipv6 : type_ipv4;
    if (set.shape == Shape::exact || set.shape == Shape::protocol) {
        type = type << type_bits | type_protocol;
    }
    if (set.shape == Shape::exact || set.shape == Shape::port) {
        type = type << type_bits | type_service;
    }
    return type;
}

/// A rule under construction; appends expressions in order.
class Rule {
  public:
    explicit Rule(const char* chain) {
        nftnl_rule_set_str(rule_.get(), NFTNL_RULE_TABLE, table_name);
        nftnl_rule_set_str(rule_.get(), NFTNL_RULE_CHAIN, chain);
        nftnl_rule_set_u32(rule_.get(), NFTNL_RULE_FAMILY, NFPROTO_INET);
    }

    void meta(std::uint32_t key, std::uint32_t to) {
        nftnl_expr* const expression = append("meta");
        nftnl_expr_set_u32(expression, NFTNL_EXPR_META_KEY, key);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_META_DREG, to);
    }
    void compare(std::uint32_t reg, std::uint32_t operation, std::uint8_t value) {
        nftnl_expr* const expression = append("cmp");
        nftnl_expr_set_u32(expression, NFTNL_EXPR_CMP_SREG, reg);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_CMP_OP, operation);
        nftnl_expr_set(expression, NFTNL_EXPR_CMP_DATA, &value, sizeof value);
    }
    void payload(std::uint32_t base, std::uint32_t offset, std::uint32_t size, std::uint32_t to) {
        nftnl_expr* const expression = append("payload");
        nftnl_expr_set_u32(expression, NFTNL_EXPR_PAYLOAD_BASE, base);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_PAYLOAD_LEN, size);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_PAYLOAD_DREG, to);
    }
    /// Keeps the first `bits` of the `size` bytes in a register.
    void mask(std::uint32_t reg, std::uint32_t size, int bits) {
        std::array<std::uint8_t, 16> ones{};
        const std::array<std::uint8_t, 16> zeros{};
        for (int i = 0; i < bits; ++i) {
            ones[static_cast<std::size_t>(i / 8)] |= static_cast<std::uint8_t>(0x80 >> i % 8);
        }
        nftnl_expr* const expression = append("bitwise");
        nftnl_expr_set_u32(expression, NFTNL_EXPR_BITWISE_SREG, reg);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_BITWISE_DREG, reg);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_BITWISE_LEN, size);
        nftnl_expr_set(expression, NFTNL_EXPR_BITWISE_MASK, ones.data(), size);
        nftnl_expr_set(expression, NFTNL_EXPR_BITWISE_XOR, zeros.data(), size);
    }
    void lookup(std::uint32_t reg, const std::string& set) {
        nftnl_expr* const expression = append("lookup");
        nftnl_expr_set_u32(expression, NFTNL_EXPR_LOOKUP_SREG, reg);
        nftnl_expr_set_str(expression, NFTNL_EXPR_LOOKUP_SET, set.c_str());
    }
    void count() { append("counter"); }
    void verdict(int code, const char* chain = nullptr) {
        nftnl_expr* const expression = append("immediate");
        nftnl_expr_set_u32(expression, NFTNL_EXPR_IMM_DREG, NFT_REG_VERDICT);
        nftnl_expr_set_u32(expression, NFTNL_EXPR_IMM_VERDICT, static_cast<std::uint32_t>(code));
        if (chain != nullptr) {
            nftnl_expr_set_str(expression, NFTNL_EXPR_IMM_CHAIN, chain);
        }
    }
    void reject(std::uint32_t type, std::uint8_t code) {
        nftnl_expr* const expression = append("reject");
        nftnl_expr_set_u32(expression, NFTNL_EXPR_REJECT_TYPE, type);
        nftnl_expr_set_u8(expression, NFTNL_EXPR_REJECT_CODE, code);
    }
    void comment(const std::string& text) {
        const auto data = make_nftnl(nftnl_udata_buf_alloc(256), nftnl_udata_buf_free);
        nftnl_udata_put_strz(data.get(), NFTNL_UDATA_RULE_COMMENT, text.c_str());
        nftnl_rule_set_data(rule_.get(), NFTNL_RULE_USERDATA, nftnl_udata_buf_data(data.get()),
                            nftnl_udata_buf_len(data.get()));
    }
    /// At the end of its chain, or at the beginning.
    void put(Batch& batch, int owner, bool first = false) const {
        const auto flags =
            static_cast<std::uint16_t>(first ? NLM_F_CREATE : NLM_F_CREATE | NLM_F_APPEND);
        nlmsghdr* const message = batch.open(NFT_MSG_NEWRULE, flags, room, owner);
        nftnl_rule_nlmsg_build_payload(message, rule_.get());
        batch.close();
    }

  private:
    nftnl_expr* append(const char* kind) {
        nftnl_expr* const expression = nftnl_expr_alloc(kind);
        nftnl_rule_add_expr(rule_.get(), expression);
        return expression;
    }

    std::unique_ptr<nftnl_rule, void (*)(const nftnl_rule*)> rule_{nftnl_rule_alloc(),
                                                                   nftnl_rule_free};
};

bool is_block(const SetId& set) {
    return set.action == Action::drop || set.action == Action::reject;
}

/// Ends a rule with what happens to a packet that the set has.
void put_verdict(Rule& rule, Action action) {
    switch (action) {
    case Action::drop:
        return rule.verdict(NF_DROP);
    case Action::reject:
        return rule.verdict(NFT_GOTO, refuse_chain);
    case Action::pass:
        return rule.verdict(NF_ACCEPT);
    case Action::hold:
        return rule.verdict(NFT_RETURN);
    }
}

/// The rule that matches a packet against the set.
void put_set_rule(Batch& batch, const char* chain, const SetId& set, const std::string& name,
                  int owner) {
    constexpr std::uint32_t key = NFT_REG32_00; // registers of 4 bytes; the key is contiguous
    const std::uint32_t address_size = set.v6 ? 16 : 4;
    std::uint32_t next = key + address_size / 4;
    Rule rule(chain);
    if (set.shape == Shape::port) {
        // "Any protocol" with a port means protocols with ports; others have different data there.
        // The kernel also finds the transport header after IPv6 extension headers.
        rule.meta(NFT_META_L4PROTO, key);
        rule.compare(key, NFT_CMP_NEQ,
                     set.v6 ? std::uint8_t{IPPROTO_ICMPV6} : std::uint8_t{IPPROTO_ICMP});
    }
    rule.meta(NFT_META_NFPROTO, key);
    rule.compare(key, NFT_CMP_EQ, set.v6 ? std::uint8_t{NFPROTO_IPV6} : std::uint8_t{NFPROTO_IPV4});
    rule.payload(NFT_PAYLOAD_NETWORK_HEADER, set.v6 ? 8 : 12, address_size, key);
    if (set.length < address_size * 8) {
        rule.mask(key, address_size, set.length);
    }
    if (set.shape == Shape::exact || set.shape == Shape::protocol) {
        rule.meta(NFT_META_L4PROTO, next++);
    }
    if (set.shape == Shape::exact || set.shape == Shape::port) {
        rule.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, next++);
    }
    rule.lookup(key, name);
    if (is_block(set)) {
        rule.count();
    }
    put_verdict(rule, set.action);
    rule.comment(name);
    rule.put(batch, owner);
}

void put_chain(Batch& batch, const char* name, bool hooked, int owner) {
    const auto chain = make_nftnl(nftnl_chain_alloc(), nftnl_chain_free);
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TABLE, table_name);
    nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_NAME, name);
    if (hooked) {
        nftnl_chain_set_str(chain.get(), NFTNL_CHAIN_TYPE, "filter");
        nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_HOOKNUM, NF_INET_PRE_ROUTING);
        nftnl_chain_set_s32(chain.get(), NFTNL_CHAIN_PRIO, hook_priority);
        nftnl_chain_set_u32(chain.get(), NFTNL_CHAIN_POLICY, NF_ACCEPT);
    }
    nlmsghdr* const message = batch.open(NFT_MSG_NEWCHAIN, NLM_F_CREATE, room, owner);
    nftnl_chain_nlmsg_build_payload(message, chain.get());
    batch.close();
}

void empty_chain(Batch& batch, const char* chain, int owner) {
    nlmsghdr* const message = batch.open(NFT_MSG_DELRULE, 0, room, owner);
    mnl_attr_put_strz(message, NFTA_RULE_TABLE, table_name);
    mnl_attr_put_strz(message, NFTA_RULE_CHAIN, chain);
    batch.close();
}

void delete_rule(Batch& batch, const char* chain, std::uint64_t handle) {
    nlmsghdr* const message = batch.open(NFT_MSG_DELRULE, 0, room);
    mnl_attr_put_strz(message, NFTA_RULE_TABLE, table_name);
    mnl_attr_put_strz(message, NFTA_RULE_CHAIN, chain);
    mnl_attr_put_u64(message, NFTA_RULE_HANDLE, htobe64(handle));
    batch.close();
}

void delete_set(Batch& batch, const std::string& name) {
    nlmsghdr* const message = batch.open(NFT_MSG_DELSET, 0, room);
    mnl_attr_put_strz(message, NFTA_SET_TABLE, table_name);
    mnl_attr_put_strz(message, NFTA_SET_NAME, name.c_str());
    batch.close();
}

/// The chain that rejects: TCP with a reset, the rest with "port unreachable".
void put_refuse_chain(Batch& batch, int owner) {
    put_chain(batch, refuse_chain, false, owner);
    empty_chain(batch, refuse_chain, owner);
    Rule reset(refuse_chain);
    reset.meta(NFT_META_L4PROTO, NFT_REG32_00);
    reset.compare(NFT_REG32_00, NFT_CMP_EQ, IPPROTO_TCP);
    reset.reject(NFT_REJECT_TCP_RST, 0);
    reset.put(batch, owner);
    Rule unreachable(refuse_chain);
    unreachable.reject(NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH);
    unreachable.put(batch, owner);
}

void put_empty_set(Batch& batch, const SetId& set, const std::string& name, int owner) {
    const auto made = make_nftnl(nftnl_set_alloc(), nftnl_set_free);
    nftnl_set_set_str(made.get(), NFTNL_SET_TABLE, table_name);
    nftnl_set_set_str(made.get(), NFTNL_SET_NAME, name.c_str());
    nftnl_set_set_u32(made.get(), NFTNL_SET_FAMILY, NFPROTO_INET);
    nftnl_set_set_u32(made.get(), NFTNL_SET_FLAGS,
                      is_block(set) ? std::uint32_t{NFT_SET_TIMEOUT} : 0);
    nftnl_set_set_u32(made.get(), NFTNL_SET_KEY_TYPE, key_type(set));
    nftnl_set_set_u32(made.get(), NFTNL_SET_KEY_LEN, key_size(set));
    nftnl_set_set_u32(made.get(), NFTNL_SET_ID, static_cast<std::uint32_t>(batch.size()));
    if (is_block(set) && counts_packets(set.name)) {
        // The kernel gives every element a counter of its own.
        nftnl_set_add_expr(made.get(), nftnl_expr_alloc("counter"));
    }
    // nft prints a key of one part by its byte order, which it learns only from this.
    const auto data = make_nftnl(nftnl_udata_buf_alloc(64), nftnl_udata_buf_free);
    nftnl_udata_put_u32(data.get(), NFTNL_UDATA_SET_KEYBYTEORDER,
                        set.shape == Shape::all ? big_endian : 0);
    nftnl_set_set_data(made.get(), NFTNL_SET_USERDATA, nftnl_udata_buf_data(data.get()),
                       nftnl_udata_buf_len(data.get()));
    nlmsghdr* const message = batch.open(NFT_MSG_NEWSET, NLM_F_CREATE, room, owner);
    nftnl_set_nlmsg_build_payload(message, made.get());
    batch.close();
}

} // namespace

void put_base(Batch& batch, Layout& layout) {
    if (!layout.table) {
        nlmsghdr* const message = batch.open(NFT_MSG_NEWTABLE, NLM_F_CREATE, room);
        mnl_attr_put_strz(message, NFTA_TABLE_NAME, table_name);
        mnl_attr_put_u32(message, NFTA_TABLE_FLAGS, 0); // activates a dormant table
        batch.close();
    }
    if (!layout.hooked) {
        put_chain(batch, hook_chain, true, Batch::shared);
    }
    layout.changed = layout.changed || !layout.table || !layout.hooked;
    layout.table = layout.hooked = true;
}

void drop_table(Batch& batch, Layout& layout) {
    nlmsghdr* const message = batch.open(NFT_MSG_DELTABLE, 0, room);
    mnl_attr_put_strz(message, NFTA_TABLE_NAME, table_name);
    batch.close();
    layout = Layout{};
    layout.changed = true;
}

void put_standby(Batch& batch, Layout& layout, const SetId& set, int owner) {
    const std::string name = set_name(set);
    if (layout.sets.try_emplace(name, Layout::Set{set, true, {}}).second) {
        put_empty_set(batch, set, name, owner);
        layout.seconds += set.second ? 1 : 0;
        layout.changed = true;
    }
}

void put_set(Batch& batch, Layout& layout, const SetId& set, int owner) {
    const std::string name = set_name(set);
    const auto known = layout.sets.find(name);
    if (known != layout.sets.end() && !known->second.rules.empty()) {
        return;
    }
    if (set.action == Action::reject && !layout.refuses) {
        put_refuse_chain(batch, owner);
        layout.refuses = true;
    }
    put_standby(batch, layout, set, owner);
    put_set_rule(batch, hook_chain, set, name, owner);
    layout.sets.find(name)->second.rules.push_back(Layout::planned);
    layout.changed = true;
}

bool has_exemptions(const Layout& layout, const Exemptions& exemptions) {
    const auto same = [](const std::string& name, const Exemptions::Group& group) {
        return name == set_name(group.set);
    };
    return layout.exempts != exemptions.empty() &&
           std::ranges::equal(layout.exempt_order, exemptions.groups(), same) &&
           layout.passes.size() == exemptions.groups().size();
}

void put_exemptions(Batch& batch, Layout& layout, const Exemptions& exemptions) {
    // Makes the chain first, so that it surely exists.
    put_chain(batch, exempt_chain, false, Batch::shared);
    empty_chain(batch, exempt_chain, Batch::shared);
    for (const auto handle : layout.jumps) {
        delete_rule(batch, hook_chain, handle);
    }
    for (const auto& [name, set] : layout.passes) {
        delete_set(batch, name);
    }
    layout.jumps.clear();
    layout.passes.clear();
    layout.exempt_order.clear();
    for (const auto& [set, targets] : exemptions.groups()) {
        const std::string name = set_name(set);
        put_empty_set(batch, set, name, Batch::shared);
        {
            ElementWriter writer(batch, NFT_MSG_NEWSETELEM, name);
            for (const Target& target : targets) {
                writer.put(target);
            }
        }
        put_set_rule(batch, exempt_chain, set, name, Batch::shared);
        layout.passes.emplace(name, set);
        layout.exempt_order.push_back(name);
    }
    layout.exempts = !exemptions.empty();
    if (layout.exempts) {
        Rule jump(hook_chain);
        jump.verdict(NFT_JUMP, exempt_chain);
        jump.comment(exempt_chain);
        jump.put(batch, Batch::shared, true);
        layout.jumps.push_back(Layout::planned);
    }
    layout.changed = true;
}

void drop_set(Batch& batch, Layout& layout, const std::string& name) {
    const auto known = layout.sets.find(name);
    for (const auto handle : known->second.rules) {
        delete_rule(batch, hook_chain, handle);
    }
    delete_set(batch, name);
    layout.seconds -= known->second.id.second ? 1 : 0;
    layout.sets.erase(known);
    layout.changed = true;
}

} // namespace egress::helper

// Reads the existing parts of our table.
#include <memory>
#include <utility>

#include <libnftnl/chain.h>
#include <libnftnl/common.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <libnftnl/table.h>
#include <libnftnl/udata.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "helper/layout.h"
#include "helper/nftnl.h"

namespace egress::helper {

namespace {

using Take = std::function<void(const nlmsghdr*)>;

/// Asks the kernel; a missing object is no error.
Result<> ask_if_there(Netlink& netlink, nlmsghdr* request, const std::function<void()>& restart,
                      const Take& take) {
    const auto asked = netlink.ask(request, restart, take);
    return asked || asked.error().code == ENOENT ? Result<>{} : std::unexpected(asked.error());
}

Result<> read_table(Netlink& netlink, Layout& layout) {
    char buffer[512];
    nlmsghdr* const request = request_header(buffer, NFT_MSG_GETTABLE, 0);
    mnl_attr_put_strz(request, NFTA_TABLE_NAME, table_name);
    return ask_if_there(
        netlink, request, [] {},
        [&](const nlmsghdr* message) {
            const auto table = make_nftnl(nftnl_table_alloc(), nftnl_table_free);
            layout.table =
                nftnl_table_nlmsg_parse(message, table.get()) == 0 &&
                (nftnl_table_get_u32(table.get(), NFTNL_TABLE_FLAGS) & NFT_TABLE_F_DORMANT) == 0;
        });
}

Result<> read_chain(Netlink& netlink, Layout& layout) {
    char buffer[512];
    nlmsghdr* const request = request_header(buffer, NFT_MSG_GETCHAIN, 0);
    mnl_attr_put_strz(request, NFTA_CHAIN_TABLE, table_name);
    mnl_attr_put_strz(request, NFTA_CHAIN_NAME, hook_chain);
    return ask_if_there(
        netlink, request, [] {},
        [&](const nlmsghdr* message) {
            const auto chain = make_nftnl(nftnl_chain_alloc(), nftnl_chain_free);
            layout.hooked =
                nftnl_chain_nlmsg_parse(message, chain.get()) == 0 &&
                nftnl_chain_is_set(chain.get(), NFTNL_CHAIN_HOOKNUM) &&
                nftnl_chain_get_u32(chain.get(), NFTNL_CHAIN_HOOKNUM) == NF_INET_PRE_ROUTING &&
                nftnl_chain_get_s32(chain.get(), NFTNL_CHAIN_PRIO) == hook_priority;
        });
}

Result<> read_sets(Netlink& netlink, Layout& layout) {
    char buffer[512];
    nlmsghdr* const request = request_header(buffer, NFT_MSG_GETSET, NLM_F_DUMP);
    mnl_attr_put_strz(request, NFTA_SET_TABLE, table_name);
    const auto take = [&](const nlmsghdr* message) {
        const auto set = make_nftnl(nftnl_set_alloc(), nftnl_set_free);
        if (nftnl_set_nlmsg_parse(message, set.get()) != 0 ||
            std::string_view(nftnl_set_get_str(set.get(), NFTNL_SET_TABLE)) != table_name) {
            return;
        }
        const std::string name = nftnl_set_get_str(set.get(), NFTNL_SET_NAME);
        if (auto id = parse_set_name(name)) {
            const std::uint32_t flags = nftnl_set_get_u32(set.get(), NFTNL_SET_FLAGS);
            constexpr std::uint32_t other = NFT_SET_ANONYMOUS | NFT_SET_CONSTANT |
                                            NFT_SET_INTERVAL | NFT_SET_MAP | NFT_SET_OBJECT;
            const bool fits = (flags & other) == 0 &&
                              nftnl_set_get_u32(set.get(), NFTNL_SET_KEY_LEN) == key_size(*id);
            if (id->action == Action::pass || id->action == Action::hold) {
                layout.passes.emplace(name, std::move(*id));
                return;
            }
            layout.seconds += id->second ? 1 : 0;
            layout.sets[name] =
                Layout::Set{std::move(*id), fits && (flags & NFT_SET_TIMEOUT) != 0, {}};
        }
    };
    const auto restart = [&] {
        layout.sets.clear();
        layout.seconds = 0;
        layout.passes.clear();
    };
    return ask_if_there(netlink, request, restart, take);
}

/// The comment of a rule, which for our rules is the name of the set.
std::string comment_of(const nftnl_rule* rule) {
    std::uint32_t size = 0;
    const void* const data = nftnl_rule_get_data(rule, NFTNL_RULE_USERDATA, &size);
    std::string comment;
    if (data != nullptr) {
        const auto take = [](const nftnl_udata* attribute, void* out) {
            if (nftnl_udata_type(attribute) == NFTNL_UDATA_RULE_COMMENT) {
                const auto* const text = static_cast<const char*>(nftnl_udata_get(attribute));
                *static_cast<std::string*>(out) =
                    std::string(text, strnlen(text, nftnl_udata_len(attribute)));
            }
            return 0;
        };
        nftnl_udata_parse(data, size, take, &comment);
    }
    return comment;
}

/// Passes each rule of the chain to `take`, after `restart`.
Result<> read_rules(Netlink& netlink, const char* chain, const std::function<void()>& restart,
                    const std::function<void(const nftnl_rule*)>& take) {
    char buffer[512];
    nlmsghdr* const request = request_header(buffer, NFT_MSG_GETRULE, NLM_F_DUMP);
    mnl_attr_put_strz(request, NFTA_RULE_TABLE, table_name);
    mnl_attr_put_strz(request, NFTA_RULE_CHAIN, chain);
    return ask_if_there(netlink, request, restart, [&](const nlmsghdr* message) {
        const auto rule = make_nftnl(nftnl_rule_alloc(), nftnl_rule_free);
        if (nftnl_rule_nlmsg_parse(message, rule.get()) == 0 &&
            std::string_view(nftnl_rule_get_str(rule.get(), NFTNL_RULE_TABLE)) == table_name &&
            std::string_view(nftnl_rule_get_str(rule.get(), NFTNL_RULE_CHAIN)) == chain) {
            take(rule.get());
        }
    });
}

Result<> read_hook_rules(Netlink& netlink, Layout& layout) {
    bool first = true;
    const auto restart = [&] {
        for (auto& [name, set] : layout.sets) {
            set.rules.clear();
        }
        layout.jumps.clear();
        layout.exempts = false;
        first = true;
    };
    return read_rules(netlink, hook_chain, restart, [&](const nftnl_rule* rule) {
        const std::string comment = comment_of(rule);
        const bool begins = std::exchange(first, false);
        if (comment == exempt_chain) {
            layout.exempts = layout.exempts || begins;
            layout.jumps.push_back(nftnl_rule_get_u64(rule, NFTNL_RULE_HANDLE));
            return;
        }
        const auto set = layout.sets.find(comment);
        if (set != layout.sets.end()) {
            set->second.rules.push_back(nftnl_rule_get_u64(rule, NFTNL_RULE_HANDLE));
        }
    });
}

Result<> read_exempt_rules(Netlink& netlink, Layout& layout) {
    return read_rules(
        netlink, exempt_chain, [&] { layout.exempt_order.clear(); },
        [&](const nftnl_rule* rule) { layout.exempt_order.push_back(comment_of(rule)); });
}

Result<> read_refuse_rules(Netlink& netlink, Layout& layout) {
    int rules = 0;
    const auto read = read_rules(
        netlink, refuse_chain, [&] { rules = 0; }, [&](const nftnl_rule*) { ++rules; });
    layout.refuses = rules >= 2;
    return read;
}

} // namespace

Result<Layout> read_layout(Netlink& netlink) {
    Layout layout;
    const auto now = generation(netlink);
    if (!now) {
        return std::unexpected(now.error());
    }
    // Read it first, so that a concurrent change makes a commit on this layout stale.
    layout.generation = *now;
    for (const auto part : {read_table, read_chain, read_sets, read_hook_rules, read_exempt_rules,
                            read_refuse_rules}) {
        if (auto read = part(netlink, layout); !read) {
            return std::unexpected(read.error());
        }
    }
    return layout;
}

} // namespace egress::helper

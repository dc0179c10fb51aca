// Any bytes as a message of the DNS: what the hooks' reader grants is what ldns finds in it, and
// what it refuses has a reason that holds.
//
// The first byte says what the others are: 0 the message, else a recipe for one (dns_recipe.h).
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <ldns/ldns.h>

#include "dns_recipe.h"

namespace {

/// Address, IPv4 mapped, and TTL.
using Granted = std::vector<std::pair<std::array<std::uint8_t, 16>, std::uint32_t>>;

void egress_dns_take(void* taker, const std::uint8_t* address, std::uint32_t ttl) {
    auto& entry = static_cast<Granted*>(taker)->emplace_back();
    std::copy_n(address, entry.first.size(), entry.first.begin());
    entry.second = ttl;
}

} // namespace

#include "daemon/bpf/dns.h"

namespace {

using egress::Message;

constexpr std::array<__u64, 2> secret = {0x1234567890abcdef, 0xfedcba0987654321};
constexpr auto opaque =
    static_cast<ldns_rr_type>(65280); ///< a type of which nobody knows what its data are

void require(bool holds, const char* what) {
    if (!holds) {
        std::fprintf(stderr, "does not hold: %s\n", what);
        std::abort();
    }
}

// --- ours ---

struct Ours {
    std::uint32_t wrong = 0;
    bool asks = false; ///< for addresses
    std::uint64_t question = 0;
    Granted granted;
};

/// As the hooks do it. `before`: what an earlier message left in the room.
Ours read(const Message& bytes, std::uint8_t before) {
    static const auto room = std::make_unique<egress_dns_message>();
    auto& m = *room;
    std::memset(&m, before, sizeof m);
    m.length = static_cast<std::uint32_t>(bytes.size());
    std::ranges::copy(secret, m.secret);
    std::ranges::copy(bytes, m.bytes);
    Ours out;
    out.wrong = egress_dns_question(&m);
    out.asks = out.wrong == 0 && egress_dns_asks_address(&m) != 0;
    out.question = out.wrong == 0 ? m.question : 0;
    if (out.asks) {
        out.wrong = egress_dns_answers(&m, &out.granted);
    }
    std::ranges::sort(out.granted);
    return out;
}

// --- the form ---

/// Where things are in a message, read anew without a thought of speed.
struct Form {
    struct Record {
        std::size_t type; ///< where it is
        bool counts;      ///< an address or CNAME of the Internet
    };
    std::vector<Record> records;
    unsigned names = 0; ///< CNAMEs
    bool strict = true; ///< pointers lead back, and data have the size of their type
    bool whole = false; ///< the answers end where the message does, or before
};

class Walker {
  public:
    explicit Walker(const Message& bytes) : bytes_(bytes) {}

    Form walk() {
        at_ = EGRESS_DNS_HEADER;
        name();
        at_ += 4;
        const unsigned answers = two(6);
        for (unsigned i = 0; i < answers && !over(); ++i) {
            record();
        }
        form_.whole = !over();
        form_.strict = form_.strict && form_.whole;
        return form_;
    }

  private:
    bool over() const { return broken_ || at_ > bytes_.size(); }
    unsigned one(std::size_t at) {
        broken_ |= at >= bytes_.size();
        return broken_ ? 0 : bytes_[at];
    }
    unsigned two(std::size_t at) { return one(at) << 8 | one(at + 1); }

    void record() {
        name();
        const std::size_t data = at_ + 10;
        const unsigned type = two(at_);
        const bool internet = two(at_ + 2) == EGRESS_DNS_IN;
        const std::size_t size = two(at_ + 8);
        const bool v4 = internet && type == EGRESS_DNS_A;
        const bool v6 = internet && type == EGRESS_DNS_AAAA;
        const bool alias = internet && type == EGRESS_DNS_CNAME;
        form_.records.push_back({at_, v4 || v6 || alias});
        at_ = data;
        if (alias) {
            ++form_.names;
            name();
        }
        const bool fits = alias ? at_ == data + size : (!v4 || size == 4) && (!v6 || size == 16);
        form_.strict = form_.strict && fits;
        at_ = data + size;
    }

    void name() {
        std::size_t at = at_;
        std::size_t end = 0;
        std::size_t before = at_;
        for (unsigned steps = 0; !broken_; ++steps) {
            const unsigned first = one(at);
            form_.strict = form_.strict && steps < EGRESS_DNS_STEPS - 1;
            broken_ |= steps > bytes_.size();
            if (first < 0xc0) {
                at += first + 1;
                if (first == 0) {
                    break;
                }
                continue;
            }
            const std::size_t target = two(at) & 0x3fff;
            form_.strict = form_.strict && target < before && target >= EGRESS_DNS_HEADER;
            end = end != 0 ? end : at + 2;
            before = target;
            at = target;
        }
        at_ = end != 0 ? end : at;
    }

    const Message& bytes_;
    std::size_t at_ = 0;
    bool broken_ = false;
    Form form_;
};

// --- theirs ---

struct Free {
    void operator()(ldns_pkt* packet) const { ldns_pkt_free(packet); }
};
using Packet = std::unique_ptr<ldns_pkt, Free>;

Packet parse(Message bytes, const Form& form) {
    if (bytes.size() < EGRESS_DNS_HEADER) {
        return nullptr;
    }
    std::fill_n(bytes.begin() + 8, 4, std::uint8_t{0}); // ours reads nothing after the answers,
    for (const auto& record : form.records) {
        if (form.whole && !record.counts) { // and of other records only the size
            bytes[record.type] = static_cast<unsigned>(opaque) >> 8;
            bytes[record.type + 1] = static_cast<unsigned>(opaque) & 0xff;
        }
    }
    ldns_pkt* packet = nullptr;
    const auto status = ldns_wire2pkt(&packet, bytes.data(), bytes.size());
    return status == LDNS_STATUS_OK ? Packet(packet) : nullptr;
}

bool is(const ldns_rr* record, ldns_rr_type type) {
    return ldns_rr_get_type(record) == type && ldns_rr_get_class(record) == LDNS_RR_CLASS_IN &&
           ldns_rr_rd_count(record) > 0;
}

/// The name and what its CNAMEs lead to: of several for one name the first counts. The root has no
/// addresses.
std::vector<const ldns_rdf*> reached(const ldns_rr_list* answers, const ldns_rdf* name) {
    std::vector<const ldns_rdf*> out = {name};
    const auto known = [&](const ldns_rdf* other) {
        return std::ranges::any_of(
            out, [&](auto* each) { return ldns_dname_compare(each, other) == 0; });
    };
    for (bool more = true; more;) {
        more = false;
        for (std::size_t i = 0; i < ldns_rr_list_rr_count(answers); ++i) {
            const auto* const record = ldns_rr_list_rr(answers, i);
            if (is(record, LDNS_RR_TYPE_CNAME) &&
                ldns_dname_compare(ldns_rr_owner(record), out.back()) == 0) {
                const auto* const target = ldns_rr_rdf(record, 0);
                more = ldns_rdf_size(target) > 1 && !known(target);
                if (more) {
                    out.push_back(target);
                }
                break;
            }
        }
    }
    return out;
}

Granted addresses(const ldns_pkt* packet) {
    Granted out;
    const auto* const question = ldns_rr_list_rr(ldns_pkt_question(packet), 0);
    const auto* const answers = ldns_pkt_answer(packet);
    const auto wanted = ldns_rr_get_type(question);
    const auto names = reached(answers, ldns_rr_owner(question));
    for (std::size_t i = 0; i < ldns_rr_list_rr_count(answers); ++i) {
        const auto* const record = ldns_rr_list_rr(answers, i);
        const bool v4 = is(record, LDNS_RR_TYPE_A);
        if ((!v4 && !is(record, LDNS_RR_TYPE_AAAA)) ||
            (wanted != LDNS_RR_TYPE_ANY && wanted != ldns_rr_get_type(record)) ||
            std::ranges::none_of(names, [&](auto* each) {
                return ldns_dname_compare(each, ldns_rr_owner(record)) == 0;
            })) {
            continue;
        }
        const auto* const data = ldns_rr_rdf(record, 0);
        require(ldns_rdf_size(data) == (v4 ? 4U : 16U), "ldns gives whole addresses");
        auto& entry = out.emplace_back();
        if (v4) {
            entry.first[10] = entry.first[11] = 0xff;
        }
        std::copy_n(ldns_rdf_data(data), ldns_rdf_size(data), entry.first.begin() + (v4 ? 12 : 0));
        const auto ttl = ldns_rr_ttl(record);
        entry.second = ttl >> 31 != 0 ? 0 : ttl;
    }
    std::ranges::sort(out);
    return out;
}

bool asks_address(const ldns_rr* question) {
    const auto type = ldns_rr_get_type(question);
    return ldns_rr_get_class(question) == LDNS_RR_CLASS_IN &&
           ldns_rdf_size(ldns_rr_owner(question)) > 1 &&
           (type == LDNS_RR_TYPE_A || type == LDNS_RR_TYPE_AAAA || type == LDNS_RR_TYPE_ANY);
}

/// An answer to a question for addresses that every form of it is granted for.
bool is_plain(const ldns_pkt* packet) {
    if (packet == nullptr || ldns_pkt_qdcount(packet) != 1 ||
        ldns_pkt_get_opcode(packet) != LDNS_PACKET_QUERY ||
        ldns_pkt_get_rcode(packet) != LDNS_RCODE_NOERROR ||
        !asks_address(ldns_rr_list_rr(ldns_pkt_question(packet), 0))) {
        return false;
    }
    unsigned aliases = 0;
    for (std::size_t i = 0; i < ldns_pkt_ancount(packet); ++i) {
        const auto* const record = ldns_rr_list_rr(ldns_pkt_answer(packet), i);
        if (ldns_rr_get_type(record) != opaque && ldns_rr_rd_count(record) == 0) {
            return false; // without data, as in updates (RFC 2136)
        }
        aliases += is(record, LDNS_RR_TYPE_CNAME) ? 1 : 0;
    }
    return aliases <= EGRESS_DNS_CNAMES;
}

/// Of a name of ldns', by the definition in names.h.
std::uint64_t hash_of(const ldns_rdf* name) {
    std::array<std::uint8_t, EGRESS_MAX_NAME + EGRESS_LABEL_ROOM> bytes{};
    std::copy_n(ldns_rdf_data(name), ldns_rdf_size(name), bytes.begin());
    std::vector<std::size_t> labels;
    for (std::size_t at = 0; bytes[at] != 0; at += bytes[at] + 1U) {
        labels.push_back(at);
    }
    std::uint64_t hash = 0;
    while (!labels.empty()) {
        hash = egress_hash_label(secret.data(), hash, &bytes[labels.back()]);
        labels.pop_back();
    }
    return hash;
}

// --- what has to hold ---

void check_refused(const Message& bytes, const Ours& ours, const Form& form,
                   const ldns_pkt* theirs) {
    require(ours.granted.empty(), "what is refused grants nothing");
    switch (ours.wrong) {
    case EGRESS_DNS_QUESTIONS:
        require(bytes[4] != 0 || bytes[5] != 1, "there is not one question");
        return;
    case EGRESS_DNS_NEGATIVE:
        require((bytes[3] & 15) != 0, "there is an error");
        return;
    case EGRESS_DNS_CHAIN:
        require(form.names > EGRESS_DNS_CNAMES, "there are too many CNAMEs");
        return;
    default:
        require(ours.wrong == EGRESS_DNS_UNREADABLE, "the reason is one of a reader");
        require(theirs == nullptr || !form.strict || (bytes[2] & 0x78) != 0,
                "ldns can't read it either, or its form is not strict");
    }
}

/// As ldns writes the same message, with pointers of its own choice, it must be granted.
void check_written(const ldns_pkt* theirs, const Granted& expected) {
    std::uint8_t* bytes = nullptr;
    std::size_t size = 0;
    if (ldns_pkt2wire(&bytes, theirs, &size) == LDNS_STATUS_OK && size < EGRESS_DNS_BYTES) {
        const auto ours = read(Message(bytes, bytes + size), 0);
        require(ours.wrong == 0 && ours.granted == expected, "as ldns writes it, it is granted");
    }
    std::free(bytes); // NOLINT: of ldns
}

void check(const Message& bytes) {
    const auto ours = read(bytes, 0);
    const auto again = read(bytes, 0xff);
    require(ours.wrong == again.wrong && ours.granted == again.granted,
            "what lies behind the message has no part in it");
    const auto form = bytes.size() < EGRESS_DNS_HEADER ? Form{} : Walker(bytes).walk();
    const auto theirs = parse(bytes, form);
    if (ours.wrong != 0) {
        check_refused(bytes, ours, form, theirs.get());
    }
    if (ours.wrong != 0 || !ours.asks) {
        require(ours.wrong != 0 || !is_plain(theirs.get()),
                "a question for addresses is one to both");
        if (is_plain(theirs.get())) { // only in a form that we refuse
            check_written(theirs.get(), addresses(theirs.get()));
        }
        return;
    }
    require(form.strict, "what is read has a strict form");
    require(theirs != nullptr, "ldns reads what we read");
    const auto* const question = ldns_rr_list_rr(ldns_pkt_question(theirs.get()), 0);
    require(asks_address(question), "a question for addresses is one to both");
    require(ours.question == hash_of(ldns_rr_owner(question)), "the question has the same name");
    const auto expected = addresses(theirs.get());
    require(ours.granted == expected, "the same addresses are granted");
    check_written(theirs.get(), expected);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    const Message rest(data + 1, data + size);
    const auto message = data[0] == 0 ? rest : egress::cook(rest);
    if (message.size() < EGRESS_DNS_BYTES) {
        check(message);
    }
    return 0;
}

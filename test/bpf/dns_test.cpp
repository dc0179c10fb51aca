// Names as numbers, and messages of the DNS read by the text that the hooks share.
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "daemon/bpf/names.h"

namespace {

/// Address, as bytes, and TTL.
using Taken = std::vector<std::pair<std::string, std::uint32_t>>;

void egress_dns_take(void* taker, const std::uint8_t* address, std::uint32_t ttl) {
    static_cast<Taken*>(taker)->emplace_back(
        std::string(reinterpret_cast<const char*>(address), 16), ttl);
}

} // namespace

#include "daemon/bpf/dns.h"

namespace {

constexpr std::array<__u64, 2> secret = {0x1234567890abcdef, 0xfedcba0987654321};

std::uint64_t hash(std::string_view name) {
    return egress_hash_name(secret.data(), name.data(), static_cast<std::uint32_t>(name.size()));
}

std::string two(unsigned value) {
    return {static_cast<char>(value >> 8), static_cast<char>(value)};
}

std::string wire(std::string_view name, bool root = true) {
    std::string out;
    while (!name.empty()) {
        const auto end = std::min(name.find('.'), name.size());
        out += static_cast<char>(end);
        out += name.substr(0, end);
        name.remove_prefix(std::min(end + 1, name.size()));
    }
    return root ? out + '\0' : out;
}

std::string pointer(unsigned to) {
    return two(0xc000 | to);
}

std::string record(const std::string& owner, unsigned type, const std::string& data,
                   unsigned ttl = 300, unsigned kind = 1) {
    return owner + two(type) + two(kind) + two(ttl >> 16) + two(ttl & 0xffff) +
           two(static_cast<unsigned>(data.size())) + data;
}

const std::string one_v4 = {10, 1, 2, 3};
const std::string asked = pointer(12);

std::string mapped(const std::string& v4) {
    return std::string(10, '\0') + "\xff\xff" + v4;
}

struct Reply {
    std::string name = "files.example.org";
    unsigned type = EGRESS_DNS_A;
    unsigned flags = 0x8180;
    unsigned questions = 1;
    std::string question; ///< empty: of `name`
    std::vector<std::string> records;
    std::string rest; ///< behind them

    std::string text() const {
        std::string out = two(4711) + two(flags) + two(questions) +
                          two(static_cast<unsigned>(records.size())) + two(0) + two(0);
        out += question.empty() ? wire(name) + two(type) + two(1) : question;
        for (const auto& each : records) {
            out += each;
        }
        return out + rest;
    }
};

struct Read {
    std::uint32_t wrong = 0;
    std::unique_ptr<egress_dns_message> message = std::make_unique<egress_dns_message>();
    Taken taken;
};

Read read(const std::string& text) {
    Read out;
    auto& m = *out.message;
    std::memset(&m, 0xa5, sizeof m); // as the last message left it
    m.length = static_cast<std::uint32_t>(text.size());
    std::copy(secret.begin(), secret.end(), m.secret);
    std::memcpy(m.bytes, text.data(), std::min(text.size(), sizeof m.bytes));
    out.wrong = egress_dns_question(&m);
    if (out.wrong == 0) {
        out.wrong = egress_dns_answers(&m, &out.taken);
    }
    return out;
}

Read read(const Reply& reply) {
    return read(reply.text());
}

} // namespace

TEST_CASE("names are equal in any case, with and without the dot at their end") {
    CHECK(hash("files.example.org") != 0);
    CHECK(hash("files.example.org") == hash("FILES.Example.oRg."));
    CHECK(hash("files.example.org") != hash("file.sexample.org"));
    CHECK(hash("a.b") != hash("b.a"));
    CHECK(hash("@[`{") != hash("`{@["));         // around the letters
    CHECK(hash("\xc1\xda") != hash("\xe1\xfa")); // not ASCII: no case
    CHECK(hash(std::string(63, 'a')) != 0);
    for (const auto* none : {"", ".", "a..b", ".a", "a.."}) {
        CHECK_MESSAGE(hash(none) == 0, none);
    }
    CHECK(hash(std::string(64, 'a')) == 0);
    const std::string longest = std::string(63, 'a') + '.' + std::string(63, 'b') + '.' +
                                std::string(63, 'c') + '.' + std::string(61, 'd');
    CHECK(hash(longest) != 0);
    CHECK(hash(longest + 'd') == 0);
    using namespace std::string_view_literals;
    CHECK(hash("a\0.b"sv) != hash("a.b"));
}

TEST_CASE("a table finds each of its names and no other") {
    std::mt19937_64 random(7);
    for (const std::uint32_t count : {0U, 1U, 5U, 6U, 1000U, 300000U}) {
        std::map<std::uint64_t, std::uint32_t> wanted;
        while (wanted.size() < count) {
            wanted.emplace(random() | 2, static_cast<std::uint32_t>(wanted.size() + 1));
        }
        std::vector<egress_names> table(egress_buckets_for(count));
        const auto buckets = static_cast<std::uint32_t>(table.size());
        CHECK((buckets & (buckets - 1)) == 0);
        CHECK(buckets <= count); // a name costs a cache line at most
        for (const auto& [key, index] : wanted) {
            std::uint32_t* const place = egress_put_name(table.data(), buckets, key);
            REQUIRE(place != nullptr);
            CHECK(*place == 0);
            *place = index;
        }
        for (const auto& [key, index] : wanted) {
            CHECK(*egress_put_name(table.data(), buckets, key) == index);
        }
    }
    std::vector<egress_names> full(1);
    for (std::uint64_t key = 2; key < 2 + EGRESS_NAMES_WAYS; ++key) {
        CHECK(egress_put_name(full.data(), 1, key) != nullptr);
    }
    CHECK(egress_put_name(full.data(), 1, 99) == nullptr);
}

TEST_CASE("an answer hands over the addresses of its question") {
    Reply reply;
    reply.records = {record(asked, EGRESS_DNS_A, one_v4, 60),
                     record(wire("FILES.example.ORG"), EGRESS_DNS_A, {10, 1, 2, 4}, 0x80000000),
                     record(asked, EGRESS_DNS_AAAA, std::string(16, 'x')), // not asked for
                     record(asked, EGRESS_DNS_A, {10, 1, 2, 5}, 60, 3),    // of another class
                     record(asked, 65, "\0\1\0"),                          // HTTPS
                     record(wire("other.example.org"), EGRESS_DNS_A, {10, 9, 9, 9})};
    reply.rest = "whatever follows";
    const auto got = read(reply);
    CHECK(got.wrong == 0);
    CHECK(got.taken == Taken{{mapped(one_v4), 60}, {mapped({10, 1, 2, 4}), 0}});
    CHECK(got.message->question == hash("files.example.org"));
    CHECK(got.message->suffixes[0] == hash("files.example.org"));
    CHECK(got.message->suffixes[1] == hash("example.org"));
    CHECK(got.message->suffixes[2] == hash("org"));
    CHECK(got.message->labels != 0);
}

TEST_CASE("the case of a question counts, but not for its hash") {
    Reply a;
    Reply b;
    b.name = "fiLes.example.org";
    CHECK(read(a).message->question == read(b).message->question);
    CHECK(read(a).message->exact != read(b).message->exact);
    CHECK(read(a).message->exact == read(a).message->exact);
}

TEST_CASE("CNAMEs lead to addresses, in any order, 30 of them") {
    Reply reply;
    reply.type = EGRESS_DNS_AAAA;
    const auto name = [](int i) { return "c" + std::to_string(i) + ".cdn.example"; };
    reply.records.push_back(record(wire(name(30)), EGRESS_DNS_AAAA, std::string(16, 'y')));
    for (int i = 29; i >= 1; --i) {
        reply.records.push_back(record(wire(name(i)), EGRESS_DNS_CNAME, wire(name(i + 1))));
    }
    reply.records.push_back(record(asked, EGRESS_DNS_CNAME, wire(name(1))));
    reply.records.push_back(record(wire("c31.cdn.example"), EGRESS_DNS_AAAA, std::string(16, 'n')));
    CHECK(read(reply).taken == Taken{{std::string(16, 'y'), 300}});
    for (int i = 0; i < 3; ++i) {
        reply.records.push_back(record(wire("x.example"), EGRESS_DNS_CNAME, wire("y.example")));
    }
    CHECK(read(reply).wrong == EGRESS_DNS_CHAIN);
    CHECK(read(reply).taken.empty());
}

TEST_CASE("CNAMEs that lead in a circle, or nowhere, hand over nothing") {
    Reply reply;
    reply.records = {record(asked, EGRESS_DNS_CNAME, wire("b.example")),
                     record(wire("b.example"), EGRESS_DNS_CNAME, asked),
                     record(wire("c.example"), EGRESS_DNS_A, one_v4)};
    CHECK(read(reply).wrong == 0);
    CHECK(read(reply).taken.empty());
}

TEST_CASE("pointers lead back only") {
    Reply reply;
    const auto size = static_cast<unsigned>(reply.text().size());
    for (const auto& owner : {pointer(size), pointer(size + 2), pointer(0), pointer(11),
                              wire("a", false) + pointer(size), pointer(0x3fff)}) {
        reply.records = {record(owner, EGRESS_DNS_A, one_v4)};
        CHECK(read(reply).wrong == EGRESS_DNS_UNREADABLE);
        CHECK(read(reply).taken.empty());
    }
    // Into the middle of the question, and by a pointer to a pointer.
    reply.records = {record(asked, EGRESS_DNS_CNAME, wire("cdn", false) + pointer(12 + 6))};
    const auto at = static_cast<unsigned>(reply.text().size());
    reply.records.push_back(record(pointer(at - 6), EGRESS_DNS_A, one_v4));
    CHECK(read(reply).taken == Taken{{mapped(one_v4), 300}});
    reply.records.push_back(record(pointer(at), EGRESS_DNS_A, {10, 1, 2, 9}));
    CHECK(read(reply).taken.size() == 2);
    reply.question = pointer(12) + two(1) + two(1);
    CHECK(read(reply).wrong == EGRESS_DNS_UNREADABLE);
}

TEST_CASE("what is not whole hands over nothing") {
    Reply reply;
    reply.records = {record(asked, EGRESS_DNS_A, one_v4),
                     record(asked, EGRESS_DNS_CNAME, wire("b")),
                     record(asked, EGRESS_DNS_A, {10, 1, 2, 4})};
    const std::string whole = reply.text();
    CHECK(read(whole).taken.size() == 2);
    for (std::size_t size = 0; size < whole.size(); ++size) {
        const auto got = read(whole.substr(0, size));
        CHECK(got.wrong == EGRESS_DNS_UNREADABLE);
        CHECK(got.taken.empty());
    }
    for (const auto& data : {std::string(3, 'a'), std::string(5, 'a'), std::string()}) {
        reply.records[2] = record(asked, EGRESS_DNS_A, data);
        CHECK(read(reply).wrong == EGRESS_DNS_UNREADABLE);
        CHECK(read(reply).taken.empty());
    }
    CHECK(read(std::string(EGRESS_DNS_BYTES, 'a')).wrong == EGRESS_DNS_UNREADABLE);
}

TEST_CASE("odd labels: NUL, a reserved kind, too long names") {
    using namespace std::string_literals;
    Reply reply;
    reply.question = "\5files\7example\3org\0"s + two(1) + two(1);
    reply.records = {record("\6files\0\7example\3org\0"s, EGRESS_DNS_A, one_v4)};
    CHECK(read(reply).wrong == 0);
    CHECK(read(reply).taken.empty());
    reply.records = {record("\x41"s + std::string(65, 'a') + '\0', EGRESS_DNS_A, one_v4)};
    CHECK(read(reply).wrong == EGRESS_DNS_UNREADABLE);
    std::string name;
    for (int i = 0; i < 127; ++i) {
        name += "\1a";
    }
    reply.question = name + '\0' + two(1) + two(1);
    reply.records = {record(asked, EGRESS_DNS_A, one_v4)};
    CHECK(read(reply).taken.size() == 1);
    reply.question = "\1a"s + name + '\0' + two(1) + two(1);
    CHECK(read(reply).wrong == EGRESS_DNS_UNREADABLE);
}

TEST_CASE("errors, other operations, several questions") {
    Reply reply;
    reply.records = {record(asked, EGRESS_DNS_A, one_v4)};
    reply.flags = 0x8183;
    CHECK(read(reply).wrong == EGRESS_DNS_NEGATIVE);
    CHECK(read(reply).taken.empty());
    reply.flags = 0x8980;
    CHECK(read(reply).wrong == EGRESS_DNS_UNREADABLE);
    reply.flags = 0x8180;
    for (const unsigned questions : {0U, 2U, 65535U}) {
        reply.questions = questions;
        CHECK(read(reply).wrong == EGRESS_DNS_QUESTIONS);
    }
    reply.questions = 1;
    reply.question = std::string(1, '\0') + two(1) + two(1);
    CHECK(read(reply).message->question == 0);
    CHECK(!egress_dns_asks_address(read(reply).message.get()));
    reply.question.clear();
    CHECK(egress_dns_asks_address(read(reply).message.get()));
    reply.type = 65;
    CHECK(!egress_dns_asks_address(read(reply).message.get()));
}

TEST_CASE("an answer with 2,000 addresses") {
    Reply reply;
    for (unsigned i = 0; i < 2000; ++i) {
        reply.records.push_back(record(asked, EGRESS_DNS_A, two(0x0a00) + two(i)));
    }
    CHECK(read(reply).taken.size() == 2000);
}

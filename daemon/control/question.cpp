#include "daemon/control/question.h"

#include <algorithm>
#include <array>

#include <netinet/in.h>
#include <sys/socket.h>

#include "daemon/base/address.h"
#include "daemon/base/fields.h"
#include "daemon/bpf/unix_name.h"
#include "daemon/policy/egress/destination.h"
#include "daemon/policy/egress/domain.h"

namespace egress {

using nlohmann::json;

namespace {

/// The address that the hooks see: the kernel connects the unspecified one to itself.
std::array<std::uint8_t, 16> seen_address(const Address& address) {
    return (!address.is_unspecified() ? address
            : address.is_v4()         ? *Address::parse("127.0.0.1")
                                      : *Address::parse("::1"))
        .raw();
}

void read_flow(Fields& fields, egress_flow& flow) {
    const auto address = Address::parse(fields.text("addr").value_or(""));
    if (fields.has("name") && fields.has("addr")) {
        fields.wrong("name", "and \"addr\" exclude each other");
    } else if (fields.has("name")) {
        flow.address[15] = 1; // each of the name's addresses takes its place
    } else if (address) {
        const auto bytes = seen_address(*address);
        std::ranges::copy(bytes, flow.address);
    } else {
        fields.wrong("addr", "is missing, or no address");
    }
    flow.port = fields.number<std::uint16_t>("port", 65535).value_or(0);
    flow.uid = fields.number<std::uint32_t>("uid", 0xfffffffe).value_or(0);
    flow.gid = fields.number<std::uint32_t>("gid", 0xfffffffe).value_or(0);
    const auto type = fields.text("type").value_or("");
    const auto protocol = fields.number<std::uint8_t>("protocol", 255);
    if (type.empty()) {
        flow.type = protocol == IPPROTO_UDP                ? SOCK_DGRAM
                    : !protocol || protocol == IPPROTO_TCP ? SOCK_STREAM
                                                           : SOCK_RAW;
    } else if (type == "stream" || type == "dgram" || type == "raw") {
        flow.type = type == "stream" ? SOCK_STREAM : type == "dgram" ? SOCK_DGRAM : SOCK_RAW;
    } else {
        fields.wrong("type", "is not stream, dgram or raw");
    }
    flow.protocol = protocol.value_or(flow.type == SOCK_STREAM  ? IPPROTO_TCP
                                      : flow.type == SOCK_DGRAM ? IPPROTO_UDP
                                                                : IPPROTO_RAW);
}

/// A destination of AF_UNIX, in place of an address.
void read_socket(Fields& fields, Question& question) {
    const auto socket = fields.text("socket").value_or("");
    const auto type = fields.text("type").value_or("stream");
    for (const auto* const other : {"addr", "name", "port", "protocol"}) {
        if (fields.has(other)) {
            fields.wrong(other, "and \"socket\" exclude each other");
        }
    }
    if (const auto what = policy::socket_objection(socket); !what.empty()) {
        fields.wrong("socket", what);
    }
    if (type != "stream" && type != "dgram" && type != "seqpacket") {
        fields.wrong("type", "is not stream, dgram or seqpacket");
    }
    question.socket = socket;
    question.flow.uid = fields.number<std::uint32_t>("uid", 0xfffffffe).value_or(0);
    question.flow.gid = fields.number<std::uint32_t>("gid", 0xfffffffe).value_or(0);
    question.flow.type = EGRESS_TYPE_UNIX;
    question.flow.protocol = type == "stream"  ? SOCK_STREAM
                             : type == "dgram" ? SOCK_DGRAM
                                               : SOCK_SEQPACKET;
}

void read_name(Fields& fields, std::string& name) {
    const auto text = fields.text("name");
    const auto domain = policy::parse_domain(text.value_or("localhost"));
    if (text && (!domain || domain->kind != policy::Destination::Kind::name)) {
        fields.wrong("name", "is no name of a destination");
    } else if (text) {
        name = domain->text;
    }
}

} // namespace

Result<Question> question_of(const json& body) {
    Fields fields(body);
    Question question;
    question.pid = fields.number<std::uint32_t>("pid", 0x7fffffff).value_or(0);
    question.started = fields.number<std::uint64_t>("started", ~std::uint64_t{0});
    question.pid_space = fields.number<std::uint32_t>("pid_namespace", 0xffffffff);
    question.exe = fields.text("exe", Fields::Kind::path).value_or("");
    question.command = fields.text("command").value_or("");
    question.parents = fields.paths("parents", EGRESS_MAX_ANCESTORS);
    question.cgroup = fields.text("cgroup", Fields::Kind::path).value_or("");
    question.container = fields.flag("container");
    question.mount_space = fields.number<std::uint32_t>("mount_namespace", 0xffffffff);
    if (fields.has("socket")) {
        read_socket(fields, question);
    } else {
        read_flow(fields, question.flow);
        read_name(fields, question.name);
    }
    if ((question.pid == 0) == question.exe.empty()) {
        fields.wrong("pid", "or \"exe\" has to be given, and not both");
    }
    if (const auto good = fields.good(); !good) {
        return std::unexpected(good.error());
    }
    return question;
}

} // namespace egress

#include "daemon/bpf/load/percpu.h"

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "daemon/bpf/load/types.h"

namespace egress::bpf {

namespace {

/// Offset in bytes of a member of a structure.
std::int64_t member(const btf* types, std::uint32_t id, std::string_view name) {
    const btf_type* const type = btf__type_by_id(types, id);
    const auto kind = type != nullptr ? btf_kind(type) : 0;
    if (kind != BTF_KIND_STRUCT && kind != BTF_KIND_UNION) {
        return -1;
    }
    for (std::uint16_t i = 0; i < btf_vlen(type); ++i) {
        const btf_member& each = btf_members(type)[i];
        const char* const text = btf__name_by_offset(types, each.name_off);
        std::int64_t inside = 0;
        if (text == nullptr || *text == '\0') {
            inside = member(types, each.type, name);
        } else if (text != name) {
            inside = -1;
        }
        if (inside >= 0) {
            return btf_member_bit_offset(type, i) / 8 + inside;
        }
    }
    return -1;
}

} // namespace

PerCpu find_per_cpu() {
    const Types types(btf__load_vmlinux_btf());
    const auto section =
        types ? btf__find_by_name_kind(types.get(), ".data..percpu", BTF_KIND_DATASEC) : -1;
    if (section < 0) {
        return {};
    }
    const btf_type* const all = btf__type_by_id(types.get(), static_cast<std::uint32_t>(section));
    std::map<std::string, std::int64_t, std::less<>> found;
    for (std::uint16_t i = 0; i < btf_vlen(all); ++i) {
        const btf_var_secinfo& each = btf_var_secinfos(all)[i];
        const btf_type* const variable = btf__type_by_id(types.get(), each.type);
        const std::string name = btf__name_by_offset(types.get(), variable->name_off);
        found[name] = each.offset;
        if (name == "pcpu_hot") { // 6.2 to 6.14
            const auto count = member(types.get(), variable->type, "preempt_count");
            const auto task = member(types.get(), variable->type, "current_task");
            if (count >= 0 && task >= 0) {
                found["__preempt_count"] = each.offset + count;
                found["current_task"] = each.offset + task;
            }
        }
    }
    const auto queue = found.find("runqueues");
    const auto count = found.find("__preempt_count");
    const auto task = found.find("current_task");
    if (queue == found.end() || count == found.end() || task == found.end()) {
        return {};
    }
    return {count->second - queue->second, task->second - queue->second};
}

} // namespace egress::bpf

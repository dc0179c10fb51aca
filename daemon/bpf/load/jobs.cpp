#include "daemon/bpf/load/jobs.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/bpf/load/unix.h"
#include "daemon/bpf/names.h"

namespace egress::bpf {

namespace {

constexpr std::size_t mapped_size = EGRESS_MAX_JOBS * sizeof(egress_job);

std::uint32_t slot_number(std::uint32_t number) {
    return EGRESS_MAX_JOBS + number;
}

/// Whether it has no process, and none is joining.
bool is_over(egress_job& job) {
    const auto joined = std::atomic_ref(job.joined).load();
    return joined != EGRESS_JOIN_ASKED && std::atomic_ref(job.processes).load() == 0;
}

Jobs::Failure failure_of(std::uint32_t joined) {
    using Refused = Jobs::Refused;
    switch (joined) {
    case EGRESS_JOIN_NESTED:
        return {Refused::nested,
                "your process is part of a run already, and runs do not nest: its rules go on"};
    case EGRESS_JOIN_UNKNOWN:
        return {Refused::failed, "the hooks do not know your process; start the command anew"};
    default:
        return {Refused::no_process, "the process is not there"};
    }
}

} // namespace

Jobs::Jobs(Jobs&& other) noexcept {
    *this = std::move(other);
}

Jobs& Jobs::operator=(Jobs&& other) noexcept {
    std::swap(outer_, other.outer_);
    std::swap(walk_, other.walk_);
    std::swap(config_, other.config_);
    std::swap(jobs_, other.jobs_);
    std::swap(ready_, other.ready_);
    std::swap(names_, other.names_);
    std::swap(strangers_, other.strangers_);
    return *this;
}

Jobs::~Jobs() {
    if (jobs_ != nullptr) {
        munmap(jobs_, mapped_size);
    }
}

Result<Jobs> Jobs::open(OuterMap outer, egress_config* config, Walk walk) {
    void* const mapped =
        mmap(nullptr, mapped_size, PROT_READ | PROT_WRITE, MAP_SHARED, outer("jobs"), 0);
    if (mapped == MAP_FAILED) {
        return fail_errno("cannot map the kernel's table of jobs");
    }
    Jobs out;
    out.outer_ = std::move(outer);
    out.walk_ = std::move(walk);
    out.config_ = config;
    out.jobs_ = static_cast<egress_job*>(mapped);
    for (std::uint32_t i = 0; i < EGRESS_MAX_JOBS; ++i) {
        // An egressd before died while a process was joining: no process can join this job now.
        std::uint32_t asked = EGRESS_JOIN_ASKED;
        std::atomic_ref(out.at(i).joined).compare_exchange_strong(asked, EGRESS_JOIN_ANOTHER);
    }
    std::atomic_ref(config->jobs).store(static_cast<std::uint32_t>(out.count()));
    out.tidy();
    out.each([&out](const egress_job& job) {
        if (job.has_names != 0) {
            out.strangers_.push_back(job.id);
        }
    });
    auto ready = out.wish();
    ready = ready ? allow_common_unix(out.outer_("unix_rules")) : ready;
    if (!ready) {
        return std::unexpected(ready.error());
    }
    return out;
}

std::size_t Jobs::count() const {
    std::size_t out = 0;
    for (std::uint32_t i = 0; i < EGRESS_MAX_JOBS; ++i) {
        out += std::atomic_ref(at(i).id).load() != 0 ? 1 : 0;
    }
    return out;
}

std::expected<std::uint32_t, Jobs::Failure> Jobs::reserve(const Asker& asker) {
    std::size_t used = 0;
    std::size_t own = 0;
    std::optional<std::uint32_t> free;
    for (std::uint32_t i = 0; i < EGRESS_MAX_JOBS; ++i) {
        if (std::atomic_ref(at(i).id).load() != 0) {
            ++used;
            own += asker.user_of(at(i).uid) == asker.user_of(asker.uid) ? 1 : 0;
        } else if (!free || (!ready_.contains(*free) && ready_.contains(i))) {
            free = i;
        }
    }
    if (asker.uid != 0 && own >= of_user) {
        return std::unexpected(
            Failure{Refused::user_has_share,
                    fmt::format("uid {} has {} runs already, which is the share of one user",
                                asker.uid, own)});
    }
    const std::size_t left = asker.uid == 0 ? 0 : for_root + (own > 0 ? for_first : 0);
    if (!free || used >= EGRESS_MAX_JOBS - left) {
        const char* const left_to = asker.uid == 0 ? ""
                                    : own > 0
                                        ? ", some of them for root and for users without a run"
                                        : ", some of them for root";
        return std::unexpected(
            Failure{Refused::full, fmt::format("too many runs: {} go on, and {} is the most{}",
                                               used, EGRESS_MAX_JOBS, left_to)});
    }
    auto& job = at(*free);
    // Another id than the last one of this slot, and never 0 or the one of unknown processes.
    constexpr std::uint32_t most = 0x7fffffffU / EGRESS_ALL_SLOTS;
    const auto id =
        (job.last / EGRESS_ALL_SLOTS % most + 1) * EGRESS_ALL_SLOTS + slot_number(*free);
    const std::uint64_t tick = EGRESS_SECOND / static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
    job.last = id;
    job.flags = asker.flags;
    job.uid = asker.uid;
    job.processes = 0;
    job.refused = 0;
    job.earliest = asker.started * tick;
    job.latest = job.earliest + tick;
    job.has_names = 0;
    std::atomic_ref(job.joined).store(EGRESS_JOIN_ASKED);
    std::atomic_ref(job.id).store(id);
    std::atomic_ref(config_->jobs).fetch_add(1);
    return id;
}

bool Jobs::has_strangers() const {
    return std::ranges::any_of(strangers_,
                               [this](std::uint32_t id) { return find(id).has_value(); });
}

bool Jobs::has_names() const {
    return !names_.empty() || has_strangers();
}

Jobs::Names Jobs::names_of(const Tables& tables, std::uint32_t flags) {
    Names out;
    for (const auto& bucket : tables.names) {
        for (int i = 0; i < EGRESS_NAMES_WAYS; ++i) {
            if (bucket.keys[i] != 0) {
                out[bucket.keys[i]] = 1 | (bucket.indexes[i] & ~EGRESS_NAME_INDEX);
            }
        }
    }
    // A run that learns reports the names of all that it reaches.
    if (tables.base->has_resolved != 0 || (flags & EGRESS_JOB_LEARNS) != 0) {
        out[EGRESS_ANY_NAME] = 1 | tables.base->has_resolved;
    }
    return out;
}

/// Brings the kernel's table to what the jobs name now. The names of jobs that an egressd before
/// began stay until the last of those jobs is over: the table does not say which job named which.
Result<> Jobs::wish() const {
    Names wanted;
    for (const auto& [id, names] : names_) {
        for (const auto& [key, value] : names) {
            wanted[key] |= value;
        }
    }
    const int map = outer_("job_names");
    std::vector<std::uint64_t> present;
    present.reserve(EGRESS_MAX_JOB_NAMES); // `last` points into it
    const std::uint64_t* last = nullptr;
    for (std::uint64_t next = 0;
         present.size() < EGRESS_MAX_JOB_NAMES && bpf_map_get_next_key(map, last, &next) == 0;) {
        present.push_back(next);
        last = &present.back();
    }
    for (const auto key : present) {
        if (!wanted.contains(key) && !has_strangers()) {
            bpf_map_delete_elem(map, &key);
        }
    }
    for (const auto& [key, value] : wanted) {
        if (bpf_map_update_elem(map, &key, &value, BPF_ANY) < 0) {
            return fail_errno("cannot tell the kernel the names of a run");
        }
    }
    std::atomic_ref reads(config_->reads_names);
    if (has_names()) {
        reads.fetch_or(EGRESS_READS_JOB_NAMES);
    } else {
        reads.fetch_and(~std::uint32_t{EGRESS_READS_JOB_NAMES});
    }
    return {};
}

/// Those of jobs that are over make room first.
Result<> Jobs::allow_sockets(std::uint32_t id, const std::vector<std::string>& names) const {
    const int map = outer_("unix_rules");
    forget_unix(map, [this](std::uint32_t job) { return find(job).has_value(); });
    return allow_unix(map, id, names);
}

void Jobs::forget_names() {
    const auto before = names_.size() + strangers_.size();
    std::erase_if(names_, [this](const auto& each) { return !find(each.first); });
    std::erase_if(strangers_, [this](std::uint32_t id) { return !find(id); });
    if (before != names_.size() + strangers_.size()) {
        (void)wish(); // it only removes
    }
}

void Jobs::release(std::uint32_t number, std::uint32_t id) {
    if (std::atomic_ref(at(number).id).compare_exchange_strong(id, 0)) {
        std::atomic_ref(config_->jobs).fetch_sub(1);
    }
}

Result<KeptSlot*> Jobs::slot_of(std::uint32_t number) {
    const auto found = ready_.find(number);
    if (found != ready_.end()) {
        return &found->second;
    }
    auto made = KeptSlot::make(slot_number(number), outer_);
    if (!made) {
        return std::unexpected(made.error());
    }
    return &ready_.insert_or_assign(number, std::move(*made)).first->second;
}

std::expected<std::uint32_t, Jobs::Failure> Jobs::begin(const Asker& asker,
                                                        const Compile& compile) {
    const auto id = reserve(asker);
    if (!id) {
        return id;
    }
    const std::uint32_t number = *id % EGRESS_MAX_JOBS;
    auto& job = at(number);
    const auto give_up = [&](Failure failure) {
        std::atomic_ref(job.joined).store(EGRESS_JOIN_ANOTHER);
        release(number, *id);
        forget_names();
        return std::unexpected(std::move(failure));
    };
    const auto tables = compile(EGRESS_JOB_GENERATION(std::uint64_t{*id}));
    if (!tables) {
        return give_up({Refused::failed, tables.error().text});
    }
    auto slot = slot_of(number);
    const auto filled = slot ? (*slot)->fill(*tables) : std::unexpected(slot.error());
    if (!filled) {
        return give_up({Refused::failed, filled.error().text});
    }
    if (auto names = names_of(*tables, asker.flags); !names.empty()) {
        job.has_names = 1;
        names_[*id] = std::move(names);
        if (const auto wished = wish(); !wished) {
            return give_up({Refused::failed, wished.error().text});
        }
    }
    if (const auto allowed = allow_sockets(*id, asker.sockets); !allowed) {
        return give_up({Refused::failed, allowed.error().text});
    }
    std::atomic_ref(config_->joining).store(*id);
    const auto walked = walk_(asker.pid);
    std::atomic_ref(config_->joining).store(0);
    const auto joined = std::atomic_ref(job.joined).load();
    if (joined != EGRESS_JOIN_DONE) {
        return give_up(walked ? failure_of(joined)
                              : Failure{Refused::no_process, walked.error().text});
    }
    return id;
}

Result<> Jobs::make_ready() {
    std::optional<std::uint32_t> bare;
    for (std::uint32_t i = 0; i < EGRESS_MAX_JOBS; ++i) {
        if (std::atomic_ref(at(i).id).load() != 0) {
            continue;
        }
        if (ready_.contains(i)) {
            return {};
        }
        bare = bare ? bare : i;
    }
    if (!bare) {
        return {};
    }
    const auto made = slot_of(*bare);
    return made ? Result<>() : std::unexpected(made.error());
}

std::string Jobs::socket_of(const egress_flow& flow) const {
    return unix_name_of(outer_("unix_names"), flow);
}

void Jobs::tidy() {
    for (std::uint32_t i = 0; i < EGRESS_MAX_JOBS; ++i) {
        const auto id = std::atomic_ref(at(i).id).load();
        if (id != 0 && is_over(at(i))) {
            release(i, id);
        }
    }
}

void Jobs::each(const std::function<void(const egress_job&)>& what) const {
    for (std::uint32_t i = 0; i < EGRESS_MAX_JOBS; ++i) {
        if (std::atomic_ref(at(i).id).load() != 0) {
            what(at(i));
        }
    }
}

std::optional<egress_job> Jobs::find(std::uint32_t id) const {
    const auto& job = at(id % EGRESS_MAX_JOBS);
    return id != 0 && job.id == id ? std::optional(job) : std::nullopt;
}

} // namespace egress::bpf

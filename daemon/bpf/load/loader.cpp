#include "daemon/bpf/load/loader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <ctime>
#include <numeric>
#include <sstream>
#include <utility>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/as_owner.h"
#include "daemon/base/log.h"
#include "daemon/bpf/load/install.h"
#include "daemon/bpf/load/jobs.h"
#include "daemon/bpf/load/limits.h"
#include "daemon/bpf/load/map.h"
#include "daemon/bpf/load/percpu.h"
#include "daemon/bpf/load/ring.h"
#include "daemon/bpf/load/tiers.h"
#include "daemon/bpf/pins.h"
#include "daemon/bpf/tables/host.h"
#include "lib/fd.h"

#include "egress.skel.h"

namespace egress::bpf {

namespace {

struct CloseSkeleton {
    void operator()(egress_bpf* skeleton) const { egress_bpf__destroy(skeleton); }
};
struct CloseLink {
    void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
using Link = std::unique_ptr<bpf_link, CloseLink>;
using Skeleton = std::unique_ptr<egress_bpf, CloseSkeleton>;

/// Where print() stores libbpf's messages of this thread; null: nowhere.
thread_local std::vector<std::string>* remarks_of_thread = nullptr;
constexpr std::size_t most_remarks = 1000;

int print(libbpf_print_level level, const char* format, va_list arguments) {
    auto* const remarks = remarks_of_thread;
    if (level != LIBBPF_WARN || remarks == nullptr || remarks->size() >= most_remarks) {
        return 0;
    }
    va_list again;
    va_copy(again, arguments);
    const int length = std::vsnprintf(nullptr, 0, format, again);
    va_end(again);
    std::string text(length > 0 ? static_cast<std::size_t>(length) : 0, '\0');
    std::vsnprintf(text.data(), text.size() + 1, format, arguments);
    // The last lines of the verifier's log have its objection.
    constexpr int most_lines = 8;
    std::size_t from = text.size();
    for (int lines = 0; from > 0 && lines < most_lines; ++lines) {
        const auto before = from > 1 ? text.rfind('\n', from - 2) : std::string::npos;
        from = before == std::string::npos ? 0 : before + 1;
    }
    std::istringstream rest(text.substr(from));
    for (std::string line; std::getline(rest, line);) {
        if (!line.empty() && !line.starts_with("-- END")) {
            remarks->push_back(escape(line));
        }
    }
    return 0;
}

std::string pin_of(const std::string& pins, std::string_view name) {
    return fmt::format("{}/{}", pins, name);
}

std::string pin_of_link(const std::string& pins, std::string_view program) {
    return fmt::format("{}/link_{}", pins, program);
}

} // namespace

struct Loader::Kernel {
    std::vector<std::pair<std::string, Fd>> maps;
    std::unique_ptr<Ring> ring;
    std::unique_ptr<Ring> told;
    Fd mark;               ///< program that marks the process of a self-test
    Fd join;               ///< program that puts a process into its job
    Fd whose;              ///< program that tells a process' job
    Fd unfold, unfold_all; ///< programs that turn repeats into events
    Fd files;              ///< program that identifies files
    Readers readers;
    /// No verdict uses the previous policy any more, and its memory is free.
    bool left = false;
    egress_config* config = nullptr; ///< mapped
    GrantSets grants;
    Jobs jobs;

    /// Descriptor of the map of that name, which must exist.
    int map(std::string_view name) const {
        const auto found =
            std::ranges::find(maps, name, [](const auto& each) { return each.first; });
        return found == maps.end() ? -1 : found->second.get();
    }
    ~Kernel() {
        if (config != nullptr) {
            munmap(config, sizeof *config);
        }
    }
};

Loader::Loader(LoaderOptions options)
    : options_(std::move(options)), kernel_(std::make_unique<Kernel>()) {}
Loader::~Loader() = default;

Result<std::unique_ptr<Loader>> Loader::start(const LoaderOptions& options) {
    libbpf_set_print(print);
    std::unique_ptr<Loader> loader(new Loader(options));
    remarks_of_thread = &loader->remarks_;
    // libbpf's own copy of programs and types takes ten times what is used afterwards. Pinned
    // objects stay when it is freed.
    Skeleton skeleton(egress_bpf__open());
    // New processes first, then the running ones: so the daemon misses no process, and the sweep
    // never overwrites what a hook has written.
    auto there = pinned_abi(options.pins);
    Result<> done;
    if (there && *there != EGRESS_ABI) {
        // It stays in force until the first policy of this version is in force beside it.
        log::notice("egress", "{} is another version's: that guards until the rules are in force",
                    options.pins);
        done = set_pins_aside(options.pins, *there);
        there.reset();
    }
    const bool adopted = there.has_value();
    done = !done      ? done
           : skeleton ? loader->load(*skeleton)
                      : fail_errno("cannot open the kernel side");
    done = done ? walk_processes(bpf_program__fd(skeleton->progs.egress_host)) : done;
    done = done ? loader->attach(skeleton->obj) : done;
    done = done ? walk_processes(bpf_program__fd(skeleton->progs.egress_sweep)) : done;
    done = done ? walk_processes(bpf_program__fd(skeleton->progs.egress_lineage)) : done;
    done = done ? walk_processes(bpf_program__fd(skeleton->progs.egress_sockets)) : done;
    remarks_of_thread = nullptr;
    if (!done) {
        if (!adopted) {
            (void)remove_own_pins(options.pins); // half of them would protect nothing
        }
        return fail(done.error().text + loader->last_remarks(), done.error().code);
    }
    return loader;
}

/// The last messages of libbpf and the kernel, which show why they refused.
std::string Loader::last_remarks() const {
    constexpr std::size_t most = 8;
    std::string out;
    const std::size_t from = remarks_.size() > most ? remarks_.size() - most : 0;
    for (std::size_t i = from; i < remarks_.size(); ++i) {
        out += (out.empty() ? " (" : "; ") + remarks_[i];
    }
    return out.empty() ? out : out + ")";
}

Result<> Loader::load(egress_bpf& skeleton) {
    if (access(options_.cgroup.c_str(), R_OK) != 0) {
        return fail_errno("cannot open the cgroup \"" + options_.cgroup +
                          "\" (-G names another; a cgroup2 hierarchy has to be mounted)");
    }
    if (mkdir(options_.pins.c_str(), 0700) < 0 && errno != EEXIST) {
        return fail_errno("cannot make " + options_.pins +
                          " (is a bpf file system mounted there?)");
    }
    const AsOwner owner(options_.pins);
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, skeleton.obj) {
        const std::string_view name = bpf_map__name(map);
        if (!bpf_map__is_internal(map) && name != "scratch" && name != "namings" &&
            name != "counts" && name != "contained" && name != "whose" && name != "cgroup_rules" &&
            name != "rooms") {
            bpf_map__set_pin_path(map, pin_of(options_.pins, name).c_str());
        }
    }
    const auto inner_maps = describe_inner_maps(skeleton.obj);
    if (!inner_maps) {
        return std::unexpected(inner_maps.error());
    }
    const PerCpu cpu = find_per_cpu();
    skeleton.rodata->count_from_queue = cpu.count;
    skeleton.rodata->task_from_queue = cpu.task;
    skeleton.rodata->host_cgroup = id_of_cgroup(cgroup_root()).value_or(0);
    skeleton.rodata->trust_ticks = ticks_of_a_second();
    bpf_map__set_max_entries(
        skeleton.maps.processes,
        pinned_entries(pin_of(options_.pins, "processes")).value_or(processes_possible()));
    coverage_ = choose_tiers(skeleton.obj);
    if (const int code = egress_bpf__load(&skeleton); code != 0) {
        return fail_errno("the kernel does not take the programs", -code);
    }
    if (auto filled = fill_namings(bpf_map__fd(skeleton.maps.namings)); !filled) {
        return filled;
    }
    const auto keep = [](Fd& into, const bpf_program* program) {
        into.reset(fcntl(bpf_program__fd(program), F_DUPFD_CLOEXEC, 0));
    };
    keep(kernel_->mark, skeleton.progs.egress_mark);
    keep(kernel_->join, skeleton.progs.egress_join);
    keep(kernel_->whose, skeleton.progs.egress_whose);
    keep(kernel_->unfold, skeleton.progs.egress_unfold);
    keep(kernel_->unfold_all, skeleton.progs.egress_unfold_all);
    keep(kernel_->files, skeleton.progs.egress_files);
    if (auto taken = take_maps(skeleton.obj); !taken) {
        return taken;
    }
    auto readers = Readers::make();
    if (!readers) {
        return std::unexpected(readers.error());
    }
    kernel_->readers = std::move(*readers);
    void* const config = mmap(nullptr, sizeof(egress_config), PROT_READ | PROT_WRITE, MAP_SHARED,
                              kernel_->map("config"), 0);
    if (config == MAP_FAILED) {
        return fail_errno("cannot map the kernel's settings");
    }
    kernel_->config = static_cast<egress_config*>(config);
    if (auto grants = GrantSets::open(kernel_->map("grants"))) {
        kernel_->grants = std::move(*grants);
    } else {
        return std::unexpected(grants.error());
    }
    auto jobs = Jobs::open(
        [raw = kernel_.get()](std::string_view name) { return raw->map(name); }, kernel_->config,
        [raw = kernel_.get()](std::uint32_t pid) { return walk_processes(raw->join.get(), pid); });
    if (!jobs) {
        return std::unexpected(jobs.error());
    }
    kernel_->jobs = std::move(*jobs);
    kernel_->config->abi = EGRESS_ABI;
    kernel_->config->monitor = options_.monitor ? 1 : 0;
    kernel_->config->fold_interval = 10'000'000'000ULL;
    auto& key = kernel_->config->path_key;
    if (key[0] == 0 && key[1] == 0 &&
        getrandom(key, sizeof key, 0) != static_cast<ssize_t>(sizeof key)) {
        return fail_errno("cannot draw a key for the paths of programs");
    }
    for (const auto& [name, into] :
         {std::pair("events", &kernel_->ring), std::pair("told", &kernel_->told)}) {
        auto ring = Ring::open(Fd(fcntl(kernel_->map(name), F_DUPFD_CLOEXEC, 0)));
        if (!ring) {
            return std::unexpected(ring.error());
        }
        *into = std::move(*ring);
    }
    return {};
}

Result<> Loader::take_maps(bpf_object* object) {
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, object) {
        Fd own(fcntl(bpf_map__fd(map), F_DUPFD_CLOEXEC, 0));
        if (!own) {
            return fail_errno("cannot keep the kernel's tables");
        }
        kernel_->maps.emplace_back(bpf_map__name(map), std::move(own));
    }
    return {};
}

Result<> Loader::attach(bpf_object* object) {
    const Fd cgroup(open(options_.cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (cgroup.get() < 0) {
        return fail_errno("cannot open the cgroup " + options_.cgroup);
    }
    const AsOwner owner(options_.pins);
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object) {
        const std::string name = bpf_program__name(program);
        const bool for_cgroup = bpf_program__type(program) != BPF_PROG_TYPE_TRACING;
        if (bpf_program__type(program) == BPF_PROG_TYPE_TRACING &&
            bpf_program__expected_attach_type(program) == BPF_TRACE_ITER) {
            continue;
        }
        if (!bpf_program__autoload(program)) {
            continue; // this kernel uses another one for the job, or none
        }
        const std::string pin = pin_of_link(options_.pins, name);
        Link before(bpf_link__open(pin.c_str()));
        if (before && for_cgroup) {
            if (bpf_link__update_program(before.get(), program) == 0) {
                coverage_.push_back({name, true, "", for_cgroup});
                continue;
            }
        }
        Link link(for_cgroup ? bpf_program__attach_cgroup(program, cgroup.get())
                             : bpf_program__attach(program));
        if (!link) {
            coverage_.push_back({name, false, std::strerror(errno), for_cgroup});
            continue;
        }
        // The old link goes with its last descriptor, after the new one is attached.
        unlink(pin.c_str());
        if (const int code = bpf_link__pin(link.get(), pin.c_str()); code != 0) {
            return fail_errno("cannot pin " + pin, -code);
        }
        coverage_.push_back({name, true, "", for_cgroup});
    }
    return {};
}

/// `pid` not 0: for that process only.
Result<> Loader::walk_processes(int program, std::uint32_t pid) {
    bpf_iter_link_info only{};
    only.task.pid = pid;
    const auto walked =
        walk(program, pid == 0 ? nullptr : &only, "cannot walk the processes that run");
    return walked ? Result<>() : std::unexpected(walked.error());
}

Result<> Loader::unfold(bool all) {
    bpf_iter_link_info folds{};
    folds.map.map_fd = static_cast<std::uint32_t>(kernel_->map("folds"));
    const auto& program = all ? kernel_->unfold_all : kernel_->unfold;
    const auto walked = walk(program.get(), &folds, "cannot walk the repeats that were folded");
    return walked ? Result<>() : std::unexpected(walked.error());
}

Result<std::vector<egress_named>> Loader::name_files() const {
    bpf_iter_link_info own{};
    own.task.pid = static_cast<std::uint32_t>(getpid());
    const auto bytes = walk(kernel_->files.get(), &own, "cannot ask the kernel for names of files");
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    std::vector<egress_named> out(bytes->size() / sizeof(egress_named));
    std::memcpy(out.data(), bytes->data(), out.size() * sizeof(egress_named));
    return out;
}

Result<std::vector<std::byte>> Loader::walk(int program, const bpf_iter_link_info* info,
                                            const char* what) {
    bpf_link_create_opts options{};
    options.sz = sizeof options;
    options.iter_info = const_cast<bpf_iter_link_info*>(info);
    options.iter_info_len = info == nullptr ? 0 : sizeof *info;
    const Fd link(bpf_link_create(program, 0, BPF_TRACE_ITER, &options));
    const Fd walk(link ? bpf_iter_create(link.get()) : -1);
    if (!walk) {
        return fail_errno(what);
    }
    std::vector<std::byte> out;
    std::byte some[16384];
    ssize_t got = 0;
    while ((got = read(walk.get(), some, sizeof some)) > 0 || (got < 0 && errno == EAGAIN)) {
        out.insert(out.end(), some, some + std::max<ssize_t>(got, 0));
    }
    return got == 0 ? Result<std::vector<std::byte>>(std::move(out)) : fail_errno(what);
}

Result<> Loader::install(const Tables& tables) {
    const auto slot = static_cast<std::uint32_t>(tables.base->generation % EGRESS_SLOTS);
    // If a daemon died at this very point, a verdict that began under this slot's policy may still
    // run.
    if (auto left = kernel_->left ? Result<>() : kernel_->readers.wait(); !left) {
        return left;
    }
    const auto outer = [this](std::string_view name) { return kernel_->map(name); };
    if (auto filled = fill_slot(tables, slot, outer); !filled) {
        empty_slot(slot, outer);
        return filled;
    }
    kernel_->left = false;
    // What either policy needs is done while one gives way to the other.
    std::atomic_ref reads(kernel_->config->reads_names);
    reads.fetch_or(tables.base->has_names != 0 ? EGRESS_READS_NAMES : 0);
    std::atomic_ref lists(kernel_->config->lists_questions);
    std::atomic_ref(kernel_->config->judges_unix).fetch_or(tables.has_sockets);
    lists.store(lists.load() | tables.base->lists_questions);
    std::atomic_ref(kernel_->config->generation)
        .store(tables.base->generation, std::memory_order_release);
    lists.store(tables.base->lists_questions);
    std::atomic_ref(kernel_->config->judges_unix).store(tables.has_sockets);
    reads.fetch_and(tables.base->has_names != 0 ? ~0U : ~std::uint32_t{EGRESS_READS_NAMES});
    return {}; // in force: nothing after this may fail
}

Result<> Loader::tidy() {
    if (!kernel_->left) {
        if (auto left = kernel_->readers.wait(); !left) {
            return left;
        }
        const auto before = static_cast<std::uint32_t>((generation() + 1) % EGRESS_SLOTS);
        empty_slot(before, [this](std::string_view name) { return kernel_->map(name); });
        kernel_->left = true;
    }
    const auto removed = remove_pins_set_aside(options_.pins);
    return removed ? Result<>() : std::unexpected(removed.error());
}

Result<> Loader::set_answers(const std::vector<Endpoint>& resolvers, Seconds grace) {
    std::atomic_ref(kernel_->config->dns_grace)
        .store(static_cast<std::uint64_t>(grace) * EGRESS_SECOND);
    return set_resolvers(kernel_->map("resolvers"), resolvers);
}

JobOf Loader::job_of(std::uint32_t pid) const {
    const std::uint32_t zero = 0;
    std::uint32_t answer = ~0U;
    if (std::atomic_ref(kernel_->config->jobs).load() == 0) {
        return JobOf::none;
    }
    const int map = kernel_->map("whose");
    bpf_map_update_elem(map, &zero, &answer, BPF_ANY);
    (void)walk_processes(kernel_->whose.get(), pid); // ESRCH: it is gone
    bpf_map_lookup_elem(map, &zero, &answer);
    return answer == 0 ? JobOf::none : answer == ~0U ? JobOf::unknown : JobOf::some;
}

Jobs& Loader::jobs() {
    return kernel_->jobs;
}

const Jobs& Loader::jobs() const {
    return kernel_->jobs;
}

const GrantSets& Loader::grants() const {
    return kernel_->grants;
}

std::uint64_t Loader::next_generation() const {
    return kernel_->config->generation + 1;
}

std::uint64_t Loader::generation() const {
    return kernel_->config->generation;
}

InForce Loader::in_force() const {
    return {generation(), kernel_->config->monitor != 0, others_set_aside(options_.pins),
            std::atomic_ref(kernel_->config->jobs).load() != 0};
}

std::vector<Coverage> Loader::coverage() const {
    auto out = coverage_;
    for (auto& hook : out) {
        if (const auto why = hook.attached ? why_detached(pin_of_link(options_.pins, hook.hook))
                                           : std::nullopt) {
            hook.attached = false;
            hook.why = *why;
        }
    }
    return out;
}

void Loader::set_week_at_boot(std::uint64_t at_boot) {
    std::atomic_ref(kernel_->config->week_at_boot).store(at_boot);
}

bool Loader::canary_lives() const {
    const auto& config = *kernel_->config;
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    const auto at = static_cast<std::uint64_t>(now.tv_sec) * EGRESS_SECOND +
                    static_cast<std::uint64_t>(now.tv_nsec);
    const auto known =
        config.canary != 0 && at < config.canary_until ? process(config.canary) : std::nullopt;
    return known && known->started == config.canary_started;
}

Reply Loader::mark_canary(std::uint32_t pid, std::uint64_t start, bool only_note) {
    if (canary_lives()) {
        return {Answered::busy, "another process tests the hooks"};
    }
    auto& config = *kernel_->config;
    config.canary = 0;
    if (auto walked = walk_processes(kernel_->mark.get(), pid); !walked) {
        return {Answered::failed, walked.error().text};
    }
    const auto ticks = static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK));
    if (config.canary == 0 || config.canary_started / (EGRESS_SECOND / ticks) != start) {
        config.canary = 0;
        return {Answered::no_process, "the process is not there"};
    }
    if (only_note) {
        config.canary_until = 0;
    }
    return {};
}

std::optional<std::uint64_t> Loader::unmark_canary() {
    auto& config = *kernel_->config;
    if (std::exchange(config.canary, 0) == 0) {
        return std::nullopt;
    }
    return std::atomic_ref(config.canary_refused).load();
}

int Loader::event_fd() const {
    return kernel_->ring->fd();
}

std::size_t Loader::read_events(std::size_t most, const OnEvent& on_event) {
    return kernel_->ring->read(most, [&](std::span<const std::byte> record) {
        if (record.size() >= sizeof(egress_event)) {
            on_event(*reinterpret_cast<const egress_event*>(record.data()));
        }
    });
}

int Loader::told_fd() const {
    return kernel_->told->fd();
}

std::size_t Loader::read_told(std::size_t most, const OnTold& on_told) {
    constexpr auto head = offsetof(egress_told, addresses);
    return kernel_->told->read(most, [&](std::span<const std::byte> record) {
        const auto* const told = reinterpret_cast<const egress_told*>(record.data());
        if (record.size() >= head &&
            told->addresses_used <= (record.size() - head) / sizeof(egress_told_address)) {
            on_told(*told);
        }
    });
}

void Loader::tick() {
    kernel_->ring->rest();
    kernel_->told->rest();
}

KernelCounters Loader::counters() const {
    KernelCounters out;
    for (std::uint32_t i = 0; i < EGRESS_LOSSES; ++i) {
        out.losses_by_cpu[i] = each_cpu(kernel_->map("losses"), i);
        out.losses[i] = std::accumulate(out.losses_by_cpu[i].begin(), out.losses_by_cpu[i].end(),
                                        std::uint64_t{0});
    }
    out.waiting = kernel_->ring->waiting();
    out.sequence = std::atomic_ref(kernel_->config->sequence).load();
    for (std::uint32_t i = 0; i < EGRESS_HOOKS; ++i) {
        out.looks[i] = sum_over_cpus(kernel_->map("looks"), i);
    }
    for (std::uint32_t i = 0; i < EGRESS_DNS_OUTCOMES; ++i) {
        out.dns[i] = sum_over_cpus(kernel_->map("dns_outcomes"), i);
    }
    return out;
}

std::uint64_t Loader::unreported_losses() const {
    return sum_over_cpus(kernel_->map("losses"), EGRESS_LOST_RING) - kernel_->config->losses_told;
}

void Loader::note_reported_losses(std::uint64_t more) {
    kernel_->config->losses_told += more;
}

std::optional<egress_process> Loader::process(std::uint32_t tgid) const {
    egress_process process{};
    const int map = kernel_->map("processes");
    return bpf_map_lookup_elem(map, &tgid, &process) == 0 ? std::optional(process) : std::nullopt;
}

void Loader::each_process(const std::function<void(const egress_process&)>& what) const {
    const int map = kernel_->map("processes");
    bpf_map_info info{};
    std::uint32_t length = sizeof info;
    if (bpf_obj_get_info_by_fd(map, &info, &length) < 0) {
        return;
    }
    std::uint32_t key = 0;
    std::uint32_t next = 0;
    // Entries come and go meanwhile, and after a removed key the walk restarts: hence the bound.
    int code = bpf_map_get_next_key(map, nullptr, &next);
    for (std::uint32_t i = 0; code == 0 && i < info.max_entries; ++i) {
        if (const auto found = process(next)) {
            what(*found);
        }
        key = next;
        code = bpf_map_get_next_key(map, &key, &next);
    }
}

egress_config Loader::settings() const {
    return *kernel_->config;
}

std::string Loader::path_of(const egress_file& file) const {
    char path[EGRESS_PATH_SIZE] = {};
    if (bpf_map_lookup_elem(kernel_->map("paths"), &file, path) < 0) {
        return {};
    }
    path[sizeof path - 1] = '\0';
    return path;
}

} // namespace egress::bpf

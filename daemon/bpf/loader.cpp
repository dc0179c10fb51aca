#include "daemon/bpf/loader.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/bpf/install.h"
#include "daemon/bpf/map.h"
#include "daemon/bpf/pins.h"
#include "daemon/log.h"
#include "lib/fd.h"

#include "egress.skel.h"

namespace egress::bpf {

namespace {

struct CloseSkeleton {
    void operator()(egress_bpf* skeleton) const { egress_bpf__destroy(skeleton); }
};
struct FreeRing {
    void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
};
struct CloseLink {
    void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
using Link = std::unique_ptr<bpf_link, CloseLink>;

/// What libbpf has to say goes to the log.
int print(libbpf_print_level level, const char* format, va_list arguments) {
    if (level != LIBBPF_WARN) {
        return 0;
    }
    char text[512];
    std::vsnprintf(text, sizeof text, format, arguments);
    for (std::string_view line = text; !line.empty();) {
        const auto end = line.find('\n');
        if (line.find("-- BEGIN") == std::string_view::npos && line.substr(0, end).size() > 0) {
            const std::string safe = escape(line.substr(0, end));
            log::debug("kernel", "{}", safe);
        }
        line = end == std::string_view::npos ? std::string_view() : line.substr(end + 1);
    }
    return 0;
}

/// Links that have to be there all the time are replaced by the new before the old goes.
std::string pin_of(const std::string& pins, std::string_view name) {
    return fmt::format("{}/{}", pins, name);
}

} // namespace

struct Loader::Kernel {
    std::unique_ptr<egress_bpf, CloseSkeleton> skeleton;
    std::unique_ptr<ring_buffer, FreeRing> ring;
    std::vector<Link> links;
    egress_config* config = nullptr; ///< mapped
    const OnEvent* on_event = nullptr;
    std::size_t left = 0; ///< events that may still be read in this turn

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
    // New processes first, then those that were there: none is missed, and what a hook has seen is
    // never overwritten.
    const bool adopted = access(pin_of(options.pins, "config").c_str(), F_OK) == 0;
    auto done = loader->load();
    if (!done) {
        return std::unexpected(done.error());
    }
    const auto& programs = loader->kernel_->skeleton->progs;
    done = done ? loader->walk_processes(programs.egress_host) : done;
    done = done ? loader->attach() : done;
    done = done ? loader->walk_processes(programs.egress_sweep) : done;
    if (!done) {
        if (!adopted) {
            (void)remove_pins(options.pins); // half of it would guard nobody
        }
        return std::unexpected(done.error());
    }
    return loader;
}

Result<> Loader::load() {
    if (access(options_.cgroup.c_str(), R_OK) != 0) {
        return fail_errno("cannot open the cgroup \"" + options_.cgroup +
                          "\" (-G names another; a cgroup2 hierarchy has to be mounted)");
    }
    if (mkdir(options_.pins.c_str(), 0700) < 0 && errno != EEXIST) {
        return fail_errno("cannot make " + options_.pins +
                          " (is a bpf file system mounted there?)");
    }
    kernel_->skeleton.reset(egress_bpf__open());
    if (!kernel_->skeleton) {
        return fail_errno("cannot open the kernel half");
    }
    bpf_map* map = nullptr;
    bpf_object__for_each_map(map, kernel_->skeleton->obj) {
        const std::string_view name = bpf_map__name(map);
        if (!bpf_map__is_internal(map) && name != "scratch") {
            bpf_map__set_pin_path(map, pin_of(options_.pins, name).c_str());
        }
    }
    if (const int code = egress_bpf__load(kernel_->skeleton.get()); code != 0) {
        return fail_errno("the kernel does not take the programs", -code);
    }
    const auto& maps = kernel_->skeleton->maps;
    void* const config = mmap(nullptr, sizeof(egress_config), PROT_READ | PROT_WRITE, MAP_SHARED,
                              bpf_map__fd(maps.config), 0);
    if (config == MAP_FAILED) {
        return fail_errno("cannot map the kernel's settings");
    }
    kernel_->config = static_cast<egress_config*>(config);
    if (kernel_->config->abi != 0 && kernel_->config->abi != EGRESS_ABI) {
        return fail(fmt::format("{} belongs to another version: \"egressctl detach\" removes it",
                                options_.pins));
    }
    kernel_->config->abi = EGRESS_ABI;
    kernel_->config->monitor = options_.monitor ? 1 : 0;
    kernel_->config->fold_interval = 10'000'000'000ULL;
    kernel_->ring.reset(ring_buffer__new(
        bpf_map__fd(maps.events),
        [](void* context, void* data, std::size_t size) {
            auto& kernel = *static_cast<Kernel*>(context);
            if (size >= sizeof(egress_event)) {
                (*kernel.on_event)(*static_cast<const egress_event*>(data));
            }
            return --kernel.left == 0 ? -1 : 0;
        },
        kernel_.get(), nullptr));
    if (!kernel_->ring) {
        return fail_errno("cannot read the kernel's events");
    }
    return {};
}

Result<> Loader::attach() {
    const Fd cgroup(open(options_.cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (cgroup.get() < 0) {
        return fail_errno("cannot open the cgroup " + options_.cgroup);
    }
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, kernel_->skeleton->obj) {
        const std::string name = bpf_program__name(program);
        const bool for_cgroup =
            std::string_view(bpf_program__section_name(program)).starts_with("cgroup");
        if (bpf_program__type(program) == BPF_PROG_TYPE_TRACING &&
            bpf_program__expected_attach_type(program) == BPF_TRACE_ITER) {
            continue;
        }
        const std::string pin = pin_of(options_.pins, "link_" + name);
        Link before(bpf_link__open(pin.c_str()));
        if (before && for_cgroup) {
            if (bpf_link__update_program(before.get(), program) == 0) {
                coverage_.push_back({name, true, ""});
                kernel_->links.push_back(std::move(before));
                continue;
            }
        }
        Link link(for_cgroup ? bpf_program__attach_cgroup(program, cgroup.get())
                             : bpf_program__attach(program));
        if (!link) {
            coverage_.push_back({name, false, std::strerror(errno)});
            continue;
        }
        unlink(pin.c_str()); // the old one goes with its last descriptor, after the new is there
        if (const int code = bpf_link__pin(link.get(), pin.c_str()); code != 0) {
            return fail_errno("cannot pin " + pin, -code);
        }
        coverage_.push_back({name, true, ""});
        kernel_->links.push_back(std::move(link));
    }
    return {};
}

Result<> Loader::walk_processes(bpf_program* program) {
    const Link link(bpf_program__attach_iter(program, nullptr));
    if (!link) {
        return fail_errno("cannot walk the processes that run");
    }
    const Fd walk(bpf_iter_create(bpf_link__fd(link.get())));
    if (walk.get() < 0) {
        return fail_errno("cannot walk the processes that run", -walk.get());
    }
    char unused[64];
    ssize_t got = 0;
    while ((got = read(walk.get(), unused, sizeof unused)) > 0 || (got < 0 && errno == EAGAIN)) {
    }
    return got == 0 ? Result<>{} : fail_errno("cannot walk the processes that run");
}

Result<> Loader::install(const Tables& tables) {
    const auto slot = static_cast<std::uint32_t>(tables.base->generation % EGRESS_SLOTS);
    const auto outer = [this](std::string_view name) {
        return bpf_object__find_map_fd_by_name(kernel_->skeleton->obj, std::string(name).c_str());
    };
    if (auto filled = fill_slot(tables, slot, outer); !filled) {
        return filled;
    }
    std::atomic_ref(kernel_->config->generation)
        .store(tables.base->generation, std::memory_order_release);
    // Nobody asks the policy before once the kernel has waited for those who began under it; then
    // its memory can go.
    return empty_slot(slot ^ 1, slot, outer);
}

std::uint64_t Loader::next_generation() const {
    return kernel_->config->generation + 1;
}

std::uint64_t Loader::generation() const {
    return kernel_->config->generation;
}

void Loader::set_monitor(bool monitor) {
    std::atomic_ref(kernel_->config->monitor).store(monitor ? 1 : 0);
}

void Loader::set_week_at_boot(std::uint64_t second) {
    std::atomic_ref(kernel_->config->week_at_boot).store(second);
}

int Loader::event_fd() const {
    return ring_buffer__epoll_fd(kernel_->ring.get());
}

std::size_t Loader::read_events(std::size_t most, const OnEvent& on_event) {
    kernel_->on_event = &on_event;
    kernel_->left = most;
    ring_buffer__consume(kernel_->ring.get());
    return most - kernel_->left;
}

KernelCounters Loader::counters() const {
    const auto& maps = kernel_->skeleton->maps;
    KernelCounters out;
    out.sequence = kernel_->config->sequence;
    for (std::uint32_t i = 0; i < EGRESS_LOSSES; ++i) {
        out.losses[i] = sum_over_cpus(bpf_map__fd(maps.losses), i);
    }
    for (std::uint32_t i = 0; i < EGRESS_HOOKS; ++i) {
        out.looks[i] = sum_over_cpus(bpf_map__fd(maps.looks), i);
    }
    return out;
}

std::optional<egress_process> Loader::process(std::uint32_t tgid) const {
    egress_process process{};
    const int map = bpf_map__fd(kernel_->skeleton->maps.processes);
    return bpf_map_lookup_elem(map, &tgid, &process) == 0 ? std::optional(process) : std::nullopt;
}

void Loader::each_process(const std::function<void(const egress_process&)>& what) const {
    const int map = bpf_map__fd(kernel_->skeleton->maps.processes);
    const std::uint32_t most = bpf_map__max_entries(kernel_->skeleton->maps.processes);
    std::uint32_t key = 0;
    std::uint32_t next = 0;
    // Entries come and go meanwhile, and a key that went begins anew: hence the bound.
    int code = bpf_map_get_next_key(map, nullptr, &next);
    for (std::uint32_t i = 0; code == 0 && i < most; ++i) {
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
    if (bpf_map_lookup_elem(bpf_map__fd(kernel_->skeleton->maps.names), &file, path) < 0) {
        return {};
    }
    path[sizeof path - 1] = '\0';
    return path;
}

} // namespace egress::bpf

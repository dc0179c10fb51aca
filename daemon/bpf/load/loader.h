// The kernel half: loaded, attached, pinned, fed with policies.
//
// Everything in the kernel is pinned, so that it outlives the daemon: verdicts go on without it,
// and the next one adopts what it finds. A policy is put beside the one in force and switched to by
// one write, so that every verdict belongs to exactly one of them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/answered.h"
#include "daemon/base/result.h"
#include "daemon/bpf/load/in_force.h"
#include "daemon/bpf/tables/compile.h"

struct bpf_object;
struct bpf_program;
union bpf_iter_link_info;
struct egress_bpf;

namespace egress::bpf {

/// What one hook does on this kernel.
struct Coverage {
    std::string hook;
    bool attached = false;
    std::string why;     ///< not attached: the kernel's reason
    bool judges = false; ///< it decides; the others know who a process is
};

struct LoaderOptions {
    std::string cgroup; ///< directory to attach at
    std::string pins;   ///< directory in a bpf file system
    bool monitor = false;
};

/// Counters of the hooks; see abi.h. They go on over restarts.
struct KernelCounters {
    std::uint64_t sequence = 0; ///< events made, lost ones included
    std::uint64_t losses[EGRESS_LOSSES] = {};
    std::vector<std::uint64_t> losses_by_cpu[EGRESS_LOSSES];
    std::uint64_t waiting = 0; ///< events in the ring
    std::uint64_t looks[EGRESS_HOOKS] = {};
};

class Loader {
  public:
    using OnEvent = std::function<void(const egress_event&)>;

    /// Loads, adopts what is pinned, attaches, pins, and takes in the processes that run. Takes
    /// seconds: not for the loop. Afterwards the policy that was in force before still is, or none.
    static Result<std::unique_ptr<Loader>> start(const LoaderOptions& options);

    ~Loader(); ///< the kernel goes on, as long as the pins are there (pins.h)
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    /// Puts the policy in force; tables.base->generation must be next_generation(). On an error the
    /// one before stays; nothing follows the switch that could fail. Takes time with long lists:
    /// not for the loop.
    Result<> install(const Tables& tables);
    /// Gives back what policies before the one in force took, those of other versions too. On an
    /// error it is to be tried again; the policy in force is in force all the same.
    Result<> tidy();
    std::uint64_t next_generation() const;
    std::uint64_t generation() const; ///< in force; 0: none
    InForce in_force() const;

    void set_monitor(bool monitor);
    /// Second of the local week at zero of the boot clock.
    void set_week_at_boot(std::uint64_t at_boot);

    /// Has every look of a process refused for EGRESS_CANARY_TIME, so that it can test the hooks.
    /// `pid` is its number where the daemon is, `start` when it began, in clock ticks since boot.
    /// With `only_note` it is known in settings() and nothing is refused yet. The answer is never
    /// not_in_force.
    Reply mark_canary(std::uint32_t pid, std::uint64_t start, bool only_note = false);
    /// Ends it; how many looks were refused. Nothing: no process is marked.
    std::optional<std::uint64_t> unmark_canary();

    int event_fd() const; ///< readable when there are events
    /// Hands over at most `most` events; how many there were.
    std::size_t read_events(std::size_t most, const OnEvent& on_event);

    /// Makes events of the repeats that were folded and that no look has followed for an interval,
    /// or of `all` that were. Any thread's; a millisecond or two.
    Result<> unfold(bool all);

    /// Once a second: memory that only events need is given back while there are none.
    void tick();

    KernelCounters counters() const;
    /// Events that the ring lost and of which no daemon has told yet.
    std::uint64_t untold_losses() const;
    /// The daemon has told of that many more.
    void told_losses(std::uint64_t more);
    /// What libbpf had to say while it loaded, in lines that are safe to log.
    const std::vector<std::string>& remarks() const { return remarks_; }
    /// Each hook as it is now: somebody else may have taken it off.
    std::vector<Coverage> coverage() const;
    /// What the hooks know of a process, by its number in the initial pid namespace.
    std::optional<egress_process> process(std::uint32_t tgid) const;
    void each_process(const std::function<void(const egress_process&)>& what) const;
    egress_config settings() const;                     ///< as they are now
    std::string path_of(const egress_file& file) const; ///< "" where it is not known
    /// What exec would call the files and directories that this process has open with O_PATH.
    Result<std::vector<egress_named>> name_files() const;

  private:
    struct Kernel;
    explicit Loader(LoaderOptions options);
    Result<> load(egress_bpf& object);
    std::string last_remarks() const;
    Result<> take_maps(bpf_object* object);
    Result<> attach(bpf_object* object);
    static Result<> walk_processes(int program, std::uint32_t pid = 0);
    static Result<std::vector<std::byte>> walk(int program, const bpf_iter_link_info* info,
                                               const char* what);
    bool canary_lives() const;

    LoaderOptions options_;
    std::unique_ptr<Kernel> kernel_;
    std::vector<Coverage> coverage_;
    std::vector<std::string> remarks_;
};

} // namespace egress::bpf

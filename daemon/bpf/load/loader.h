// Loads, attaches and pins the kernel side, and installs policies in it.
//
// Everything in the kernel is pinned, so that it outlives the daemon: the hooks go on without one,
// and the next daemon adopts what it finds. The loader puts a policy beside the one in force and
// switches by one write, so that every verdict belongs to exactly one policy.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/answered.h"
#include "daemon/base/clock.h"
#include "daemon/base/result.h"
#include "daemon/bpf/load/answers.h"
#include "daemon/bpf/load/in_force.h"
#include "daemon/bpf/load/jobs.h"
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
    bool judges = false; ///< it decides; the others identify processes
};

struct LoaderOptions {
    std::string cgroup; ///< directory to attach at
    std::string pins;   ///< directory in a bpf file system
    bool monitor = false;
};

/// Counters of the hooks; see abi.h. They continue over restarts.
struct KernelCounters {
    std::uint64_t sequence = 0; ///< events so far, lost ones included
    std::uint64_t losses[EGRESS_LOSSES] = {};
    std::vector<std::uint64_t> losses_by_cpu[EGRESS_LOSSES];
    std::uint64_t waiting = 0; ///< events in the ring
    std::uint64_t looks[EGRESS_HOOKS] = {};
    std::uint64_t dns[EGRESS_DNS_OUTCOMES] = {}; ///< by enum egress_dns
};

/// Whether a process is in a job.
enum class JobOf : std::uint8_t { none, some, unknown };

class Loader {
  public:
    using OnEvent = std::function<void(const egress_event&)>;
    using OnTold = std::function<void(const egress_told&)>;

    /// Loads, adopts the pins, attaches, pins, and records the running processes. Takes seconds:
    /// not for the loop. The policy in force stays in force, if there is one.
    static Result<std::unique_ptr<Loader>> start(const LoaderOptions& options);

    ~Loader(); ///< the kernel side goes on while the pins exist (pins.h)
    Loader(const Loader&) = delete;
    Loader& operator=(const Loader&) = delete;

    /// Puts the policy in force; tables.base->generation must be next_generation(). On an error the
    /// previous one stays; nothing after the switch can fail. Takes long with long lists: not for
    /// the loop.
    Result<> install(const Tables& tables);
    /// Frees what earlier policies use, those of other versions included. On an error call it
    /// again; the policy in force is not affected.
    Result<> tidy();
    std::uint64_t next_generation() const;
    std::uint64_t generation() const; ///< in force; 0: none
    InForce in_force() const;

    /// Whose answers count from now on, and how long they hold after their TTL.
    Result<> set_answers(const std::vector<Endpoint>& resolvers, Seconds grace);
    const GrantSets& grants() const;

    /// Second of the local week when the boot clock was 0.
    void set_week_at_boot(std::uint64_t at_boot);

    /// Has the hooks refuse every check of a process for EGRESS_CANARY_TIME, so that it can test
    /// them. `pid` is its number in the daemon's pid namespace, `start` its start in clock ticks
    /// since boot. With `only_note` settings() shows it and nothing is refused yet. Never replies
    /// not_in_force.
    Reply mark_canary(std::uint32_t pid, std::uint64_t start, bool only_note = false);
    /// Ends it and returns how many checks were refused; nullopt: no process is marked.
    std::optional<std::uint64_t> unmark_canary();

    /// Of a process, by its number in the daemon's pid namespace; unknown: it is gone, or new to
    /// the hooks. For the loop's thread only.
    JobOf job_of(std::uint32_t pid) const;
    /// The jobs of egressctl run.
    Jobs& jobs();
    const Jobs& jobs() const;

    int event_fd() const; ///< readable when there are events
    /// Hands over at most `most` events; returns how many.
    std::size_t read_events(std::size_t most, const OnEvent& on_event);

    int told_fd() const; ///< readable when the room for told names becomes scarce
    /// The same for the names of answers; of `addresses`, only those used are there.
    std::size_t read_told(std::size_t most, const OnTold& on_told);

    /// Turns folded repeats into events: those without a check for an interval, or `all`. For any
    /// thread; takes a millisecond or two.
    Result<> unfold(bool all);

    /// Call it once a second: it frees memory that only events need while there are none.
    void tick();

    KernelCounters counters() const;
    /// Events that the ring lost and no daemon has reported yet.
    std::uint64_t unreported_losses() const;
    /// Records that the daemon has reported that many more.
    void note_reported_losses(std::uint64_t more);
    /// Messages of libbpf during the load, as lines that are safe to log.
    const std::vector<std::string>& remarks() const { return remarks_; }
    /// Each hook as it is now: another program may have detached it.
    std::vector<Coverage> coverage() const;
    /// The hooks' entry of a process, by its number in the initial pid namespace.
    std::optional<egress_process> process(std::uint32_t tgid) const;
    void each_process(const std::function<void(const egress_process&)>& what) const;
    egress_config settings() const;                     ///< as they are now
    std::string path_of(const egress_file& file) const; ///< "": unknown
    /// Identifies the files and directories that this process has open with O_PATH, as exec would.
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

// The jobs of egressctl run, as the kernel keeps them (hooks/job.h): their slots, their policies
// and the processes in them.
//
// A job lives as long as a process of it, whatever becomes of egressctl or egressd. The builder's
// thread starts jobs; whoever finds one over may free it, on any thread.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "daemon/base/result.h"
#include "daemon/bpf/abi.h"
#include "daemon/bpf/load/install.h"

namespace egress::bpf {

class Jobs {
  public:
    static constexpr std::size_t of_user = 12;  ///< so that no user keeps the others from it
    static constexpr std::size_t for_root = 8;  ///< left to root
    static constexpr std::size_t for_first = 4; ///< besides, left to users who have none

    struct Asker {
        std::uint32_t uid = 0;
        std::uint32_t pid = 0;     ///< in the daemon's pid namespace
        std::uint64_t started = 0; ///< in clock ticks since boot
        std::uint32_t flags = 0;   ///< egress_job_flag
        /// AF_UNIX sockets that it may connect to: paths, or "@" and an abstract name.
        std::vector<std::string> sockets;
        /// The user that a uid counts as: a lent id counts as its lender.
        std::function<std::uint32_t(std::uint32_t)> user_of = std::identity{};
    };
    enum class Refused : std::uint8_t { full, user_has_share, no_process, nested, failed };
    struct Failure {
        Refused why = Refused::failed;
        std::string text;
    };
    /// Has the iterator `egress_join` visit that process.
    using Walk = std::function<Result<>(std::uint32_t pid)>;

    Jobs() = default;
    Jobs(Jobs&& other) noexcept;
    Jobs& operator=(Jobs&& other) noexcept;
    ~Jobs();
    /// Adopts the jobs that live. `config` must outlive this object.
    static Result<Jobs> open(OuterMap outer, egress_config* config, Walk walk);

    /// Reserves a slot, has `compile` make the tables of that generation, fills them in and puts
    /// the process into the job. Returns its id.
    using Compile = std::function<Result<Tables>(std::uint64_t generation)>;
    std::expected<std::uint32_t, Failure> begin(const Asker& asker, const Compile& compile);
    /// Of names that only jobs named which are over, no answers are noted any more.
    void forget_names();
    /// Whether some job's rules go by names; for the thread that begins jobs.
    bool has_names() const;
    /// Keeps a slot ready, so that begin() need not wait for the kernel. Takes 0.2 seconds at most.
    Result<> make_ready();
    /// Frees the slots of jobs that are over. For the thread that reads what they refused.
    void tidy();

    /// The job, while a process of it lives; nullopt: it is over.
    std::optional<egress_job> find(std::uint32_t id) const;
    /// The AF_UNIX socket that an event of a job went to; "": it is forgotten.
    std::string socket_of(const egress_flow& flow) const;
    std::size_t count() const;
    void each(const std::function<void(const egress_job&)>& what) const;

  private:
    egress_job& at(std::uint32_t number) const { return jobs_[number]; }
    std::expected<std::uint32_t, Failure> reserve(const Asker& asker);
    Result<KeptSlot*> slot_of(std::uint32_t number);
    using Names = std::map<std::uint64_t, std::uint32_t>; ///< as the kernel's table has them
    static Names names_of(const Tables& tables, std::uint32_t flags);
    Result<> wish() const;
    Result<> allow_sockets(std::uint32_t id, const std::vector<std::string>& names) const;
    bool has_strangers() const;
    void release(std::uint32_t number, std::uint32_t id);

    OuterMap outer_;
    Walk walk_;
    egress_config* config_ = nullptr;
    egress_job* jobs_ = nullptr; ///< mapped
    std::map<std::uint32_t, KeptSlot> ready_;
    std::map<std::uint32_t, Names> names_; ///< by the job's id
    std::vector<std::uint32_t> strangers_; ///< jobs of a daemon before that have names
};

} // namespace egress::bpf

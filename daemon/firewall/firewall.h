// The firewall's side of the daemon: brings what the ledger wants and what the helper holds
// together.
//
// Where the helper answers the handshake of `serve`, one co-process takes requests by id, many in
// flight; where it does not, each event is a process of its own (blocklistd's contract). Nothing
// here waits: a helper that fails, hangs, dies or lies costs the delay of its own blocks and a line
// in the log. What is wanted is never kept here, only the keys to look at again; so after any
// trouble the whole truth is sent once more (sync) and nothing can be lost.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "daemon/base/child.h"
#include "daemon/count/ledger.h"

namespace egress {

class Firewall {
  public:
    struct Options {
        std::string helper;
        Seconds reconcile = 60; ///< how often to compare, at least
        bool adopt = true;  ///< at the first start, remember blocks that only the firewall holds
        bool flush = false; ///< at the first start, empty what is there (per-event helpers too)
    };
    enum class State : std::uint8_t {
        off,
        starting,
        looking,
        syncing,
        serving,
        per_event,
        backing_off
    };
    struct Status {
        State state = State::off;
        std::string implementation; ///< as the helper says in its handshake
        std::size_t pending = 0;
        std::uint64_t requests = 0;
        std::uint64_t errors = 0;
        std::uint64_t restarts = 0;
        std::uint64_t reconciled = 0; ///< elements that a comparison put right
        std::string last_error;
    };

    Firewall(sd_event* event, Reaper& reaper, Ledger& ledger, const Clock& clock, Options options);
    ~Firewall();

    /// Starts the helper (not under -m).
    void start();
    /// Sends what the ledger has touched, as far as the helper's queue has room.
    void pump();
    /// Compares everything with the helper soon.
    void reconcile();
    /// Time passes: hangs are noticed, retries and comparisons begin. Called once a second.
    void tick();
    Status status() const;
    static std::string_view text(State state);

  private:
    struct Request {
        enum class Kind : std::uint8_t { add, rem, kill, names, list, sync, flush };
        Kind kind = Kind::add;
        Key key;
        std::string name;
        std::int64_t asked_at = 0; ///< monotonic milliseconds
    };
    struct Job; // one process of the per-event contract

    void enter(State state);
    void on_line(std::string_view line);
    void on_hello(std::string_view line);
    void on_reply(Request& request, std::uint32_t id, std::string_view verb, std::string_view rest);
    void on_item(const Request& request, std::string_view rest);
    void finish(const Request& request, bool ok, std::string_view rest);
    void broken(const std::string& why);
    void fail_over();
    void become_per_event();
    void complain(const std::string& why);
    void stop_child();
    std::uint32_t send(Request request, std::string_view words);

    void look();
    void next_look();
    void begin_sync();
    void next_sync();
    void stream_sync();
    void synced(const std::string& name);

    void pump_serving();
    void pump_events();
    void start_job(const Key& key, bool add);
    void run_flush(const std::string& name);
    void run_job(std::unique_ptr<Job> job, const std::vector<std::string>& words,
                 const std::vector<std::string>& environment);
    void job_done(std::uint64_t number, int status);
    void retry_later(const Key& key);
    void back_off();
    void went_well();

    sd_event* event_;
    Reaper& reaper_;
    Ledger& ledger_;
    const Clock& clock_;
    Options options_;
    State state_ = State::off;
    std::unique_ptr<Child> child_;
    std::unique_ptr<Child> dead_; ///< kept until its own handler has returned
    std::string implementation_;
    std::map<std::uint32_t, Request> in_flight_;
    std::uint32_t next_id_ = 1;
    std::int64_t last_sign_ = 0; ///< of life, monotonic milliseconds
    std::int64_t entered_ = 0;
    std::int64_t backoff_ms_ = 0;
    bool looked_ = false; ///< the first start's look at what the firewall holds is over
    int failed_looks_ = 0;
    bool sync_failed_ = false; ///< a name's sync was refused; it is tried again

    std::deque<std::string> names_; ///< still to list, or to sync
    std::size_t listed_ = 0;        ///< how many of them the first look has listed
    std::string sync_name_;
    std::uint32_t sync_id_ = 0;
    RowId sync_row_ = 0;
    bool sync_ended_ = true;

    std::map<std::uint64_t, std::unique_ptr<Job>> jobs_;
    std::vector<std::unique_ptr<Job>> done_;
    std::uint64_t next_job_ = 1;
    std::vector<Key> retry_;
    std::int64_t retry_at_ = 0;
    std::int64_t reconcile_at_ = 0;
    bool reconcile_wanted_ = false;

    std::uint64_t requests_ = 0;
    std::uint64_t errors_ = 0;
    std::uint64_t restarts_ = 0;
    std::uint64_t reconciled_ = 0;
    std::string last_error_;
};

} // namespace egress

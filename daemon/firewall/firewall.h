// The firewall's side of the daemon: brings what the ledger wants and what the helper holds
// together.
//
// A state machine over two ways to speak with a helper: where it answers the handshake of `serve`,
// one co-process takes requests by id (serve.h); where it does not, each event is a process of its
// own (per_event.h). Nothing here waits: a helper that fails, hangs, dies or lies costs the delay
// of its own blocks and a line in the log. What is wanted is never kept here, only the keys to
// check again; so after any trouble the whole truth is sent once more (sync) and nothing can be
// lost.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

#include "daemon/base/child.h"
#include "daemon/count/ledger.h"
#include "daemon/firewall/per_event.h"
#include "daemon/firewall/rate.h"
#include "daemon/firewall/serve.h"

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
        listing,
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
    /// Sends what changed in the ledger, as far as the helper's queue has room.
    void pump();
    /// Compares everything with the helper soon.
    void reconcile();
    /// Time passes: hangs are noticed, retries and comparisons begin. Called once a second.
    void tick();
    Status status() const;
    static std::string_view text(State state);

  private:
    using Request = HelperRequest;

    void enter(State state);
    // Of the helper that serves.
    void on_ready(const std::string& implementation);
    void on_part(const Request& request, std::string_view verb, std::string_view rest);
    void on_answer(const Request& request, bool ok, std::string_view rest);
    void on_broken(const std::string& why);
    void changed(const Request& request, bool ok, std::string_view rest);
    void stop_serving();
    void fail_over();
    void become_per_event();
    void complain(const std::string& why);

    void on_changed();
    void end_reconciling();

    // Who is never blocked.
    void send_exemptions();
    void warn_of_exemptions() const;

    // What the firewall holds, and then all that it should hold.
    void list_names();
    void list_next();
    void begin_sync();
    void choose_first();
    void next_sync();
    void stream_sync();
    void synced();
    void confirm_some();
    void rejoin();

    void pump_serving();
    void pump_beside_sync();
    void send_add(const Key& key, const Element& element);
    void pump_per_event();
    void retry_later(const Key& key);
    void retry_due(std::int64_t now);
    void back_off();
    void went_well();

    sd_event* event_;
    Ledger& ledger_;
    BlockFeed& feed_;
    const Clock& clock_;
    Options options_;
    Serve serve_;
    PerEvent per_event_;
    State state_ = State::off;
    std::string implementation_;
    std::int64_t entered_ = 0; ///< the state, monotonic milliseconds
    std::int64_t backoff_ms_ = 0;
    bool listed_all_ = false; ///< at the first start, what the firewall holds was taken in
    int failed_lists_ = 0;
    bool sync_failed_ = false; ///< a name's sync was refused; it is tried again

    std::deque<std::string> names_; ///< still to list, or to sync
    std::size_t listed_ = 0;        ///< how many of them are listed
    std::string sync_name_;
    std::uint32_t sync_id_ = 0;
    RowId sync_row_ = 0;
    bool sync_ended_ = true;
    RowId confirm_row_ = 0; ///< rows below it are confirmed by the sync of sync_name_
    Source confirm_again_;
    /// Changed during a sync, which says nothing of them: a block has a request of its own, a
    /// removal waits for the end.
    std::vector<Key> apart_;
    std::unordered_set<RowId> apart_rows_;

    std::vector<Key> retry_;
    std::int64_t retry_at_ = 0;
    std::int64_t reconcile_at_ = 0;
    bool reconcile_wanted_ = false;
    std::int64_t changed_at_ = 0; ///< when another program changed the firewall; 0: put right
    std::int64_t changed_logged_at_ = 0;
    Rate changes_;                      ///< that the helper reports
    std::uint64_t reconciled_then_ = 0; ///< reconciled_ at that time
    std::uint64_t sent_passes_ = 0;     ///< number of the pass list that was sent

    std::uint64_t errors_ = 0;
    std::uint64_t restarts_ = 0;
    std::uint64_t reconciled_ = 0;
    std::string last_error_;
};

} // namespace egress

// The older contract: a helper process for each event (blocklistd's, see egress-helper(7)).
//
// Runs a few at once, never two for one key. Nothing here waits.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/child.h"
#include "daemon/count/element.h"
#include "daemon/firewall/request.h"

namespace egress {

class PerEvent {
  public:
    struct Handlers {
        /// A process ended. `ok`: it did what the request asks, and `text` is its handle; else
        /// `text` says what it did instead.
        std::function<void(const HelperRequest&, bool ok, std::string_view text)> done;
        /// The key of a finished change was wanted again while that ran.
        std::function<void(const Key&)> again;
    };

    PerEvent(sd_event* event, Reaper& reaper, std::string helper, Handlers handlers)
        : event_(event), reaper_(reaper), helper_(std::move(helper)),
          handlers_(std::move(handlers)) {}

    bool has_room() const;
    bool empty() const { return jobs_.empty(); }
    std::size_t size() const { return jobs_.size(); }
    std::uint64_t requests() const { return requests_; } ///< so far

    /// True: a change of the key runs, and handlers.again follows its end.
    bool defer(const Key& key);
    /// Adds the block. If an earlier `add` of it has left a handle, that is removed first: a
    /// firewall that is a list would keep both.
    void add(const Key& key, const Element& element);
    void remove(const Key& key, const Element& element);
    void flush(const std::string& name);
    /// Kills what does not end.
    void tick();
    /// Frees what a handler could not.
    void tidy() { done_.clear(); }

  private:
    /// One process: what it was asked, and its first line of output.
    struct Job {
        HelperRequest request;
        std::unique_ptr<Element> then_add; ///< by a process of its own, after this `rem`
        bool again = false;                ///< the key was wanted again while this ran
        bool answered = false;
        std::string answer;
        std::unique_ptr<Child> child;
    };

    Job* change(HelperRequest request, const Element& element, const std::string& id);
    Job* run(HelperRequest request, const std::vector<std::string>& words,
             std::vector<std::string> environment);
    void conclude(const Job& job, int status);
    void ended(std::uint64_t number, int status);

    sd_event* event_;
    Reaper& reaper_;
    std::string helper_;
    Handlers handlers_;
    std::map<std::uint64_t, std::unique_ptr<Job>> jobs_;
    std::vector<std::shared_ptr<Job>> done_;
    std::uint64_t next_job_ = 1;
    std::uint64_t requests_ = 0;
};

} // namespace egress

// The contract `serve`: one helper process, requests by id, many in flight (egress-helper(7)).
//
// Carries words and checks their form; what they mean is the firewall's. Nothing here waits.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/base/child.h"
#include "daemon/firewall/request.h"

namespace egress {

class Serve {
  public:
    static constexpr std::size_t most_in_flight = 4096;
    static constexpr std::size_t most_queued = 1 << 20; ///< bytes

    struct Handlers {
        /// The handshake went well; the helper's own name, escaped.
        std::function<void(const std::string& implementation)> ready;
        /// One line of an answer that has several: "item" or "name", and the rest of it.
        std::function<void(const HelperRequest&, std::string_view verb, std::string_view rest)>
            part;
        /// The end of an answer.
        std::function<void(const HelperRequest&, bool ok, std::string_view rest)> answered;
        /// Another program has changed what the helper keeps in the firewall.
        std::function<void()> changed;
        /// The process is gone, or does not keep to the contract: nothing more comes. Call stop().
        std::function<void(const std::string& why)> broken;
    };

    Serve(sd_event* event, Reaper& reaper, Handlers handlers);

    /// Starts the helper and shakes hands. It must be stopped.
    Result<> start(const std::string& helper);
    /// Ends the process; gives the requests back that it has not answered. Safe in a handler.
    std::vector<HelperRequest> stop();

    bool running() const { return child_ != nullptr; }
    bool shaken() const { return shaken_; } ///< the handshake went well
    bool has_room() const;
    /// Of the contract that the helper speaks; 0: not shaken.
    unsigned version() const { return version_; }
    std::size_t in_flight() const { return in_flight_.size(); }
    std::size_t queued() const { return child_ ? child_->queued() : 0; }
    std::uint64_t requests() const { return requests_; } ///< so far

    /// Queues "ID WORDS"; the id, which the handlers' requests do not need.
    std::uint32_t send(HelperRequest request, std::string_view words);
    /// Queues lines that belong to a request.
    void write(std::string_view lines);
    void flush();
    /// Whether it keeps the daemon waiting too long: `grace_ms` is added to the bounds.
    bool hangs(std::int64_t grace_ms) const;
    /// Frees what a handler could not.
    void tidy() { dead_.reset(); }

  private:
    void on_line(std::string_view line);
    void on_hello(std::string_view line);
    void broken(const std::string& why);

    sd_event* event_;
    Reaper& reaper_;
    Handlers handlers_;
    std::unique_ptr<Child> child_;
    std::unique_ptr<Child> dead_; ///< kept until its own handler has returned
    bool shaken_ = false;
    unsigned version_ = 0;
    std::map<std::uint32_t, HelperRequest> in_flight_;
    std::uint32_t next_id_ = 1;
    std::uint64_t requests_ = 0;
    std::int64_t last_sign_ = 0; ///< of life, monotonic milliseconds
};

} // namespace egress

// `egress-helper serve`: reads requests and writes replies until the end of the input.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "helper/lines.h"
#include "helper/table.h"

namespace egress::helper {

class Server {
  public:
    static constexpr std::size_t max_batch = 10'000;       ///< changes in one transaction
    static constexpr std::size_t max_elements = 4'000'000; ///< of all open syncs together
    static constexpr std::size_t max_syncs = 64;           ///< open at a time

    /// The caller keeps `in` and `out`. `table` must outlive the server.
    Server(Table& table, int in, int out) : table_(table), in_(in), out_(out) {}

    /// Serves until the end of the input; performs every request that is complete by then. Returns
    /// the exit status: 0, or 1 if the peer does not speak the protocol.
    int run();

  private:
    /// A `sync`, or an `exempt`, before its `end`.
    struct OpenSync {
        bool exempts = false;
        std::string name;
        std::vector<Block> wanted;
        std::vector<Exemption> exemptions;
        std::size_t lines = 0;
        std::string error; ///< of its first bad line; the reply to `end` has it
    };

    struct Ready {
        bool input = false;
        bool notifications = false;
    };

    Ready wait() const;
    bool take_input();
    void line(std::string_view text);
    void greet(std::string_view text);
    void bad_line(std::string_view text, const Error& error);
    void request(Request request);
    void begin_sync(Request& request);
    void element(const Request& request);
    void end_sync(std::uint64_t id);
    void rebuild();
    void finish_rebuild();
    void end_exempt(std::uint64_t id, OpenSync& sync);
    void say_changed();
    void list(const Request& request);
    void names(const Request& request);
    void commit_changes();
    void answer(std::uint64_t id, const Result<>& result);
    void refuse(std::uint64_t id, const Error& error);
    void flush_output();

    Table& table_;
    int in_;
    int out_;
    LineReader reader_;
    std::string output_;
    std::vector<Change> changes_;    ///< read, to be committed
    std::vector<std::uint64_t> ids_; ///< of changes_
    std::map<std::uint64_t, OpenSync> syncs_;
    std::size_t elements_ = 0;     ///< in syncs_
    std::uint64_t rebuild_id_ = 0; ///< of the sync that the table does in pieces
    bool changed_ = false;    ///< another program has changed our table; the peer does not know
    std::int64_t say_at_ = 0; ///< time of kernel_now() from which it may be told
    bool greeted_ = false;
    bool mute_ = false;    ///< the reader of our output is gone
    bool refused_ = false; ///< the peer sent no greeting
};

} // namespace egress::helper

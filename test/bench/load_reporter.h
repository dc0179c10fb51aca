// The server's side: reports through the public library. Outside of namespace egress, because the C
// header names a struct so.
#pragma once

#include <cstdint>

class Reporter {
  public:
    /// With a handle, or with a connection for each report.
    explicit Reporter(bool handle);
    ~Reporter();
    Reporter(const Reporter&) = delete;
    Reporter& operator=(const Reporter&) = delete;

    /// Sends until the report is taken; counts how often the daemon's queue was full. Any other
    /// error ends the program.
    void report(int fd);
    std::uint64_t retries() const { return retries_; }

  private:
    void* handle_;
    std::uint64_t retries_ = 0;
};

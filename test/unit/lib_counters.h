// Counts what a report asks of the system: allocations and system calls, in the calling thread.
//
// The test program defines the C library's functions itself; libegress.so finds those first.
#pragma once

namespace egress::test {

struct Counters {
    long allocations = 0;
    long sockets = 0;
    long connects = 0;
    long sends = 0;
    long closes = 0;
};

/// Of this thread, since it began.
Counters counters();

} // namespace egress::test

// Parts of egressd, each on its own. EGRESS_BENCH_DIR names a folder on a disk (default /var/tmp)
// for what must be durable; all other options are google-benchmark's (--help).
#include <benchmark/benchmark.h>

BENCHMARK_MAIN();

#!/usr/bin/env python3
"""Resolve, then connect in the next instruction: rounds a second, wrong refusals and wrong grants, which must be 0.
Another user asks for ever new names meanwhile, and egressd is stopped, killed and started anew. Root.

    test/bench/exact.py [ROUNDS [THREADS]]     1000000 and 32 unless given

The test of the same name runs it for some seconds (test/egress/exact_test.py).
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "../egress"), os.path.join(HERE, "../e2e")]

if "EGRESS_EXACT_ROUNDS" not in os.environ:
    if not all(word.isdigit() for word in sys.argv[1:]) or len(sys.argv) > 3:
        sys.exit(__doc__)
    rounds, threads = [*sys.argv[1:], *("1000000", "32")[len(sys.argv) - 1:]]
    os.environ.update(EGRESS_EXACT_ROUNDS=rounds, EGRESS_EXACT_THREADS=threads)
    del sys.argv[1:]

import exact_test  # noqa: E402 (found by the lines above, and told what they set)
import harness  # noqa: E402

harness.main({"test_exact": exact_test.test_exact})

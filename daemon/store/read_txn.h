// A transaction of LMDB's that reads.
#pragma once

#include <memory>

#include <lmdb.h>

#include "daemon/base/result.h"

namespace egress::store {

struct AbortTxn {
    void operator()(MDB_txn* txn) const { mdb_txn_abort(txn); }
};
using ReadTxn = std::unique_ptr<MDB_txn, AbortTxn>;

Result<ReadTxn> begin_reading(MDB_env* env);

} // namespace egress::store

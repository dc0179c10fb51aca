// The journal as a target of the log, for the program that uses it: others need not load
// libsystemd.
#pragma once

#include <sys/uio.h>

namespace egress::log {

/// sd_journal_sendv(3).
using SendJournal = int (*)(const iovec* parts, int number);

/// Call before the first message to Target::journal.
void use_journal(SendJournal send);

} // namespace egress::log

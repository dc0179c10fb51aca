// Returns memory that only the start or a burst needed.
#pragma once

namespace egress {

/// Drops the clean pages of read-only file mappings: program text (libraries initialise far more
/// than a small daemon uses) and the database's map. The page cache supplies them again on use.
/// Pages with data of our own stay.
void trim_memory();

} // namespace egress

// Gives back memory that only the start or a burst needed.
#pragma once

namespace egress {

/// Unmaps the clean pages of what is mapped from files and never written: program text (libraries
/// initialise far more than a small daemon uses) and the database's map. What is used again comes
/// back from the page cache. Pages that hold anything of our own stay.
void trim_memory();

} // namespace egress

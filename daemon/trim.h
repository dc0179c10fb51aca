// Gives back the memory that only the start needed.
#pragma once

namespace egress {

/// Unmaps the clean pages of program text that set-up has touched (libraries initialise far more
/// than a small daemon uses); what is used again comes back from the page cache. Writable pages
/// stay.
void trim_text();

} // namespace egress

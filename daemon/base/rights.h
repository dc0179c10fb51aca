// Rights of a process that reads what strangers send.
#pragma once

namespace egress {

/// Gives up every capability, for good: no exec brings one back.
void give_up_rights();

} // namespace egress

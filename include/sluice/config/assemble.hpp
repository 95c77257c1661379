#pragma once

#include "sluice/config/diagnostic.hpp"
#include "sluice/config/fields.hpp"

namespace sluice::config {

// The configuration that a draft means: every listener with a name, each `to` turned into a pool of the
// listener's name. Complains of what does not hold between the parts of a file: names and addresses that
// meet, pools that are nowhere. The answer holds what config.hpp promises only if nobody complained.
[[nodiscard]] Config assemble(ConfigDraft draft, Complaints& complaints);

}  // namespace sluice::config

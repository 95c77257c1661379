#pragma once

#include "sluice/base/clock.hpp"

#include <sys/types.h>

#include <optional>
#include <string_view>
#include <vector>

namespace sluice {

// The threads of this process whose name begins so.
std::vector<pid_t> threads_named(std::string_view prefix);

// The CPU time of these threads together, user and kernel, to the nanosecond; nullopt if the kernel does not
// keep it (CONFIG_SCHED_INFO).
std::optional<Nanoseconds> cpu_time_of(const std::vector<pid_t>& threads);

}  // namespace sluice

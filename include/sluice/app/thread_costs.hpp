#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/net/owned_fd.hpp"

#include <sys/types.h>

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// The threads of this process whose name begins so.
std::vector<pid_t> threads_named(std::string_view prefix);

// The CPU time of these threads together, user and kernel, to the nanosecond; nullopt if the kernel does not
// keep it (CONFIG_SCHED_INFO).
std::optional<Nanoseconds> cpu_time_of(const std::vector<pid_t>& threads);

// Counts the system calls of some threads by the kernel's tracepoint. There is no other exact way that does
// not slow the threads down, and no estimate here: where the tracepoint is not granted, the error says why.
class SystemCallCounter {
  public:
    static std::expected<SystemCallCounter, std::string> open(const std::vector<pid_t>& threads);
    std::uint64_t count() const;  // since open()

  private:
    std::vector<OwnedFd> events_;  // one for each thread
};

}  // namespace sluice

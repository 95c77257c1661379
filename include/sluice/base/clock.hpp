#pragma once

#include <chrono>

namespace sluice {

// The one clock of the relay: monotonic, so that a corrected wall clock ends no session.
// A worker reads it once a turn and passes the reading down.
using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using Nanoseconds = std::chrono::nanoseconds;
using Milliseconds = std::chrono::milliseconds;

inline constexpr Time time_never = Time::max();

}  // namespace sluice

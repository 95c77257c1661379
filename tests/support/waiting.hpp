#pragma once

#include <chrono>
#include <cstdlib>
#include <thread>

namespace sluice::test {

using TestClock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

// Whether the relay, or this process, is built with a sanitizer: everything is several times slower then, and
// memory means nothing. The suite of system tests may be built without one and drive a relay that has it:
// scripts/test says.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline const bool sanitized = true;
#else
inline const bool sanitized = std::getenv("SLUICE_SANITIZED") != nullptr;
#endif

// How long a thing that must happen may take. Only a failing test waits that long; sanitizers are slow.
inline constexpr Milliseconds patience{20'000};

// For things that must not happen: how long we look before we believe it.
inline constexpr Milliseconds glance{100};

// Asks again and again until the answer is yes (true) or the time is over (false).
template <class Predicate>
bool wait_until(Predicate&& predicate, Milliseconds deadline = patience) {
    const auto end = TestClock::now() + deadline;
    while (!predicate()) {
        if (TestClock::now() >= end) return false;
        std::this_thread::sleep_for(Milliseconds(1));
    }
    return true;
}

}  // namespace sluice::test

#pragma once

#include <chrono>
#include <thread>

namespace sluice::test {

using TestClock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

// Whether this build runs under a sanitizer: several times slower, so that a test of volume takes less of it.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
#else
inline constexpr bool sanitized = false;
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

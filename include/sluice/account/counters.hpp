#pragma once

#include "sluice/account/end.hpp"

#include <array>
#include <atomic>
#include <cstdint>

namespace sluice {

// A number that one thread counts and others read.
class Counter {
  public:
    // The owner's. Load and store instead of an atomic addition: there is one writer, and no locked bus.
    void add(std::uint64_t amount) noexcept {
        value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }
    void set(std::uint64_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
    std::uint64_t get() const noexcept { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<std::uint64_t> value_{0};
};

// What one worker counts, on cache lines of its own.
struct alignas(64) WorkerCounters {
    Counter sessions;                      // accepted and served, so far
    Counter sessions_now;                  // alive
    std::array<Counter, ends_count> ends;  // sessions by End
    Counter spliced_bytes;                 // of ended sessions
    Counter copied_bytes;                  // of ended sessions
    Counter stale_completions;  // answers to questions of sessions that are gone: a bug if ever not zero
    Counter accept_pauses;      // times that accepting stopped for want of descriptors or memory
    Counter pipe_refusals;      // times that a bulky flow was copied because there was no pipe
    Counter system_calls;       // made to wait and to move bytes (not those that begin and end a session)
    Counter pipe_bytes;         // leased now
};

}  // namespace sluice

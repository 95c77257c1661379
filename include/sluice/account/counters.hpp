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

// Why a datagram that we received did not go on.
enum class Loss : std::uint8_t {
    truncated,   // longer than a message may be here
    limit,       // it would have begun a session, and there was no place for one
    no_backend,  // likewise, and no backend could be had
    draining,    // likewise, and no new ones are taken
    refused,     // sent, but the network said that nobody took it (ICMP)
    oversized,   // longer than the way to the other side, or its socket, allows
    unsent,      // the kernel did not take it for another reason
    ended,       // it waited for the other side when its session ended
};
inline constexpr std::size_t losses_count = 8;
const char* to_string(Loss loss) noexcept;

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
    Counter datagrams_received;
    Counter datagrams_sent;                            // those that were refused later among them
    std::array<Counter, losses_count> datagrams_lost;  // by Loss
};

}  // namespace sluice

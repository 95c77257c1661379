#pragma once

#include "sluice/base/clock.hpp"

#include <cstdint>
#include <utility>

namespace sluice {

// Whether a socket is read when an event says so, or by the clock.
//
// Datagrams that come one by one, each with an event, cost a wake-up each, which is more than receiving them.
// In a flood nothing has to be told: whoever looks every so often finds many at once, and those of one client
// can go on together. So a socket with many of them is not asked about, but read every clock_interval, until
// they are few again. The price is that interval, in latency, and only in a flood.
class DatagramPace {
  public:
    static constexpr Nanoseconds clock_interval = std::chrono::microseconds(100);
    static constexpr Nanoseconds window = std::chrono::milliseconds(5);
    // Messages in a window: 20,000 a second, and 10,000.
    static constexpr std::uint32_t many = 100;
    static constexpr std::uint32_t few = 50;

    bool by_clock() const noexcept { return by_clock_; }

    // So many messages were found by one look. True: what by_clock() answers has changed.
    bool count(std::uint32_t messages, Time now) noexcept {
        messages_ += messages;
        if (now - since_ < window) return false;
        // A window that was left open while nothing came says nothing of now.
        const bool recent = now - since_ < 2 * window;
        const bool wanted = by_clock_ ? messages_ >= few : recent && messages_ >= many;
        since_ = now;
        messages_ = 0;
        return wanted != std::exchange(by_clock_, wanted);
    }

  private:
    Time since_{};
    std::uint32_t messages_ = 0;
    bool by_clock_ = false;
};

}  // namespace sluice

#include "sluice/datagram/pace.hpp"

#include <doctest/doctest.h>

namespace sluice {
namespace {

// Looks at the socket so often for a window and a little, and finds so many messages each time.
bool look(DatagramPace& pace, Time& now, int looks, std::uint32_t found) {
    bool changed = false;
    for (int index = 0; index < looks; ++index) {
        now += (DatagramPace::window + std::chrono::milliseconds(1)) / looks;
        changed |= pace.count(found, now);
    }
    return changed;
}

TEST_CASE("a socket with few datagrams is read when events come") {
    DatagramPace pace;
    Time now{std::chrono::hours(1)};
    for (int windows = 0; windows < 20; ++windows) CHECK_FALSE(look(pace, now, 40, 1));
    CHECK_FALSE(pace.by_clock());
}

TEST_CASE("a flood is read by the clock until it is over, and not between the two for every hesitation") {
    DatagramPace pace;
    Time now{std::chrono::hours(1)};
    look(pace, now, 200, 1);
    look(pace, now, 200, 1);
    CHECK(pace.by_clock());
    for (int windows = 0; windows < 20; ++windows) CHECK_FALSE(look(pace, now, 35, 2));
    CHECK(pace.by_clock());
    CHECK(look(pace, now, 50, 0));
    CHECK_FALSE(pace.by_clock());
    for (int windows = 0; windows < 20; ++windows) CHECK_FALSE(look(pace, now, 35, 2));
}

TEST_CASE("a burst after a pause is no flood, however much it brings at once") {
    DatagramPace pace;
    Time now{std::chrono::hours(1)};
    for (int bursts = 0; bursts < 20; ++bursts) {
        now += std::chrono::milliseconds(50);
        CHECK_FALSE(pace.count(64, now));
        CHECK_FALSE(pace.count(30, now + std::chrono::microseconds(50)));
    }
    CHECK_FALSE(pace.by_clock());
}

}  // namespace
}  // namespace sluice

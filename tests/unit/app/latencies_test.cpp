#include "sluice/app/latencies.hpp"

#include <doctest/doctest.h>

#include <memory>

namespace sluice {
namespace {

TEST_CASE("no durations have no percentile") {
    CHECK(std::make_unique<Latencies>()->percentile(0.5) == Nanoseconds(0));
}

TEST_CASE("a percentile is never below the true one, and at most a 64th above it") {
    for (const std::int64_t step : {1, 7, 1000, 12'345, 3'000'000}) {
        const auto latencies = std::make_unique<Latencies>();
        for (std::int64_t number = 1; number <= 1000; ++number) latencies->add(Nanoseconds(number * step));
        for (const int thousandth : {1, 500, 990, 999, 1000}) {
            const std::int64_t exact = thousandth * step;
            const std::int64_t read = latencies->percentile(thousandth / 1000.0).count();
            CHECK(read >= exact);
            CHECK(read <= exact + exact / 64 + 1);
        }
    }
}

TEST_CASE("durations beyond the range count at its ends") {
    const auto latencies = std::make_unique<Latencies>();
    latencies->add(Nanoseconds(-1));
    latencies->add(std::chrono::hours(1000));
    CHECK(latencies->percentile(0.5) == Nanoseconds(0));
    CHECK(latencies->percentile(1) >= std::chrono::hours(1));
}

TEST_CASE("two collections added are as one") {
    const auto one = std::make_unique<Latencies>();
    const auto other = std::make_unique<Latencies>();
    one->add(Nanoseconds(1));
    other->add(Nanoseconds(50));
    one->add(*other);
    CHECK(one->count() == 2);
    CHECK(one->percentile(1) == Nanoseconds(50));
}

}  // namespace
}  // namespace sluice

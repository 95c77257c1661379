#pragma once

#include "sluice/base/clock.hpp"

#include <array>
#include <cstddef>
#include <cstdint>

namespace sluice {

// Many durations in little memory: counted in classes that are 1/64 of a power of two wide, so that a
// percentile reads at most 1.6 % too high. Durations past an hour count as an hour.
class Latencies {
  public:
    void add(Nanoseconds duration) noexcept;
    void add(const Latencies& other) noexcept;

    std::uint64_t count() const noexcept { return count_; }

    // The duration that this share of all (0 to 1) does not exceed; 0 if there is none.
    Nanoseconds percentile(double share) const noexcept;

  private:
    static constexpr unsigned class_bits = 6;
    static constexpr unsigned powers = 42 - class_bits;  // 2^42 ns is more than an hour
    static std::size_t class_of(std::uint64_t nanoseconds) noexcept;
    static std::uint64_t longest_of(std::size_t index) noexcept;

    std::array<std::uint64_t, std::size_t{powers + 1} << class_bits> classes_{};
    std::uint64_t count_ = 0;
};

}  // namespace sluice

#include "sluice/app/latencies.hpp"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>

namespace sluice {

// Below 2^6 each nanosecond is a class. Above, the six bits after the leading one name the class within its
// power of two.
std::size_t Latencies::class_of(std::uint64_t nanoseconds) noexcept {
    if (nanoseconds < 1U << class_bits) return nanoseconds;
    const auto power = static_cast<unsigned>(std::bit_width(nanoseconds)) - 1 - class_bits;
    return ((std::size_t{power} + 1) << class_bits) + (nanoseconds >> power) - (1U << class_bits);
}

std::uint64_t Latencies::longest_of(std::size_t index) noexcept {
    if (index < 1U << class_bits) return index;
    const std::size_t power = (index >> class_bits) - 1;
    const std::uint64_t start = (index & ((1U << class_bits) - 1)) + (1U << class_bits);
    return ((start + 1) << power) - 1;
}

void Latencies::add(Nanoseconds duration) noexcept {
    constexpr Nanoseconds longest = std::chrono::hours(1);
    const auto clamped = std::clamp(duration, Nanoseconds(0), longest);
    ++classes_[class_of(static_cast<std::uint64_t>(clamped.count()))];
    ++count_;
}

void Latencies::add(const Latencies& other) noexcept {
    for (std::size_t index = 0; index < classes_.size(); ++index) classes_[index] += other.classes_[index];
    count_ += other.count_;
}

Nanoseconds Latencies::percentile(double share) const noexcept {
    if (count_ == 0) return Nanoseconds(0);
    const auto wanted =
        static_cast<std::uint64_t>(std::ceil(std::clamp(share, 0.0, 1.0) * static_cast<double>(count_)));
    std::uint64_t seen = 0;
    for (std::size_t index = 0; index < classes_.size(); ++index) {
        seen += classes_[index];
        if (seen >= std::max<std::uint64_t>(wanted, 1))
            return Nanoseconds(static_cast<std::int64_t>(longest_of(index)));
    }
    return Nanoseconds(0);
}

}  // namespace sluice

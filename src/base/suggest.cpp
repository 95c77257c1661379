#include "sluice/base/suggest.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <vector>

namespace sluice {
namespace {

// Longer words are no slips of the finger, and the table below is quadratic.
constexpr std::size_t word_bytes_max = 64;

char lower(char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter - 'A' + 'a') : letter;
}

// The optimal string alignment distance: insertions, deletions, replacements and exchanges of neighbours.
std::size_t distance(std::string_view one, std::string_view other) {
    const std::size_t width = other.size() + 1;
    std::vector<std::size_t> table((one.size() + 1) * width);
    const auto at = [&](std::size_t row, std::size_t column) -> std::size_t& {
        return table[row * width + column];
    };
    for (std::size_t row = 0; row <= one.size(); ++row) at(row, 0) = row;
    for (std::size_t column = 0; column < width; ++column) at(0, column) = column;

    for (std::size_t row = 1; row <= one.size(); ++row) {
        for (std::size_t column = 1; column < width; ++column) {
            const bool same = lower(one[row - 1]) == lower(other[column - 1]);
            std::size_t best = std::min(at(row - 1, column), at(row, column - 1)) + 1;
            best = std::min(best, at(row - 1, column - 1) + (same ? 0 : 1));
            const bool exchanged = row > 1 && column > 1 && lower(one[row - 1]) == lower(other[column - 2]) &&
                                   lower(one[row - 2]) == lower(other[column - 1]);
            if (exchanged) best = std::min(best, at(row - 2, column - 2) + 1);
            at(row, column) = best;
        }
    }
    return at(one.size(), other.size());
}

}  // namespace

std::string_view closest_match(std::string_view word, std::span<const std::string_view> candidates) {
    if (word.empty() || word.size() > word_bytes_max) return {};
    std::string_view closest;
    std::size_t closest_distance = word_bytes_max;
    for (const std::string_view candidate : candidates) {
        if (candidate.empty() || candidate.size() > word_bytes_max) continue;
        const std::size_t far = distance(word, candidate);
        const std::size_t allowed = std::max<std::size_t>(1, std::max(word.size(), candidate.size()) / 3);
        // Every letter different is never a slip, however short the words are.
        if (far > allowed || far >= std::max(word.size(), candidate.size())) continue;
        if (far < closest_distance) {
            closest = candidate;
            closest_distance = far;
        }
    }
    return closest;
}

std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates) {
    const std::string_view match = closest_match(word, candidates);
    return match.empty() ? std::string() : fmt::format(" (did you mean \"{}\"?)", match);
}

}  // namespace sluice

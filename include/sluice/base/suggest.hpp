#pragma once

#include <span>
#include <string>
#include <string_view>

namespace sluice {

// The candidate that `word` was probably meant to be, for "did you mean"; empty when none is close: a wrong
// suggestion is worse than none. Close means at most a third of the longer word's letters differ (but always
// at least one), where exchanging two neighbours counts as one difference and upper case equals lower case.
// The view is one of `candidates`.
[[nodiscard]] std::string_view closest_match(std::string_view word,
                                             std::span<const std::string_view> candidates);

// ` (did you mean "WORD"?)`, or nothing: to be appended to a message.
[[nodiscard]] std::string did_you_mean(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace sluice

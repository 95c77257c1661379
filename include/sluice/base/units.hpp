#pragma once

#include "sluice/base/clock.hpp"

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

namespace sluice {

// Durations and sizes as people write them in the configuration and on the command line.
// An error is the middle of a sentence without the place: the caller knows where the text stood.

// `250ms`, `5s`, `10m`, `1h`, `2d`; `0` = off. Whole numbers only, no sign, no blanks. A number other than
// zero without a unit is refused: seconds and milliseconds look alike and differ by a thousand.
[[nodiscard]] std::expected<Milliseconds, std::string> parse_duration(std::string_view text);

// The shortest text that parse_duration() reads back to the same value, in the largest unit that fits.
// REQUIRES: duration is not negative.
[[nodiscard]] std::string format_duration(Milliseconds duration);

// `64KiB`, `1MiB`, `2GiB`, `1TiB`, `512B` or plain bytes. Only units of 1024: `KB` is refused, because half
// of its readers take it for 1000.
[[nodiscard]] std::expected<std::uint64_t, std::string> parse_size(std::string_view text);

// The text that parse_size() reads back to the same value, in the largest unit that fits exactly.
[[nodiscard]] std::string format_size(std::uint64_t bytes);

}  // namespace sluice

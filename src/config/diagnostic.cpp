#include "sluice/config/diagnostic.hpp"

#include "sluice/config/characters.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

namespace sluice::config {
namespace {

// A broken file of a thousand lines may be wrong in every one.
constexpr std::size_t diagnostics_max = 1000;
constexpr std::size_t quoted_bytes_max = 120;

}  // namespace

std::string to_string(const Diagnostic& diagnostic) {
    if (diagnostic.place.line == 0) return fmt::format("{}: {}", diagnostic.file, diagnostic.message);
    return fmt::format("{}:{}:{}: {}", diagnostic.file, diagnostic.place.line, diagnostic.place.column,
                       diagnostic.message);
}

std::string in_quotes(std::string_view word) {
    if (word.size() <= quoted_bytes_max) return fmt::format("\"{}\"", word);
    std::size_t end = quoted_bytes_max;
    while (end > 0 && (static_cast<unsigned char>(word[end]) & 0xc0) == 0x80)
        --end;  // not inside a character
    return fmt::format("\"{}...\"", word.substr(0, end));
}

void Complaints::add(Place place, std::string_view message) {
    if (full()) return;
    diagnostics_.push_back({.file = file_, .place = place, .message = printable(message)});
}

bool Complaints::full() const {
    return diagnostics_.size() >= diagnostics_max;
}

std::vector<Diagnostic> Complaints::take() {
    const bool was_full = full();
    const auto position = [](const Diagnostic& diagnostic) {
        return std::tie(diagnostic.place.line, diagnostic.place.column, diagnostic.message);
    };
    std::ranges::sort(diagnostics_, {}, position);
    // An anchored map is read once for each of its aliases, and is wrong at the same place each time.
    const auto repeated = std::ranges::unique(diagnostics_, {}, position);
    diagnostics_.erase(repeated.begin(), repeated.end());
    if (was_full)
        diagnostics_.push_back(
            {.file = file_, .place = {}, .message = "there are too many errors: the rest was not looked at"});
    return std::exchange(diagnostics_, {});
}

}  // namespace sluice::config

#include "sluice/base/units.hpp"

#include <fmt/format.h>

#include <array>
#include <limits>

namespace sluice {
namespace {

struct Unit {
    std::string_view name;
    std::uint64_t factor;
};

// Largest first: formatting takes the first unit that divides.
constexpr std::array<Unit, 5> duration_units{
    {{"d", 86'400'000}, {"h", 3'600'000}, {"m", 60'000}, {"s", 1'000}, {"ms", 1}}};
constexpr std::array<Unit, 5> size_units{{{"TiB", std::uint64_t{1} << 40},
                                          {"GiB", std::uint64_t{1} << 30},
                                          {"MiB", std::uint64_t{1} << 20},
                                          {"KiB", std::uint64_t{1} << 10},
                                          {"B", 1}}};

// Durations are added to nanosecond time points: 100 years stay far from the end of those.
constexpr std::uint64_t duration_ms_max = 36'500ULL * 86'400'000;

struct Quantity {
    std::uint64_t number;
    std::string_view unit;  // what follows the digits; may be empty
};

enum class Trouble { no_number, too_large };

std::expected<Quantity, Trouble> split(std::string_view text) {
    std::size_t at = 0;
    std::uint64_t number = 0;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
        const auto digit = static_cast<std::uint64_t>(text[at] - '0');
        if (number > (std::numeric_limits<std::uint64_t>::max() - digit) / 10)
            return std::unexpected(Trouble::too_large);
        number = number * 10 + digit;
    }
    if (at == 0) return std::unexpected(Trouble::no_number);
    return Quantity{number, text.substr(at)};
}

template <std::size_t count>
const Unit* find_unit(const std::array<Unit, count>& units, std::string_view name) {
    for (const Unit& unit : units)
        if (unit.name == name) return &unit;
    return nullptr;
}

template <std::size_t count>
std::string format(const std::array<Unit, count>& units, std::uint64_t amount) {
    if (amount == 0) return "0";
    for (const Unit& unit : units)
        if (amount % unit.factor == 0) return fmt::format("{}{}", amount / unit.factor, unit.name);
    return fmt::format("{}{}", amount, units.back().name);
}

}  // namespace

std::expected<Milliseconds, std::string> parse_duration(std::string_view text) {
    const auto too_large = [&] {
        return fmt::format("the duration \"{}\" is too large (at most 36500d)", text);
    };
    const auto malformed = [&] {
        return fmt::format("\"{}\" is not a duration (write it like 250ms, 5s, 10m, 1h, or 0 for off)", text);
    };

    if (text.starts_with('-')) return std::unexpected(fmt::format("the duration \"{}\" is negative", text));
    const auto quantity = split(text);
    if (!quantity) return std::unexpected(quantity.error() == Trouble::too_large ? too_large() : malformed());
    if (quantity->unit.empty()) {
        if (quantity->number == 0) return Milliseconds(0);
        return std::unexpected(fmt::format(
            "the duration \"{0}\" has no unit (write {0}ms for milliseconds or {0}s for seconds)", text));
    }
    const Unit* unit = find_unit(duration_units, quantity->unit);
    if (unit == nullptr) return std::unexpected(malformed());
    if (quantity->number > duration_ms_max / unit->factor) return std::unexpected(too_large());
    return Milliseconds(static_cast<Milliseconds::rep>(quantity->number * unit->factor));
}

std::string format_duration(Milliseconds duration) {
    return format(duration_units, static_cast<std::uint64_t>(duration.count()));
}

std::expected<std::uint64_t, std::string> parse_size(std::string_view text) {
    const auto too_large = [&] { return fmt::format("the size \"{}\" is too large", text); };
    const auto malformed = [&] {
        return fmt::format("\"{}\" is not a size (write it like 64KiB, 1MiB, 1GiB, or plain bytes)", text);
    };

    if (text.starts_with('-')) return std::unexpected(fmt::format("the size \"{}\" is negative", text));
    const auto quantity = split(text);
    if (!quantity) return std::unexpected(quantity.error() == Trouble::too_large ? too_large() : malformed());
    if (quantity->unit.empty()) return quantity->number;
    const Unit* unit = find_unit(size_units, quantity->unit);
    if (unit == nullptr) return std::unexpected(malformed());
    if (quantity->number > std::numeric_limits<std::uint64_t>::max() / unit->factor)
        return std::unexpected(too_large());
    return quantity->number * unit->factor;
}

std::string format_size(std::uint64_t bytes) {
    return format(size_units, bytes);
}

}  // namespace sluice

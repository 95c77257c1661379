#include "sluice/config/scalars.hpp"

#include "sluice/base/suggest.hpp"
#include "sluice/base/units.hpp"
#include "sluice/config/addresses.hpp"
#include "sluice/config/characters.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

namespace sluice::config {
namespace {

constexpr std::size_t name_bytes_max = 300;   // a DNS name with its port, which is a default name, and more
constexpr std::size_t path_bytes_max = 4095;  // PATH_MAX with its NUL

bool is_digit(char letter) {
    return letter >= '0' && letter <= '9';
}

// Empty when the text is no number; saturated when it is a large one.
std::optional<std::uint64_t> parse_count(std::string_view text) {
    constexpr std::uint64_t saturated = std::uint64_t{1} << 53;
    if (text.empty() || !std::ranges::all_of(text, is_digit)) return std::nullopt;
    std::uint64_t number = 0;
    for (const char letter : text)
        number = std::min(saturated, number * 10 + static_cast<std::uint64_t>(letter - '0'));
    return number;
}

// The text of a number with or without a unit. 010 is 8 to YAML 1.1 and 10 to YAML 1.2: we do not guess.
const std::string* number_text(Document& document, const Value& value, std::string_view expected) {
    const std::string* text = document.text(value, expected);
    if (text == nullptr || text->size() < 2 || (*text)[0] != '0' || !is_digit((*text)[1])) return text;
    document.complain(value.place, fmt::format("{} begins with a zero: {} (write the number without it)",
                                               value.what, in_quotes(*text)));
    return nullptr;
}

bool check_text(Document& document, Place place, std::string_view what, std::string_view text,
                std::size_t bytes_max, bool blanks) {
    if (text.size() > bytes_max) {
        document.complain(place,
                          fmt::format("{} is {} bytes long (at most {})", what, text.size(), bytes_max));
        return false;
    }
    if (!has_control(text) && (blanks || text.find(' ') == std::string_view::npos)) return true;
    document.complain(place,
                      fmt::format("{} contains {}control characters", what, blanks ? "" : "blanks or "));
    return false;
}

template <class Parse>
std::optional<Endpoint> read_address(Document& document, const Value& value, std::string_view expected,
                                     Parse parse) {
    const std::string* text = document.text(value, expected);
    if (text == nullptr) return std::nullopt;
    auto endpoint = parse(*text);
    if (endpoint) return *endpoint;
    document.complain(value.place, endpoint.error());
    return std::nullopt;
}

// One value alone, or the items of a list.
std::vector<Value> one_or_list(Document& document, const Value& value, std::string_view expected) {
    if (!value.node.IsSequence()) return {value};
    return document.items(value, expected, value.what).value_or(std::vector<Value>());
}

}  // namespace

std::optional<bool> parse_flag(std::string_view text) {
    if (text == "true" || text == "on" || text == "yes") return true;
    if (text == "false" || text == "off" || text == "no") return false;
    return std::nullopt;
}

bool check_name(Document& document, Place place, std::string_view what, std::string_view name) {
    if (!name.empty()) return check_text(document, place, what, name, name_bytes_max, false);
    document.complain(place, fmt::format("{} is empty", what));
    return false;
}

void complain_word(Document& document, const Value& value, std::string_view word,
                   std::span<const std::string_view> words, std::span<const std::string_view> later) {
    if (std::ranges::find(later, word) != later.end()) {
        document.complain(value.place, fmt::format("{} for {} is not supported by this build yet",
                                                   in_quotes(word), value.what));
        return;
    }
    const std::string guess = did_you_mean(word, words);
    document.complain(
        value.place,
        fmt::format("unknown value {} for {}{}", in_quotes(word), value.what,
                    guess.empty() ? fmt::format(" (one of: {})", fmt::join(words, ", ")) : guess));
}

void read_scalar(Document& document, const Value& value, Flag, bool& into) {
    const std::string* text = document.text(value, "true or false");
    if (text == nullptr) return;
    if (const auto flag = parse_flag(*text))
        into = *flag;
    else
        document.complain(value.place,
                          fmt::format("{} must be true or false, not {}", value.what, in_quotes(*text)));
}

void read_scalar(Document& document, const Value& value, Count form, std::uint32_t& into) {
    const std::string* text = number_text(document, value, "a number");
    if (text == nullptr) return;
    const auto number = parse_count(*text);
    if (!number && !(text->starts_with('-') && parse_count(std::string_view(*text).substr(1))))
        document.complain(value.place,
                          fmt::format("{} must be a whole number, not {}", value.what, in_quotes(*text)));
    else if (!number || *number < form.min || *number > form.max)
        document.complain(value.place, fmt::format("{} is out of range: {} (from {} to {})", value.what,
                                                   *text, form.min, form.max));
    else
        into = static_cast<std::uint32_t>(*number);
}

void read_scalar(Document& document, const Value& value, CountOrAuto form, std::uint32_t& into) {
    const std::string* text = document.text(value, "a number or auto");
    if (text == nullptr) return;
    constexpr std::array<std::string_view, 1> words{"auto"};
    if (*text == "auto")
        into = 0;
    else if (const std::string guess = did_you_mean(*text, words); !guess.empty())
        document.complain(value.place,
                          fmt::format("unknown value {} for {}{}", in_quotes(*text), value.what, guess));
    else
        read_scalar(document, value, Count{.min = 1, .max = form.max}, into);
}

void read_scalar(Document& document, const Value& value, Duration form, Milliseconds& into) {
    const std::string* text = number_text(document, value, "a duration");
    if (text == nullptr) return;
    const auto duration = parse_duration(*text);
    if (!duration)
        document.complain(value.place, fmt::format("{}: {}", value.what, duration.error()));
    else if (*duration < form.min)
        document.complain(value.place, fmt::format("{} is too short: {} (at least {})", value.what, *text,
                                                   format_duration(form.min)));
    else if (*duration > form.max)
        document.complain(value.place, fmt::format("{} is too long: {} (at most {})", value.what, *text,
                                                   format_duration(form.max)));
    else if (*duration % form.step != Milliseconds(0))
        document.complain(value.place, fmt::format("{} must be a multiple of {}: {}", value.what,
                                                   format_duration(form.step), *text));
    else
        into = *duration;
}

void read_scalar(Document& document, const Value& value, Size form, std::uint64_t& into) {
    const std::string* text = number_text(document, value, "a size");
    if (text == nullptr) return;
    const auto size = parse_size(*text);
    if (!size)
        document.complain(value.place, fmt::format("{}: {}", value.what, size.error()));
    else if (*size > form.max)
        document.complain(value.place, fmt::format("{} is too large: {} (at most {})", value.what, *text,
                                                   format_size(form.max)));
    else
        into = *size;
}

void read_scalar(Document& document, const Value& value, Text form, std::string& into) {
    const std::string* text = document.text(value, "text");
    if (text != nullptr && check_text(document, value.place, value.what, *text, form.bytes_max, false))
        into = *text;
}

void read_scalar(Document& document, const Value& value, Name, std::string& into) {
    const std::string* text = document.text(value, "text");
    if (text != nullptr && check_name(document, value.place, value.what, *text)) into = *text;
}

void read_scalar(Document& document, const Value& value, Name form, Placed<std::string>& into) {
    into.place = value.place;
    read_scalar(document, value, form, into.value);
}

void read_scalar(Document& document, const Value& value, PoolName, Placed<std::string>& into) {
    into.place = value.place;
    const std::string* text = document.text(value, "the name of a pool");
    if (text != nullptr && check_name(document, value.place, value.what, *text)) into.value = *text;
}

void read_scalar(Document& document, const Value& value, BindList, std::vector<Placed<Endpoint>>& into) {
    constexpr std::string_view expected = "an address or a list of addresses";
    if (value.node.IsSequence() && value.node.size() == 0)
        document.complain(value.place, fmt::format("{} is an empty list", value.what));
    for (const Value& item : one_or_list(document, value, expected))
        if (const auto endpoint = read_address(document, item, expected, parse_bind))
            into.push_back({.value = *endpoint, .place = item.place});
}

void read_scalar(Document& document, const Value& value, Target, Placed<std::optional<Endpoint>>& into) {
    into.place = value.place;
    into.value = read_address(document, value, "an address", parse_target);
}

void read_scalar(Document& document, const Value& value, Target, Endpoint& into) {
    if (const auto endpoint = read_address(document, value, "an address", parse_target)) into = *endpoint;
}

void read_scalar(Document& document, const Value& value, OutputForm, Output& into) {
    const std::string* text = document.text(value, "a word");
    if (text == nullptr) return;
    constexpr std::string_view file = name_of(Output::Kind::file);
    if (text->starts_with(file)) {
        const std::string_view path = std::string_view(*text).substr(file.size());
        if (!path.starts_with('/') || path.ends_with('/'))
            document.complain(value.place,
                              fmt::format("{} must name a file by its absolute path (file:/path), not {}",
                                          value.what, in_quotes(*text)));
        else if (check_text(document, value.place, value.what, path, path_bytes_max, true))
            into = {.kind = Output::Kind::file, .path = std::string(path)};
    } else if (*text == "file") {
        document.complain(value.place, fmt::format("{} needs a path (file:/path)", value.what));
    } else {
        Output output = into;
        output.path.clear();
        read_scalar(document, value, Choice{}, output.kind);
        into = output;
    }
}

void read_scalar(Document& document, const Value& value, EventList, AccessEvents& into) {
    constexpr auto words = names_of<AccessEvents>();
    into = {.accept = false, .connect = false, .periodic = false, .close = false};
    if (value.node.IsScalar() && parse_flag(value.node.Scalar()) == false) return;
    for (const Value& item : one_or_list(document, value, "a list of events")) {
        const std::string* text = document.text(item, "a list of events");
        if (text == nullptr) continue;
        const auto event =
            std::ranges::find(Choices<AccessEvents>::names, *text, &ChoiceName<bool AccessEvents::*>::name);
        if (event == Choices<AccessEvents>::names.end())
            complain_word(document, item, *text, words, Choices<AccessEvents>::later);
        else if (std::exchange(into.*event->value, true))
            document.complain(item.place, fmt::format("duplicate event {}", in_quotes(*text)));
    }
}

void read_scalar(Document& document, const Value& value, ServerList, std::vector<std::string>& into) {
    const auto items = document.items(value, "a list of addresses", value.what);
    if (!items) return;
    into.clear();
    for (const Value& item : *items) {
        const auto endpoint = read_address(document, item, "a list of addresses", parse_name_server);
        if (!endpoint) continue;
        std::string server = to_string(*endpoint);
        if (std::ranges::find(into, server) != into.end())
            document.complain(item.place, fmt::format("duplicate name server {}", in_quotes(server)));
        else if (into.size() < name_servers_max)
            into.push_back(std::move(server));
        else
            document.complain(item.place, fmt::format("more than {} name servers", name_servers_max));
    }
}

}  // namespace sluice::config

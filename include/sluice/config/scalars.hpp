#pragma once

#include "sluice/config/document.hpp"
#include "sluice/config/fields.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Reads the forms of fields.hpp that are one text, or a list of texts. Each complains of what it cannot read
// and then leaves the member as it was.
namespace sluice::config {

void read_scalar(Document& document, const Value& value, Flag, bool& into);
void read_scalar(Document& document, const Value& value, Count form, std::uint32_t& into);
void read_scalar(Document& document, const Value& value, CountOrAuto form, std::uint32_t& into);
void read_scalar(Document& document, const Value& value, Duration form, Milliseconds& into);
void read_scalar(Document& document, const Value& value, Size form, std::uint64_t& into);
void read_scalar(Document& document, const Value& value, Text form, std::string& into);
void read_scalar(Document& document, const Value& value, Name, std::string& into);
void read_scalar(Document& document, const Value& value, Name form, Placed<std::string>& into);
void read_scalar(Document& document, const Value& value, PoolName, Placed<std::string>& into);
void read_scalar(Document& document, const Value& value, BindList, std::vector<Placed<Endpoint>>& into);
void read_scalar(Document& document, const Value& value, Target, Placed<std::optional<Endpoint>>& into);
void read_scalar(Document& document, const Value& value, Target, Endpoint& into);
void read_scalar(Document& document, const Value& value, OutputForm, Output& into);
void read_scalar(Document& document, const Value& value, EventList, AccessEvents& into);
void read_scalar(Document& document, const Value& value, ServerList, std::vector<std::string>& into);

// True or false for the words for it in YAML 1.1, which people go on using.
[[nodiscard]] std::optional<bool> parse_flag(std::string_view text);

// Whether a text can be a name in logs: not empty, not too long, no blanks.
[[nodiscard]] bool check_name(Document& document, Place place, std::string_view what, std::string_view name);

// Says that none of the words was written, and which one may have been meant.
void complain_word(Document& document, const Value& value, std::string_view word,
                   std::span<const std::string_view> words, std::span<const std::string_view> later);

template <class Enum>
void read_scalar(Document& document, const Value& value, Choice, Enum& into) {
    constexpr auto words = names_of<Enum>();
    const std::string* text = document.text(value, "a word");
    if (text == nullptr) return;
    for (const auto& choice : Choices<Enum>::names) {
        if (choice.name != *text) continue;
        into = choice.value;
        return;
    }
    complain_word(document, value, *text, words, Choices<Enum>::later);
}

}  // namespace sluice::config

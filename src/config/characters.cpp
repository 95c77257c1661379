#include "sluice/config/characters.hpp"

#include <fmt/format.h>

namespace sluice::config {
namespace {

unsigned byte_at(std::string_view text, std::size_t at) {
    return static_cast<unsigned char>(text[at]);
}

// The bytes that the character at the front must have by its lead, and the bounds of its second byte. They
// leave out what has a shorter form, surrogates, and what lies past U+10FFFF (Unicode standard, table 3-7).
struct Form {
    std::size_t bytes = 0;
    unsigned low = 0x80;
    unsigned high = 0xbf;
};

Form form_of(unsigned lead) {
    if (lead < 0x80) return {.bytes = 1};
    if (lead >= 0xc2 && lead <= 0xdf) return {.bytes = 2};
    if (lead >= 0xe0 && lead <= 0xef)
        return {.bytes = 3, .low = lead == 0xe0 ? 0xa0u : 0x80u, .high = lead == 0xed ? 0x9fu : 0xbfu};
    if (lead >= 0xf0 && lead <= 0xf4)
        return {.bytes = 4, .low = lead == 0xf0 ? 0x90u : 0x80u, .high = lead == 0xf4 ? 0x8fu : 0xbfu};
    return {};
}

}  // namespace

Character first_character(std::string_view text) {
    const unsigned lead = byte_at(text, 0);
    const Form form = form_of(lead);
    if (form.bytes == 0 || form.bytes > text.size()) return {};
    if (form.bytes == 1) return {.bytes = 1, .code = lead};
    char32_t code = lead & (0x7fu >> form.bytes);
    for (std::size_t at = 1; at < form.bytes; ++at) {
        const unsigned byte = byte_at(text, at);
        if (byte < (at == 1 ? form.low : 0x80u) || byte > (at == 1 ? form.high : 0xbfu)) return {};
        code = (code << 6) | (byte & 0x3fu);
    }
    return {.bytes = form.bytes, .code = code};
}

bool is_control(char32_t code) {
    return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x2028 || code == 0x2029;
}

bool has_control(std::string_view text) {
    while (!text.empty()) {
        const Character character = first_character(text);
        if (character.bytes == 0 || is_control(character.code)) return true;
        text.remove_prefix(character.bytes);
    }
    return false;
}

std::string printable(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const Character character = first_character(text);
        if (character.bytes == 0) {
            out += fmt::format("\\x{:02x}", byte_at(text, 0));
            text.remove_prefix(1);
            continue;
        }
        if (character.code == '\n')
            out += "\\n";
        else if (is_control(character.code))
            out += fmt::format("\\{}{:02x}", character.code < 0x100 ? 'x' : 'u',
                               static_cast<std::uint32_t>(character.code));
        else
            out += text.substr(0, character.bytes);
        text.remove_prefix(character.bytes);
    }
    return out;
}

}  // namespace sluice::config

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// The characters of a text in UTF-8: what may stand in a file, in a name, in a message on a terminal.
namespace sluice::config {

struct Character {
    std::size_t bytes = 0;  // 0 = what stands here is no UTF-8
    char32_t code = 0;
};

// REQUIRES: text is not empty.
[[nodiscard]] Character first_character(std::string_view text);

// What a terminal or a reader of log lines may obey instead of showing it: the control characters of ASCII
// and of Latin 1, and Unicode's two line ends.
[[nodiscard]] bool is_control(char32_t code);
[[nodiscard]] bool has_control(std::string_view text);

// The text with every control character written out, such as `\x1b`, and every stray byte likewise.
[[nodiscard]] std::string printable(std::string_view text);

}  // namespace sluice::config

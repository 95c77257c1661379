#include "sluice/config/characters.hpp"

#include <doctest/doctest.h>

namespace sluice::config {
namespace {

TEST_CASE("a character is read with its length and its code") {
    const auto check = [](std::string_view text, std::size_t bytes, char32_t code) {
        const Character character = first_character(text);
        CHECK(character.bytes == bytes);
        CHECK(static_cast<std::uint32_t>(character.code) == static_cast<std::uint32_t>(code));
    };
    check("ab", 1, U'a');
    check(std::string_view("\0", 1), 1, 0);
    check("\xc3\xa4x", 2, 0xe4);
    check("\xe2\x82\xac", 3, 0x20ac);
    check("\xf0\x9f\x98\x80", 4, 0x1f600);
    check("\xf4\x8f\xbf\xbf", 4, 0x10ffff);
}

TEST_CASE("what is no UTF-8 is no character") {
    for (const char* text : {"\x80", "\xc3", "\xc3x", "\xc0\x80", "\xe2\x82", "\xe0\x80\x80", "\xed\xa0\x80",
                             "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80", "\xff"})
        CHECK_MESSAGE(first_character(text).bytes == 0, text);
}

TEST_CASE("control characters are found in any length, and letters are none") {
    for (const char* text :
         {"\n", "\x1b", "\x7f", "\xc2\x85", "\xc2\x9b", "\xe2\x80\xa8", "\xe2\x80\xa9", "a\xff"})
        CHECK_MESSAGE(has_control(text), text);
    for (const char* text : {"", "a b", "\xc2\xa0", "\xc3\xa4", "\xe2\x82\xac"})
        CHECK_MESSAGE(!has_control(text), text);
}

TEST_CASE("a printable text shows what it would do") {
    CHECK(printable("a\nb\x1b[0m\xc2\x9b\xe2\x80\xa8\xff\xc3\xa4") ==
          "a\\nb\\x1b[0m\\x9b\\u2028\\xff\xc3\xa4");
}

}  // namespace
}  // namespace sluice::config

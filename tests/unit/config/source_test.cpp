#include "sluice/config/source.hpp"

#include <doctest/doctest.h>

namespace sluice::config {
namespace {

// The simple way to the same answer.
int column_by_counting(std::string_view line, std::size_t bytes) {
    int column = 1;
    for (const char byte : line.substr(0, bytes))
        if ((static_cast<unsigned char>(byte) & 0xc0) != 0x80) ++column;
    return column;
}

TEST_CASE("a place counts lines and characters from one, wherever it is") {
    // Lines of many lengths, around the size of the blocks in which the source counts.
    std::vector<std::string> lines;
    std::string text;
    for (std::size_t length = 0; length < 150; length += 7) {
        lines.emplace_back();
        for (std::size_t at = 0; at < length; ++at) lines.back() += at % 3 == 0 ? "\xe2\x82\xac" : "x";
        text += lines.back() + "\n";
    }
    const auto source = Source::of(text, "t");
    REQUIRE(source);
    for (std::size_t line = 0; line < lines.size(); ++line) {
        for (std::size_t bytes = 0; bytes <= lines[line].size(); ++bytes) {
            const Place place = source->place(line, bytes);
            CHECK(place.line == static_cast<int>(line + 1));
            CHECK(place.column == column_by_counting(lines[line], bytes));
        }
        CHECK(source->line(static_cast<int>(line + 1)) == lines[line]);
    }
    CHECK(source->line(0).empty());
    CHECK(source->line(1000).empty());
}

TEST_CASE("the end of a text is a place, however long the text is") {
    for (std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{63}, std::size_t{64},
                             std::size_t{65}, std::size_t{128}}) {
        const auto source = Source::of(std::string(size, 'x'), "t");
        REQUIRE(source);
        CHECK(source->place(0, size).column == static_cast<int>(size + 1));
        CHECK(source->place(0, size + 100).column == static_cast<int>(size + 1));
    }
}

TEST_CASE("a byte order mark is no part of the text") {
    const auto source = Source::of(
        "\xef\xbb\xbf"
        "a",
        "t");
    REQUIRE(source);
    CHECK(source->text() == "a");
}

TEST_CASE("the first character that is no text is named by its place") {
    const auto refused = [](std::string_view text) {
        const auto source = Source::of(text, "t");
        REQUIRE_FALSE(source);
        return to_string(source.error());
    };
    CHECK(refused("a\n\xc3\xa4\xff").starts_with("t:2:2: not text"));
    CHECK(refused("\xef\xbb\xbf"
                  "ab\x1b")
              .starts_with("t:1:3: not text"));
    CHECK(refused("a\rb").starts_with("t:1:2: not text"));
    CHECK(refused(std::string((std::size_t{4} << 20) + 1, 'x')).starts_with("t: the file is larger"));
    CHECK(Source::of("a\t\r\nb", "t"));
}

}  // namespace
}  // namespace sluice::config

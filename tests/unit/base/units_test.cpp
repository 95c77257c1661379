#include "sluice/base/units.hpp"

#include <doctest/doctest.h>

#include <limits>

namespace sluice {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

TEST_CASE("a duration is read in each of its units") {
    CHECK(parse_duration("250ms").value() == Milliseconds(250));
    CHECK(parse_duration("5s").value() == seconds(5));
    CHECK(parse_duration("10m").value() == minutes(10));
    CHECK(parse_duration("1h").value() == hours(1));
    CHECK(parse_duration("2d").value() == hours(48));
}

TEST_CASE("a zero duration needs no unit and may have one") {
    CHECK(parse_duration("0").value() == Milliseconds(0));
    CHECK(parse_duration("0s").value() == Milliseconds(0));
}

TEST_CASE("a duration without a unit is refused with both readings named") {
    const auto duration = parse_duration("30");
    REQUIRE_FALSE(duration);
    CHECK(duration.error() ==
          "the duration \"30\" has no unit (write 30ms for milliseconds or 30s for seconds)");
}

TEST_CASE("text that is no duration is refused") {
    for (const char* text :
         {"", "s", "-5s", "+5s", "5 s", " 5s", "5s ", "1.5s", "5sec", "5S", "0x5s", "1h30m", "1e3s", "fast",
          "99999999999999999999s", "18446744073709551615h", "36501d"})
        CHECK_MESSAGE(!parse_duration(text), text);
}

TEST_CASE("the largest duration is accepted and one unit more is refused") {
    CHECK(parse_duration("36500d").value() == hours(36500 * 24));
    CHECK_FALSE(parse_duration("876001h"));
}

TEST_CASE("a duration is written in the largest unit that loses nothing") {
    CHECK(format_duration(Milliseconds(0)) == "0");
    CHECK(format_duration(Milliseconds(1500)) == "1500ms");
    CHECK(format_duration(seconds(90)) == "90s");
    CHECK(format_duration(minutes(5)) == "5m");
    CHECK(format_duration(hours(1)) == "1h");
    CHECK(format_duration(hours(48)) == "2d");
}

TEST_CASE("every written duration reads back to itself") {
    for (std::int64_t amount = 1; amount < 10'000'000'000; amount = amount * 3 + 7)
        CHECK(parse_duration(format_duration(Milliseconds(amount))).value() == Milliseconds(amount));
}

TEST_CASE("a size is read in each of its units") {
    CHECK(parse_size("0").value() == 0);
    CHECK(parse_size("1500").value() == 1500);
    CHECK(parse_size("512B").value() == 512);
    CHECK(parse_size("64KiB").value() == 65536);
    CHECK(parse_size("1MiB").value() == 1048576);
    CHECK(parse_size("1GiB").value() == 1073741824);
    CHECK(parse_size("2TiB").value() == 2199023255552);
    CHECK(parse_size("18446744073709551615").value() == std::numeric_limits<std::uint64_t>::max());
}

TEST_CASE("text that is no size is refused") {
    for (const char* text : {"", "KiB", "-1", "1KB", "1kb", "1 KiB", "1.5MiB", "0x10", "much",
                             "18446744073709551616", "16777216TiB"})
        CHECK_MESSAGE(!parse_size(text), text);
}

TEST_CASE("every written size reads back to itself") {
    CHECK(format_size(0) == "0");
    CHECK(format_size(65536) == "64KiB");
    CHECK(format_size(1500) == "1500B");
    CHECK(format_size(std::uint64_t{3} << 30) == "3GiB");
    for (int shift = 0; shift < 64; ++shift) {
        const std::uint64_t bytes = std::uint64_t{1} << shift;
        CHECK(parse_size(format_size(bytes)).value() == bytes);
        CHECK(parse_size(format_size(bytes - 1)).value() == bytes - 1);
    }
}

}  // namespace
}  // namespace sluice

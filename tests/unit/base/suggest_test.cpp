#include "sluice/base/suggest.hpp"

#include <doctest/doctest.h>

#include <array>

namespace sluice {
namespace {

constexpr std::array<std::string_view, 5> keys{"balance", "backends", "retries", "tcp", "to"};

TEST_CASE("a slip of the finger is matched to the word it was meant to be") {
    CHECK(closest_match("ballance", keys) == "balance");
    CHECK(closest_match("blaance", keys) == "balance");
    CHECK(closest_match("Balance", keys) == "balance");
    CHECK(closest_match("backend", keys) == "backends");
    CHECK(closest_match("tpc", keys) == "tcp");
    CHECK(closest_match("too", keys) == "to");
}

TEST_CASE("a word that resembles nothing gets no suggestion") {
    CHECK(closest_match("weather", keys).empty());
    CHECK(closest_match("x", keys).empty());
    CHECK(closest_match("", keys).empty());
    CHECK(closest_match(std::string(100'000, 'b'), keys).empty());
    CHECK(closest_match("balance", {}).empty());
}

TEST_CASE("a suggestion is ready to be appended to a message") {
    CHECK(did_you_mean("ballance", keys) == " (did you mean \"balance\"?)");
    CHECK(did_you_mean("weather", keys).empty());
}

}  // namespace
}  // namespace sluice

#include "sluice/config/diagnostic.hpp"

#include <doctest/doctest.h>

namespace sluice::config {
namespace {

TEST_CASE("a diagnostic is file, line, column and message, or file and message") {
    CHECK(to_string({.file = "f", .place = {3, 7}, .message = "m"}) == "f:3:7: m");
    CHECK(to_string({.file = "f", .place = {}, .message = "m"}) == "f: m");
}

TEST_CASE("a long word is cut between two characters") {
    CHECK(in_quotes("word") == "\"word\"");
    CHECK(in_quotes(std::string(121, 'x')) == '"' + std::string(120, 'x') + "...\"");
    CHECK(in_quotes(std::string(119, 'x') + "\xc3\xa4\xc3\xa4") == '"' + std::string(119, 'x') + "...\"");
}

TEST_CASE("complaints are taken in the order of the file, each one once") {
    Complaints complaints("f");
    CHECK(complaints.empty());
    complaints.add({2, 1}, "late");
    complaints.add({1, 9}, "b");
    complaints.add({1, 9}, "a\n");
    complaints.add({2, 1}, "late");
    const auto taken = complaints.take();
    REQUIRE(taken.size() == 3);
    CHECK(to_string(taken[0]) == "f:1:9: a\\n");
    CHECK(to_string(taken[1]) == "f:1:9: b");
    CHECK(to_string(taken[2]) == "f:2:1: late");
}

}  // namespace
}  // namespace sluice::config

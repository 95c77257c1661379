#include "sluice/base/check.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <signal.h>

#include <string>

namespace sluice {
namespace {

TEST_CASE("a kept promise costs nothing and its condition is evaluated once") {
    int evaluations = 0;
    SLUICE_CHECK(++evaluations == 1);
    CHECK(evaluations == 1);
}

TEST_CASE("a broken promise ends the process and names itself and its place") {
    const int balance = 3;
    const test::Death death = test::death_of([&] { SLUICE_CHECK(balance == 0); });
    CHECK(death.signal == SIGABRT);
    CHECK(death.broke_promise("balance == 0"));
    CHECK(death.error.find("check_test.cpp:") != std::string::npos);
}

TEST_CASE("a check is one statement: it stands in an if without braces") {
    bool reached_else = false;
    if (!reached_else)
        SLUICE_CHECK(true);
    else
        reached_else = true;
    CHECK_FALSE(reached_else);
}

}  // namespace
}  // namespace sluice

#include "sluice/upstream/pool.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <csignal>
#include <initializer_list>
#include <string>
#include <vector>

namespace sluice {
namespace {

config::Pool settings_for(std::initializer_list<const char*> backends, std::uint32_t retries = 2) {
    config::Pool settings;
    settings.retries = retries;
    for (const char* text : backends) {
        config::Backend backend;
        backend.name = text;
        backend.address = *parse_endpoint(text);
        settings.backends.push_back(backend);
    }
    return settings;
}

AddressList addresses(std::initializer_list<const char*> hosts) {
    std::vector<SocketAddress> list;
    for (const char* host : hosts) list.push_back(*SocketAddress::from_literal(host, 80));
    return std::make_shared<const std::vector<SocketAddress>>(std::move(list));
}

// The next choice as text: an address, "pending" or "none".
std::string next(Pool& pool, Pool::Attempt& attempt) {
    const Pool::Choice choice = pool.choose(attempt);
    switch (choice.next) {
        case Pool::Next::address: return to_string(choice.target);
        case Pool::Next::pending: return "pending";
        case Pool::Next::none: return "none";
    }
    return "?";
}

std::string first_of_a_session(Pool& pool) {
    Pool::Attempt attempt;
    return next(pool, attempt);
}

TEST_CASE("sessions take the backends in turn") {
    const auto settings = settings_for({"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"});
    Pool pool(settings);
    for (int round = 0; round < 3; ++round) {
        CHECK(first_of_a_session(pool) == "10.0.0.1:80");
        CHECK(first_of_a_session(pool) == "10.0.0.2:80");
        CHECK(first_of_a_session(pool) == "10.0.0.3:80");
    }
}

TEST_CASE("after a failure the session goes on to as many other backends as retries allow") {
    const auto settings = settings_for({"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"}, 2);
    Pool pool(settings);
    first_of_a_session(pool);
    first_of_a_session(pool);
    Pool::Attempt attempt;
    CHECK(next(pool, attempt) == "10.0.0.3:80");
    CHECK(attempt.backend == 2);
    CHECK(next(pool, attempt) == "10.0.0.4:80");
    CHECK(next(pool, attempt) == "10.0.0.1:80");
    CHECK(next(pool, attempt) == "none");
    CHECK(next(pool, attempt) == "none");
    // Retries do not disturb the turn of the others.
    CHECK(first_of_a_session(pool) == "10.0.0.4:80");
}

TEST_CASE("no backend is tried twice, however many retries there are") {
    const auto settings = settings_for({"10.0.0.1:80", "10.0.0.2:80"}, 100);
    Pool pool(settings);
    Pool::Attempt attempt;
    CHECK(next(pool, attempt) == "10.0.0.1:80");
    CHECK(next(pool, attempt) == "10.0.0.2:80");
    CHECK(next(pool, attempt) == "none");
}

TEST_CASE("retries of 0 try one backend, and all of its addresses") {
    const auto settings = settings_for({"db:80", "10.0.0.2:80"}, 0);
    Pool pool(settings);
    pool.learn(0, addresses({"10.1.0.1", "10.1.0.2", "10.1.0.3"}));
    Pool::Attempt attempt;
    CHECK(next(pool, attempt) == "10.1.0.1:80");
    CHECK(next(pool, attempt) == "10.1.0.2:80");
    CHECK(next(pool, attempt) == "10.1.0.3:80");
    CHECK(next(pool, attempt) == "none");
}

TEST_CASE("the other addresses of a backend come before the other backends") {
    const auto settings = settings_for({"db:80", "10.0.0.2:80"});
    Pool pool(settings);
    pool.learn(0, addresses({"10.1.0.1", "10.1.0.2"}));
    Pool::Attempt attempt;
    CHECK(next(pool, attempt) == "10.1.0.1:80");
    CHECK(attempt.backends_tried == 1);
    CHECK(next(pool, attempt) == "10.1.0.2:80");
    CHECK(attempt.backends_tried == 1);
    CHECK(next(pool, attempt) == "10.0.0.2:80");
    CHECK(attempt.backends_tried == 2);
    CHECK(next(pool, attempt) == "none");
}

TEST_CASE("while a name is being resolved the session waits; a name that cannot be is no hope") {
    const auto settings = settings_for({"db:80"});
    Pool pool(settings);
    Pool::Attempt attempt;
    CHECK(next(pool, attempt) == "pending");
    CHECK(next(pool, attempt) == "pending");
    pool.learn(0, nullptr);
    CHECK(next(pool, attempt) == "none");
    pool.learn(0, addresses({"10.1.0.1"}));
    CHECK(next(pool, attempt) == "10.1.0.1:80");
}

TEST_CASE("nobody waits for a name while another backend can be dialled") {
    const auto settings = settings_for({"db:80", "10.0.0.2:80"});
    Pool pool(settings);
    for (int session = 0; session < 3; ++session) {
        Pool::Attempt attempt;
        CHECK(next(pool, attempt) == "10.0.0.2:80");
        // It failed, and the only other one is not known yet: that is the end, not a wait.
        CHECK(next(pool, attempt) == "none");
    }
}

TEST_CASE("an empty list of addresses is none, and bad news keep the last good ones") {
    const auto settings = settings_for({"db:80"});
    Pool pool(settings);
    pool.learn(0, addresses({}));
    CHECK(first_of_a_session(pool) == "none");
    pool.learn(0, addresses({"10.1.0.1"}));
    pool.learn(0, nullptr);
    CHECK(first_of_a_session(pool) == "10.1.0.1:80");
    CHECK(pool.backend(0).asked);
}

TEST_CASE("the current address is the one to dial once more, or none if the list became shorter") {
    const auto settings = settings_for({"db:80"});
    Pool pool(settings);
    pool.learn(0, addresses({"10.1.0.1", "10.1.0.2"}));
    Pool::Attempt attempt;
    next(pool, attempt);
    next(pool, attempt);
    CHECK(to_string(pool.current(attempt)) == "10.1.0.2:80");
    pool.learn(0, addresses({"10.1.0.9"}));
    CHECK(pool.current(attempt).family() == AF_UNSPEC);
    CHECK(next(pool, attempt) == "none");
    CHECK(test::death_of([&] {
              static_cast<void>(pool.current(Pool::Attempt{}));
          }).broke_promise("attempt.backend < backends_.size()"));
}

TEST_CASE("literal and unix addresses are known at once, names are not") {
    const auto unix_path = literal_addresses(*parse_endpoint("unix:/run/x"));
    REQUIRE(unix_path);
    CHECK(to_string(unix_path->front()) == "unix:/run/x");
    const auto six = literal_addresses(*parse_endpoint("[::1]:80"));
    REQUIRE(six);
    CHECK(to_string(six->front()) == "[::1]:80");
    CHECK(literal_addresses(*parse_endpoint("db1:80")) == nullptr);
    const auto settings = settings_for({"unix:@x"});
    Pool pool(settings);
    CHECK(pool.backend(0).asked);
    CHECK(first_of_a_session(pool) == "unix:@x");
}

TEST_CASE("a pool without backends is a broken promise") {
    CHECK(test::death_of([] { const Pool pool{config::Pool{}}; }).signal == SIGABRT);
}

}  // namespace
}  // namespace sluice

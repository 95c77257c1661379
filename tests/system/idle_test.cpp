// What sessions cost that do nothing: memory, processor time, descriptors.

#include "tests/support/doctest.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"
#include "tests/system/descriptors.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::size_t sessions_wanted = 5000;
constexpr std::size_t warm_up_sessions = 200;
// Beside those of the sessions: logs, listeners, what the test program itself has open.
constexpr std::size_t descriptors_reserve = 500;
constexpr std::size_t bytes_per_session_max = 1024;

void raise_descriptor_limit() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

// They have spoken once each way, so that nothing of them is still to be set up.
std::vector<RelayWithBackend::Roles> spoken_sessions(RelayWithBackend& relay, std::size_t count) {
    std::vector<RelayWithBackend::Roles> sessions;
    sessions.reserve(count);
    for (std::size_t index = 0; index < count; ++index) {
        sessions.push_back(relay.session_with_roles());
        auto& [client, upstream] = sessions.back();
        client.send_all("ping");
        upstream.receive_exactly(4);
        upstream.send_all("pong");
        client.receive_exactly(4);
    }
    return sessions;
}

ENGINE_TEST("5,000 idle sessions cost two descriptors and at most 1 KiB each, and no processor time") {
    raise_descriptor_limit();
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < 2 * sessions_wanted + descriptors_reserve)
        SLUICE_SKIP("the descriptor limit is " + std::to_string(limit.rlim_cur));
    RelayOptions options;
    options.process.before_exec = raise_descriptor_limit;
    RelayWithBackend relay(here, {}, std::move(options));
    const pid_t pid = relay.relay().pid();
    const std::size_t sockets_at_start = descriptors_of(pid).sockets;

    spoken_sessions(relay, warm_up_sessions);
    REQUIRE(wait_until([&] { return descriptors_of(pid).sockets == sockets_at_start; }));

    const Descriptors descriptors_before = descriptors_of(pid);
    const Memory memory_before = memory_of(pid);
    std::vector<RelayWithBackend::Roles> sessions = spoken_sessions(relay, sessions_wanted);
    const Descriptors descriptors_idle = descriptors_of(pid);
    CHECK(descriptors_idle.sockets - descriptors_before.sockets == 2 * sessions_wanted);
    CHECK(descriptors_idle.pipes == descriptors_before.pipes);
    CHECK(descriptors_idle.others == descriptors_before.others);

    const Memory memory_idle = memory_of(pid);
    const auto per_session = [&](std::size_t before, std::size_t after) {
        return (after - std::min(before, after)) / sessions_wanted;
    };
    const std::size_t dirty = per_session(memory_before.private_dirty, memory_idle.private_dirty);
    const std::size_t resident = per_session(memory_before.resident, memory_idle.resident);
    // At the age of a second each is given its keepalive, once. After that nothing.
    REQUIRE(wait_until([&] { return cpu_share(pid, Milliseconds(1000)) < 0.01; }));
    const double share = cpu_share(pid, Milliseconds(3000));
    std::printf("idle %s: %zu bytes of private memory (%zu resident) per session, %.2f %% of a CPU\n",
                to_string(here.engine), dirty, resident, share * 100);
    // A sanitizer's shadow is no part of the relay.
    if (!sanitized) {
        CHECK(dirty <= bytes_per_session_max);
        CHECK(resident <= bytes_per_session_max);
    }
    CHECK(share < 0.01);

    // They still work, and they all go.
    sessions.front().client.send_all("still there");
    CHECK(sessions.front().upstream.receive_exactly(11) == "still there");
    sessions.clear();
    CHECK(wait_until([&] { return descriptors_of(pid).sockets == descriptors_before.sockets; }));
    CHECK(descriptors_of(pid).pipes == descriptors_before.pipes);
}

}  // namespace
}  // namespace sluice::test

// Which way the bytes take, seen from outside: what strace counts, which descriptors are held, what the log
// says.

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"
#include "tests/system/descriptors.hpp"
#include "tests/system/system_calls.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::uint64_t mebibyte = 1024 * 1024;

// Pumps bytes from one end to the other, and checks nothing but their number.
void move_bytes(Socket& from, Socket& to, std::uint64_t bytes) {
    std::thread sender([&] {
        const std::string block(mebibyte, 'x');
        try {
            for (std::uint64_t left = bytes; left > 0;) {
                const std::uint64_t size = std::min<std::uint64_t>(left, block.size());
                from.send_all(std::string_view(block).substr(0, size));
                left -= size;
            }
        } catch (const std::runtime_error& error) {
            FAIL_CHECK("sending: " << error.what());
        }
    });
    std::string buffer(mebibyte, '\0');
    std::uint64_t received = 0;
    try {
        while (received < bytes) received += to.receive_some(buffer.size()).size();
    } catch (const std::runtime_error& error) {
        FAIL_CHECK("after " << received << " of " << bytes << " bytes: " << error.what());
    }
    if (received < bytes) ::shutdown(to.descriptor(), SHUT_RDWR);  // so that the sender ends, too
    sender.join();
}

#define REQUIRE_STRACE(calls)                                      \
    do {                                                           \
        if (!(calls).attached()) {                                 \
            session.near.close();                                  \
            session.far.close();                                   \
            SLUICE_SKIP("strace cannot attach: " + (calls).why()); \
        }                                                          \
    } while (false)

RELAY_TEST("bulk moves by splice alone") {
    if (!program_available("strace")) SLUICE_SKIP("there is no strace");
    const std::uint64_t bytes = sanitized ? 64 * mebibyte : 1024 * mebibyte;
    RelayLayout layout;
    layout.settings = "timeouts: {idle: 1h, half_closed: 5m, max_age: 2h, connect: 5s}\n";
    RelayWithBackend relay(here, layout);
    Ends session = relay.session();
    move_bytes(session.near, session.far, 16 * mebibyte);
    SystemCalls calls(relay.relay().pid());
    REQUIRE_STRACE(calls);
    move_bytes(session.near, session.far, bytes);
    const auto counts = calls.stop();
    INFO("calls:" << to_string(counts));
    CHECK(counts.contains("splice"));
    for (const auto& [name, count] : counts)
        CHECK_MESSAGE(name == "splice", name << " was called " << count << " times");
    session.near.shutdown_write();
    CHECK(session.far.receive_to_end().ending == Ending::fin);
    session.far.shutdown_write();
    CHECK(session.near.receive_to_end().ending == Ending::fin);
    const AccessLine line = relay.access_log(1).front();
    CHECK(relay.near_to_far(line) == bytes + 16 * mebibyte);
    CHECK(relay.far_to_near(line) == 0);
    // The first reads of every flow are copied, until it has shown that it is bulky.
    CHECK_MESSAGE((line.path == "splice" || line.path == "mixed"), line.text);
}

RELAY_TEST("small messages go by recv and send, on io_uring through the ring, and hold no pipe") {
    if (!program_available("strace")) SLUICE_SKIP("there is no strace");
    RelayWithBackend relay(here);
    const std::size_t pipes_before = descriptors_of(relay.relay().pid()).pipes;
    Ends session = relay.session();
    session.near.send_all("hello");
    session.far.receive_exactly(5);
    SystemCalls calls(relay.relay().pid());
    REQUIRE_STRACE(calls);
    const std::string message = pattern(64, 1);
    for (int round = 0; round < 500; ++round) {
        session.near.send_all(message);
        CHECK(session.far.receive_exactly(message.size()) == message);
        session.far.send_all(message);
        CHECK(session.near.receive_exactly(message.size()) == message);
    }
    auto counts = calls.stop();
    CHECK(counts["splice"] == 0);
    if (here.engine == Engine::io_uring) {
        CHECK(counts["recvfrom"] + counts["recvmsg"] + counts["sendto"] <= 10);
    } else {
        CHECK(counts["recvfrom"] >= 1000);
        CHECK(counts["recvfrom"] <= 1010);  // none that only learns that there is nothing more
        CHECK(counts["sendto"] >= 1000);
        CHECK(counts["sendto"] <= 1010);
    }
    CHECK(descriptors_of(relay.relay().pid()).pipes == pipes_before);
    session.near.shutdown_write();
    CHECK(session.far.receive_to_end().ending == Ending::fin);
    session.far.close();
    CHECK(relay.access_log(1).front().path == "copy");
}

ENGINE_TEST("a session gives its pipe back when its bulk is through") {
    RelayLayout layout;
    layout.settings = "workers: 1\n";
    RelayWithBackend relay(here, layout);
    const pid_t pid = relay.relay().pid();
    const std::size_t pipes_before = descriptors_of(pid).pipes;
    std::vector<Ends> sessions;
    for (int index = 0; index < 60; ++index) {
        sessions.push_back(relay.session());
        move_bytes(sessions.back().near, sessions.back().far, 2 * mebibyte);
    }
    // They took turns, so the pool never had to keep more than one or two pipes: idle sessions hold none.
    CHECK(descriptors_of(pid).pipes <= pipes_before + 8);
    CHECK(descriptors_of(pid).sockets >= 120);
}

RELAY_TEST("the access log tells the path of a session that was bulky and chatty by turns") {
    RelayWithBackend relay(here);
    Ends session = relay.session();
    for (int round = 0; round < 50; ++round) {
        session.near.send_all("ping");
        CHECK(session.far.receive_exactly(4) == "ping");
    }
    move_bytes(session.near, session.far, 32 * mebibyte);
    session.near.close();
    CHECK(session.far.receive_to_end().ending == Ending::fin);
    session.far.close();
    const AccessLine line = relay.access_log(1).front();
    CHECK(line.path == "mixed");
    CHECK(relay.near_to_far(line) == 200 + 32 * mebibyte);
}

}  // namespace
}  // namespace sluice::test

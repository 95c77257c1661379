// Nothing stalls that could go on, and nothing spins that cannot.

#include "tests/system/ends.hpp"

#include <sys/socket.h>

#include <string>
#include <vector>

namespace sluice::test {
namespace {

RELAY_TEST("one-byte segments pass a flow that splices without a pause") {
    RelayWithBackend relay(here);
    Ends ends = relay.session();
    promote(ends.near, ends.far);
    // Sixteen segments fill the slots of a small pipe with sixteen bytes. Forty rounds, as a flow that turned
    // chatty is copied after a few: the first must be as quick as the last, and bulk returns in between.
    const auto start = TestClock::now();
    for (int round = 0; round < 40; ++round) {
        if (round % 10 == 9) promote(ends.near, ends.far);
        const std::string bytes = pattern(16, static_cast<std::uint64_t>(round));
        for (const char byte : bytes) ends.near.send_all({&byte, 1});
        CHECK(ends.far.receive_exactly(16) == bytes);
    }
    // The kernel's trap costs 200 ms each time.
    CHECK(TestClock::now() - start < soon);
    ends.near.close();
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    ends.far.close();
    CHECK(relay.access_log(1).back().path != "copy");
    relay.stop();
}

RELAY_TEST("one-byte segments that met a reader asleep all arrive") {
    RelayWithBackend relay(here, ends_layout());
    Ends ends = relay.session();
    promote(ends.near, ends.far);
    const std::size_t size = ends.near.send_until_full(256 * 1024 * 1024);
    CHECK(ends.far.receive_exactly(size) == pattern(size, 0));
    const std::string bytes = pattern(400, 1);
    for (const char byte : bytes) ends.near.send_all({&byte, 1});
    ends.near.shutdown_write();
    std::this_thread::sleep_for(glance);
    const Received received = ends.far.receive_to_end();
    CHECK(received.bytes == bytes);
    CHECK(received.ending == Ending::fin);
    relay.relay().abandon();
}

RELAY_TEST("a reader that takes a byte now and then keeps its bytes, and holds nobody else back") {
    RelayWithBackend relay(here, ends_layout());
    Ends slow = relay.session();
    promote(slow.near, slow.far);
    const std::size_t size = slow.near.send_until_full(256 * 1024 * 1024);
    const std::string expected = pattern(size, 0);
    std::string received;
    Ends fast = relay.session();
    const std::string bytes = pattern(16 * 1024 * 1024, 2);
    const auto start = TestClock::now();
    for (int round = 0; round < 3; ++round) {
        received += slow.far.receive_exactly(1);
        CHECK(pass(fast.near, fast.far, bytes) == bytes);
        CHECK(pass(fast.far, fast.near, bytes) == bytes);
    }
    CHECK(TestClock::now() - start < 3 * soon);
    received += slow.far.receive_exactly(size - received.size());
    CHECK(received == expected);
    relay.relay().abandon();
}

// Waiting must not cost: sessions in every kind of stall, and the CPU that the relay uses meanwhile.
RELAY_TEST("stalled sessions cost no CPU, and go on when they can") {
    RelayWithBackend relay(here, ends_layout());
    // Both sides write and neither reads.
    Ends both = relay.session();
    const std::size_t there = both.near.send_until_full(256 * 1024 * 1024);
    const std::size_t back = both.far.send_until_full(256 * 1024 * 1024);
    // The writer has closed altogether (HUP) while the reader sleeps.
    Ends closed = relay.session();
    promote(closed.near, closed.far);
    const std::size_t left = closed.near.send_until_full(256 * 1024 * 1024);
    closed.near.close();
    // Half-closed, and waiting for an answer.
    Ends half = relay.session();
    half.near.shutdown_write();
    CHECK(half.far.receive_to_end().ending == Ending::fin);
    // Connected, and never a word.
    Ends silent = relay.session();
    // Last, because it lives ten seconds at most: reset, while the other does not read.
    Ends broken = relay.session();
    promote(broken.near, broken.far);
    broken.near.send_until_full(256 * 1024 * 1024);
    broken.near.reset();

    CHECK(comes_to_rest(relay.relay().pid()));

    // Others are served meanwhile, and these go on.
    const std::string bytes = pattern(2 * 1024 * 1024, 2);
    CHECK(pass(silent.near, silent.far, bytes) == bytes);
    CHECK(pass(half.far, half.near, bytes) == bytes);
    CHECK(both.far.receive_exactly(there) == pattern(there, 0));
    CHECK(both.near.receive_exactly(back) == pattern(back, 0));
    const Received rest = closed.far.receive_to_end();
    CHECK(rest.bytes == pattern(left, 0));
    CHECK(rest.ending == Ending::fin);
    CHECK(broken.far.receive_to_end().ending == Ending::reset);
    relay.relay().abandon();
}

// Urgent data: the kernel stops every read and every splice at the mark. It is relayed in its place.
RELAY_TEST("an urgent byte is relayed in its place, and what follows it too") {
    RelayWithBackend relay(here);
    for (const Path path : {Path::copy, Path::splice}) {
        CAPTURE(static_cast<int>(path));
        Ends ends = relay.session();
        if (path == Path::splice) promote(ends.near, ends.far);
        const auto start = TestClock::now();
        for (int round = 0; round < 3; ++round) {
            ends.near.send_all("before");
            REQUIRE(::send(ends.near.descriptor(), "!", 1, MSG_OOB | MSG_NOSIGNAL) == 1);
            ends.near.send_all("after");
            CHECK(ends.far.receive_exactly(12) == "before!after");
            const std::string bulk = pattern(1'000'000, static_cast<std::uint64_t>(round));
            CHECK(pass(ends.near, ends.far, bulk) == bulk);
        }
        // In the middle of a full channel, and as the last byte before the end.
        const std::size_t size = ends.near.send_until_full(64 * 1024 * 1024);
        CHECK(ends.far.receive_exactly(size) == pattern(size, 0));
        REQUIRE(::send(ends.near.descriptor(), "?", 1, MSG_OOB | MSG_NOSIGNAL) == 1);
        ends.near.shutdown_write();
        const Received received = ends.far.receive_to_end();
        CHECK(received.bytes == "?");
        CHECK(received.ending == Ending::fin);
        CHECK(TestClock::now() - start < soon);
        CHECK(pass(ends.far, ends.near, "the way back") == "the way back");
        ends.far.close();
        CHECK(ends.near.receive_to_end().ending == Ending::fin);
    }
    relay.stop();
}

}  // namespace
}  // namespace sluice::test

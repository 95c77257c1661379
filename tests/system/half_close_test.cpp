// Half-close is normal life: a side that has said its last word still listens, for as long as it takes.

#include "tests/system/ends.hpp"

#include <string>

namespace sluice::test {
namespace {

RELAY_TEST("a side that half-closes still receives all of the answer") {
    in_every_situation(here, "fin", [](Ends& ends, Situation situation, Pending& pending) {
        ends.near.shutdown_write();
        const Received received = receive_rest(ends, situation);
        CHECK(received.bytes == pending.bytes);
        CHECK(received.ending == Ending::fin);
        const std::string answer = pattern(situation.path == Path::splice ? 3 * 1024 * 1024 : 5'000, 9);
        CHECK(pass(ends.far, ends.near, answer) == answer);
        ends.far.shutdown_write();
        const Received end = ends.near.receive_to_end();
        CHECK(end.bytes.empty());
        CHECK(end.ending == Ending::fin);
        return received.bytes.size();
    });
}

RELAY_TEST("an answer that is under way goes on past the asker's FIN") {
    RelayWithBackend relay(here, ends_layout());
    Ends ends = relay.session();
    const std::size_t size = ends.far.send_until_full(256 * 1024 * 1024);
    ends.near.send_all("enough");
    ends.near.shutdown_write();
    const Received question = ends.far.receive_to_end();
    CHECK(question.bytes == "enough");
    CHECK(question.ending == Ending::fin);
    ends.far.shutdown_write();
    const Received answer = ends.near.receive_to_end();
    CHECK(answer.bytes == pattern(size, 0));
    CHECK(answer.ending == Ending::fin);
    const AccessLine line = relay.access_log(1).back();
    CHECK(line.end == relay.near_end("fin"));
    CHECK(relay.near_to_far(line) == 6);
    CHECK(relay.far_to_near(line) == size);
    relay.stop();
}

RELAY_TEST("a FIN without a byte arrives, and the other direction goes on") {
    RelayWithBackend relay(here);
    Ends ends = relay.session();
    ends.near.shutdown_write();
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    CHECK(ends.near.silent());
    for (int round = 0; round < 20; ++round) {
        ends.far.send_all("word");
        CHECK(ends.near.receive_exactly(4) == "word");
    }
    ends.far.shutdown_write();
    CHECK(ends.near.receive_to_end().ending == Ending::fin);
    relay.stop();
}

RELAY_TEST("both sides that say FIN at once get all of each other's bytes") {
    RelayWithBackend relay(here);
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    constexpr std::size_t sessions = 20;
    for (std::size_t session = 0; session < sessions; ++session) {
        Ends ends = relay.session();
        const std::string there = pattern(session * 997, session);
        const std::string back = pattern(session * 1'009, session + 1);
        ends.near.send_all(there);
        ends.far.send_all(back);
        ends.near.shutdown_write();
        ends.far.shutdown_write();
        const Received at_far = ends.far.receive_to_end();
        const Received at_near = ends.near.receive_to_end();
        CHECK(at_far.bytes == there);
        CHECK(at_near.bytes == back);
        CHECK(at_far.ending == Ending::fin);
        CHECK(at_near.ending == Ending::fin);
    }
    for (const AccessLine& line : relay.access_log(sessions))
        CHECK((line.end == "client_fin" || line.end == "upstream_fin"));
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

RELAY_TEST("the end of a slow reader's stream waits for its last byte") {
    RelayWithBackend relay(here, ends_layout());
    Ends ends = relay.session();
    const std::size_t size = ends.near.send_until_full(256 * 1024 * 1024);
    ends.near.shutdown_write();
    const std::string bytes = pattern(size, 0);
    std::string received;
    // A piece at a time, so that the last ones are read long after the FIN came to the relay.
    while (received.size() < size)
        received += ends.far.receive_exactly(std::min<std::size_t>(size - received.size(), 10'007));
    CHECK(received == bytes);
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    ends.far.close();
    CHECK(ends.near.receive_to_end().ending == Ending::fin);
    relay.stop();
}

RELAY_TEST("a server that speaks and closes first ends the session only when the client has, too") {
    RelayWithBackend relay(here);
    Ends ends = relay.session();
    ends.far.send_all("banner");
    ends.far.shutdown_write();
    const Received received = ends.near.receive_to_end();
    CHECK(received.bytes == "banner");
    CHECK(received.ending == Ending::fin);
    const std::string rest = pattern(1'000'000, 4);
    CHECK(pass(ends.near, ends.far, rest) == rest);
    CHECK(relay.relay().access_log().empty());
    ends.near.close();
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    CHECK(relay.access_log(1).back().end == relay.far_end("fin"));
    relay.stop();
}

RELAY_TEST(
    "a slow reader of the last bytes is given time beyond the half-closed timeout, as long as it reads") {
    RelayLayout layout = ends_layout();
    layout.settings = "workers: 1\ntimeouts: {half_closed: 1s}\n";
    RelayWithBackend relay(here, layout);
    Ends ends = relay.session();
    establish(ends);
    // What the relay's kernel takes at once: from then on only the reader is to be waited for.
    const std::string bytes = pattern(200'000, 11);
    ends.near.send_all(bytes);
    ends.near.shutdown_write();
    std::string received;
    while (received.size() < bytes.size()) {
        std::this_thread::sleep_for(glance);
        // The reader's kernel acknowledges in steps of up to its buffer, 64 KiB: each takes less than a
        // second.
        received += ends.far.receive_exactly(std::min<std::size_t>(bytes.size() - received.size(), 10'000));
    }
    CHECK((received == bytes));
    relay.relay().abandon();
}

}  // namespace
}  // namespace sluice::test

// The table of ends: who ends how, in which situation, and what the other side gets to see. A stream that
// came to its end must be whole, and one that did not must never look as if it were.

#include "tests/system/ends.hpp"

#include "tests/system/namespaces.hpp"

#include <unistd.h>

#include <string>
#include <vector>

namespace sluice::test {
namespace {

RELAY_TEST("a side that closes ends its stream after every byte, and so does the other") {
    in_every_situation(here, "fin", [](Ends& ends, Situation situation, Pending& pending) {
        ends.near.close();
        const Received received = receive_rest(ends, situation);
        CHECK(received.bytes == pending.bytes);
        CHECK(received.ending == Ending::fin);
        ends.far.close();
        return received.bytes.size();
    });
}

// Near is gone: far gets what came before, and then sees a reset. Returns how many bytes it got.
std::size_t expect_reset_after_the_rest(Ends& ends, Situation situation, const Pending& pending) {
    const auto start = TestClock::now();
    const Received received = receive_rest(ends, situation);
    CHECK(TestClock::now() - start < soon);
    CHECK(received.ending == Ending::reset);
    CHECK(received.bytes.size() >= pending.certain_bytes);
    CHECK(pending.bytes.starts_with(received.bytes));
    return received.bytes.size();
}

RELAY_TEST("a side that is reset resets the other after the bytes that came before") {
    in_every_situation(here, "reset", [](Ends& ends, Situation situation, Pending& pending) {
        ends.near.reset();
        return expect_reset_after_the_rest(ends, situation, pending);
    });
}

RELAY_TEST("a side that closes with unread bytes resets the other after the bytes that came before") {
    in_every_situation(here, "reset", [](Ends& ends, Situation situation, Pending& pending) {
        if (situation.moment == Moment::channel_full)
            ends.far.send_until_full(256 * 1024 * 1024);
        else
            ends.far.send_all("never read");
        REQUIRE(readable(ends.near));
        ends.near.close();
        return expect_reset_after_the_rest(ends, situation, pending);
    });
}

RELAY_TEST("a side that answers bytes with a reset, after its FIN, resets the other") {
    in_every_situation(here, "reset", [](Ends& ends, Situation situation, Pending& pending) {
        ends.near.close();
        const Received received = receive_rest(ends, situation);
        CHECK(received.bytes == pending.bytes);
        CHECK(received.ending == Ending::fin);
        ends.far.send_all("nobody is there to read this");
        CHECK(becomes_broken(ends.far, soon));
        return received.bytes.size();
    });
}

RELAY_TEST("a reset arrives in spite of a full way back") {
    RelayWithBackend relay(here, ends_layout());
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    for (const Path path : {Path::copy, Path::splice}) {
        CAPTURE(static_cast<int>(path));
        Ends ends = relay.session();
        if (path == Path::splice) promote(ends.far, ends.near);
        ends.far.send_until_full(256 * 1024 * 1024);
        ends.near.reset();
        const Received received = ends.far.receive_to_end(soon);
        CHECK(received.ending == Ending::reset);
        CHECK(received.bytes.empty());
    }
    for (const AccessLine& line : relay.access_log(2)) CHECK(line.end == relay.near_end("reset"));
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

RELAY_TEST("a reset after our own FIN still resets the other side") {
    RelayWithBackend relay(here, ends_layout());
    Ends ends = relay.session();
    ends.far.shutdown_write();
    CHECK(ends.near.receive_to_end().ending == Ending::fin);
    ends.near.send_all("the last words");
    wait_acknowledged(ends.near);
    ends.near.reset();
    const Received received = ends.far.receive_to_end();
    CHECK(received.bytes == "the last words");
    CHECK(received.ending == Ending::reset);
    CHECK(relay.access_log(1).back().end == relay.near_end("reset"));
    relay.stop();
}

RELAY_TEST("both sides that reset at once leave nothing behind") {
    RelayWithBackend relay(here, ends_layout());
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    constexpr std::size_t sessions = 20;
    for (std::size_t session = 0; session < sessions; ++session) {
        Ends ends = relay.session();
        ends.near.send_all(pattern(20'000, session));
        ends.far.send_all(pattern(20'000, session));
        ends.near.reset();
        ends.far.reset();
    }
    for (const AccessLine& line : relay.access_log(sessions))
        CHECK((line.end == "client_reset" || line.end == "upstream_reset"));
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

// One relay with sessions that were reset while the other side does not read at all.
class StalledForGood {
  public:
    explicit StalledForGood(RelayCase here) : relay_(here, ends_layout()) {
        sockets_ = descriptors_of_kind(relay_.relay().pid(), "socket:");
        for (const Path path : {Path::copy, Path::splice}) {
            Ends ends = relay_.session();
            if (path == Path::splice) promote(ends.near, ends.far);
            ends.near.send_until_full(256 * 1024 * 1024);
            ends.near.reset();
            far_.push_back(std::move(ends.far));
        }
        start_ = TestClock::now();
    }

    void expect_bounded_flush() {
        for (Socket& far : far_) {
            CHECK(becomes_broken(far, Milliseconds(10'000) + soon));
            CHECK(far.receive_to_end().ending == Ending::reset);
        }
        const auto took = TestClock::now() - start_;
        CHECK(took < Milliseconds(10'000) + soon);
        CHECK(took > Milliseconds(5'000));  // a slow reader is given time
        for (const AccessLine& line : relay_.access_log(far_.size()))
            CHECK(line.end == relay_.near_end("reset"));
        expect_sockets(relay_.relay(), sockets_);
        relay_.stop();
    }

  private:
    RelayWithBackend relay_;
    std::size_t sockets_ = 0;
    std::vector<Socket> far_;
    TestClock::time_point start_;
};

// All runs of this one wait at the same time: it takes ten seconds.
TEST_CASE("a side that never reads is reset at most ten seconds after the other's reset (every run)") {
    std::vector<RelayCase> cases;
    for (const Engine engine : {Engine::epoll, Engine::io_uring})
        for (const Sides sides : {Sides::as_they_are, Sides::exchanged})
            if (engine_available(engine)) cases.push_back({engine, sides});
    std::vector<std::unique_ptr<StalledForGood>> runs;
    for (const RelayCase& here : cases) runs.push_back(std::make_unique<StalledForGood>(here));
    for (auto& run : runs) run->expect_bounded_flush();
}

// Unix sockets know no reset, but an orderly end and a half-close are as on TCP.

// A relay between TCP at `near` and a unix socket at `far`, whichever of them is the client.
RelayLayout unix_far_layout(RelayCase here, const TemporaryFolder& folder) {
    RelayLayout layout = ends_layout();
    const std::string path = "unix:" + folder.file("far");
    if (here.sides == Sides::as_they_are)
        layout.backend = path;
    else
        layout.listen = path;
    return layout;
}

RELAY_TEST("between TCP and a unix socket streams end as on TCP") {
    const TemporaryFolder folder;
    RelayWithBackend relay(here, unix_far_layout(here, folder));
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    const std::string question = pattern(300'000, 1);
    const std::string answer = pattern(500'000, 2);
    {
        Ends ends = relay.session();
        CHECK(pass(ends.near, ends.far, question) == question);
        ends.near.shutdown_write();
        CHECK(ends.far.receive_to_end().ending == Ending::fin);
        CHECK(pass(ends.far, ends.near, answer) == answer);
        ends.far.close();
        const Received received = ends.near.receive_to_end();
        CHECK(received.bytes.empty());
        CHECK(received.ending == Ending::fin);
    }
    {
        Ends ends = relay.session();
        CHECK(pass(ends.far, ends.near, question) == question);
        ends.far.shutdown_write();
        CHECK(ends.near.receive_to_end().ending == Ending::fin);
        CHECK(pass(ends.near, ends.far, answer) == answer);
        ends.near.close();
        CHECK(ends.far.receive_to_end().ending == Ending::fin);
    }
    const std::vector<AccessLine> lines = relay.access_log(2);
    CHECK(lines[0].end == relay.near_end("fin"));
    CHECK(lines[1].end == relay.far_end("fin"));
    CHECK(lines[0].path == "copy");
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

RELAY_TEST("a reset on TCP ends a unix stream after the bytes that came before") {
    const TemporaryFolder folder;
    RelayWithBackend relay(here, unix_far_layout(here, folder));
    Ends ends = relay.session();
    establish(ends);
    ends.near.send_all("before");
    wait_acknowledged(ends.near);
    ends.near.reset();
    const Received received = ends.far.receive_to_end();
    CHECK(received.bytes == "before");
    CHECK(received.ending == Ending::fin);  // there is nothing else on a unix socket
    CHECK(relay.access_log(1).back().end == relay.near_end("reset"));
    relay.stop();
}

RELAY_TEST("a unix peer that closes with unread bytes resets a TCP side after the bytes that came before") {
    const TemporaryFolder folder;
    RelayWithBackend relay(here, unix_far_layout(here, folder));
    Ends ends = relay.session();
    ends.near.send_all("never read");
    REQUIRE(readable(ends.far));
    ends.far.send_all("before");
    CHECK(ends.near.receive_exactly(6) == "before");
    ends.far.close();
    CHECK(ends.near.receive_to_end().ending == Ending::reset);
    CHECK(relay.access_log(1).back().end == relay.far_end("reset"));
    relay.stop();
}

RELAY_TEST("a unix peer that stops reading may go on sending, and the session is no orderly one") {
    const TemporaryFolder folder;
    RelayLayout layout = unix_far_layout(here, folder);
    RelayWithBackend relay(here, layout);
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    Ends ends = relay.session();
    establish(ends);
    REQUIRE(::shutdown(ends.far.descriptor(), SHUT_RD) == 0);
    ends.near.send_all("nobody wants to hear this");
    wait_acknowledged(ends.near);
    const std::string bytes = pattern(300'000, 6);
    CHECK(pass(ends.far, ends.near, bytes) == bytes);
    CHECK(ends.near.silent());
    CHECK(pass(ends.far, ends.near, bytes) == bytes);
    ends.far.close();
    // Its stream is whole and ends with a FIN, but what near said was not taken: a reset follows.
    CHECK(ends.near.receive_to_end().ending == Ending::fin);
    CHECK(becomes_broken(ends.near, soon));
    const AccessLine line = relay.access_log(1).back();
    CHECK(line.end == relay.far_end("reset"));
    CHECK(relay.far_to_near(line) == 5 + 2 * bytes.size());
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

ENGINE_TEST("between two unix sockets streams end whole, half-closed or closed") {
    const TemporaryFolder folder;
    RelayLayout layout = ends_layout();
    layout.backend = "unix:" + folder.file("backend");
    layout.listen = "unix:" + folder.file("front");
    RelayWithBackend relay(here, layout);
    const std::string bytes = pattern(400'000, 5);
    Ends ends = relay.session();
    CHECK(pass(ends.near, ends.far, bytes) == bytes);
    ends.near.shutdown_write();
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    CHECK(pass(ends.far, ends.near, bytes) == bytes);
    ends.far.close();
    CHECK(ends.near.receive_to_end().ending == Ending::fin);
    CHECK(relay.access_log(1).back().end == "client_fin");
    relay.stop();
}

// A peer that vanishes says nothing. Only a network that can be taken down shows it.
RELAY_TEST("a side that vanishes is found out, and the other side is reset") {
    if (::geteuid() != 0 || !program_available("ip"))
        SLUICE_SKIP("needs root and ip(8) for a network of its own");
    Network network;
    if (!network.usable()) SLUICE_SKIP("no network namespace to be had here");
    const bool client_vanishes = here.sides == Sides::as_they_are;

    std::unique_ptr<Listener> backend;
    network.inside(client_vanishes ? Place::home : Place::away, [&] {
        backend =
            std::make_unique<Listener>(client_vanishes ? "127.0.0.1:6000" : Network::away_address + ":6000",
                                       Buffers{64 * 1024, 64 * 1024});
    });
    const std::string listen = client_vanishes ? Network::home_address + ":5000" : "127.0.0.1:5000";
    const std::string tcp = "    tcp: {keepalive: {idle: 1s, interval: 1s, count: 2}, user_timeout: 1s}\n";
    RelayOptions options;
    options.process.before_exec = [&network] { network.enter(Place::home); };
    RelayProcess relay = RelayProcess::with_config(
        "workers: 1\nlisteners:\n  - name: front\n    bind: \"" + listen + "\"\n    pool: back\n" + tcp +
            "pools:\n  back:\n    backends: [\"" + backend->address() + "\"]\n" + tcp,
        here.engine, options);
    const std::size_t sockets = descriptors_of_kind(relay.pid(), "socket:");

    // Idle (keepalive must find out), with bytes on their way to it (the user timeout must), copied and
    // spliced.
    std::vector<Ends> sessions;
    for (int session = 0; session < 3; ++session) {
        Ends ends;
        network.inside(client_vanishes ? Place::away : Place::home,
                       [&] { ends.near = connect_to(listen, {64 * 1024, 64 * 1024}); });
        ends.far = backend->accept();
        if (!client_vanishes) std::swap(ends.near, ends.far);
        sessions.push_back(std::move(ends));
    }
    CHECK(pass(sessions[0].near, sessions[0].far, "idle") == "idle");
    promote(sessions[2].far, sessions[2].near);
    network.cut();
    sessions[1].far.send_all("towards nobody");
    sessions[2].far.send_some(
        pattern(1024 * 1024, 1));  // as much as goes at once: the end may come any moment
    for (Ends& ends : sessions) CHECK(ends.far.receive_to_end(Milliseconds(15'000)).ending == Ending::reset);
    for (const AccessLine& line : relay.access_log(sessions.size()))
        CHECK(line.end == (client_vanishes ? "client_lost" : "upstream_lost"));
    expect_sockets(relay, sockets);
    relay.stop();
}

}  // namespace
}  // namespace sluice::test

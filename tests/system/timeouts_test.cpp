// What ends a session that does not end by itself, and what happens before there is an upstream. An end that
// the relay decides is a reset on both sides: the streams were cut, and must not look whole.

#include "tests/system/ends.hpp"

#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace sluice::test {
namespace {

// How much later than asked a timeout may fire.
const Milliseconds late_max = sanitized ? Milliseconds(3'000) : Milliseconds(1'000);

// Measures from its construction.
class Stopwatch {
  public:
    Milliseconds elapsed() const {
        return std::chrono::duration_cast<Milliseconds>(TestClock::now() - start_);
    }
    // The time has come since, and not long ago.
    void expect(Milliseconds asked) const {
        const Milliseconds now = elapsed();
        CHECK(now.count() >= asked.count());
        CHECK(now.count() <= (asked + late_max).count());
    }

  private:
    TestClock::time_point start_ = TestClock::now();
};

RelayLayout with_timeouts(const std::string& timeouts) {
    RelayLayout layout;
    layout.settings = "workers: 1\ntimeouts: {" + timeouts + "}\n";
    return layout;
}

// Says a word so often, with a quarter of a timeout of 600 ms between.
void talk(Socket& from, Socket& to, int rounds) {
    for (int round = 0; round < rounds; ++round) {
        std::this_thread::sleep_for(Milliseconds(150));
        from.send_all("word");
        REQUIRE(to.receive_exactly(4) == "word");
    }
}

RELAY_TEST("an idle session is reset on both sides, but not while bytes flow one way") {
    RelayWithBackend relay(here, with_timeouts("idle: 600ms"));
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    Ends ends = relay.session();
    talk(ends.near, ends.far, 6);
    const Stopwatch since_last_word;
    CHECK(ends.near.receive_to_end(soon).ending == Ending::reset);
    CHECK(ends.far.receive_to_end(soon).ending == Ending::reset);
    // The relay saw the last word a moment before we did.
    CHECK(since_last_word.elapsed() >= Milliseconds(590));
    CHECK(since_last_word.elapsed() <= Milliseconds(600) + late_max);
    const AccessLine line = relay.access_log(1).back();
    CHECK(line.end == "idle_timeout");
    CHECK(relay.near_to_far(line) == 24);
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

RELAY_TEST("a session in which nobody says anything is reset by the idle timeout") {
    RelayWithBackend relay(here, with_timeouts("idle: 300ms"));
    const Stopwatch since_connect;
    Ends ends = relay.session();
    CHECK(ends.far.receive_to_end(soon).ending == Ending::reset);
    CHECK(ends.near.receive_to_end(soon).ending == Ending::reset);
    since_connect.expect(Milliseconds(300));
    CHECK(relay.access_log(1).back().end == "idle_timeout");
    relay.stop();
}

RELAY_TEST("a reader that is slower than the idle timeout is idle") {
    RelayLayout layout = ends_layout();
    layout.settings = with_timeouts("idle: 400ms").settings;
    RelayWithBackend relay(here, layout);
    Ends ends = relay.session();
    // More than fits; the timeout may come before it is all written.
    CHECK_THROWS(ends.near.send_all(pattern(16 * 1024 * 1024, 1), soon));
    CHECK(becomes_broken(ends.far, soon));
    CHECK(becomes_broken(ends.near, soon));
    CHECK(relay.access_log(1).back().end == "idle_timeout");
    relay.stop();
}

RELAY_TEST("a half-closed session ends when nothing follows, and not while bytes follow") {
    RelayWithBackend relay(here, with_timeouts("half_closed: 600ms"));
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    Ends ends = relay.session();
    ends.near.shutdown_write();
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    talk(ends.far, ends.near, 6);
    const Stopwatch since_last_word;
    CHECK(ends.near.receive_to_end(soon).ending == Ending::reset);
    CHECK(becomes_broken(ends.far, soon));
    CHECK(since_last_word.elapsed() >= Milliseconds(590));
    CHECK(since_last_word.elapsed() <= Milliseconds(600) + late_max);
    CHECK(relay.access_log(1).back().end == "half_closed_timeout");
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

RELAY_TEST("a session that is not half-closed knows no half-closed timeout") {
    RelayWithBackend relay(here, with_timeouts("half_closed: 100ms"));
    Ends ends = relay.session();
    std::this_thread::sleep_for(Milliseconds(400));
    CHECK(pass(ends.near, ends.far, "still there") == "still there");
    CHECK(pass(ends.far, ends.near, "still there") == "still there");
    relay.relay().abandon();
}

RELAY_TEST("a session that is too old is reset in the middle of its bytes") {
    RelayWithBackend relay(here, with_timeouts("max_age: 600ms"));
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    const Stopwatch since_connect;
    Ends ends = relay.session();
    const std::string word = pattern(10'000, 1);
    while (since_connect.elapsed() < Milliseconds(450)) REQUIRE(pass(ends.near, ends.far, word) == word);
    CHECK(ends.far.receive_to_end(soon).ending == Ending::reset);
    CHECK(ends.near.receive_to_end(soon).ending == Ending::reset);
    since_connect.expect(Milliseconds(600));
    CHECK(relay.access_log(1).back().end == "max_age");
    expect_sockets(relay.relay(), sockets);
    relay.stop();
}

ENGINE_TEST("a listener's own timeout holds instead of the general one") {
    RelayLayout layout = with_timeouts("idle: 1h");
    layout.listener_settings = "    timeouts: {idle: 300ms}\n";
    RelayWithBackend relay(here, layout);
    Ends ends = relay.session();
    CHECK(ends.near.receive_to_end(soon).ending == Ending::reset);
    CHECK(relay.access_log(1).back().end == "idle_timeout");
    relay.stop();
}

ENGINE_TEST("many sessions with equal timeouts end each at its own time") {
    RelayWithBackend relay(here, with_timeouts("idle: 300ms"));
    std::vector<Ends> sessions;
    std::vector<Stopwatch> watches;
    for (int session = 0; session < 6; ++session) {
        watches.emplace_back();
        sessions.push_back(relay.session());
        std::this_thread::sleep_for(Milliseconds(60));
    }
    for (std::size_t session = 0; session < sessions.size(); ++session) {
        CHECK(sessions[session].near.receive_to_end(soon).ending == Ending::reset);
        watches[session].expect(Milliseconds(300));
    }
    relay.stop();
}

// Dialling.

// A backend that never answers: its queue is full, and the kernel drops whatever comes. `answer()` ends that.
class SilentBackend {
  public:
    SilentBackend() : listener_("127.0.0.1:0", {}, 0) {
        for (int attempt = 0; attempt < 10; ++attempt) {
            try {
                fillers_.push_back(connect_to(listener_.address(), {}, Milliseconds(150)));
            } catch (const std::runtime_error&) {
                return;
            }
        }
        throw std::runtime_error("the silent backend still answers");
    }
    const std::string& address() const { return listener_.address(); }
    // Takes from the queue those who filled it; the next one is the relay.
    Socket answer() {
        for (std::size_t filler = 0; filler < fillers_.size(); ++filler) listener_.accept();
        return listener_.accept();
    }

  private:
    Listener listener_;
    std::vector<Socket> fillers_;
};

std::string refusing_address() {
    return "127.0.0.1:" + std::to_string(free_port());
}

// A relay to backends that the test need not play.
struct Dialling {
    std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay;

    Dialling(RelayCase here, const std::vector<std::string>& backends, const std::string& settings = "",
             const std::string& pool_settings = "")
        : relay(RelayProcess::with_config(yaml(backends, settings, pool_settings), here.engine)) {}

    std::string yaml(const std::vector<std::string>& backends, const std::string& settings,
                     const std::string& pool_settings) const {
        std::string list;
        for (const std::string& backend : backends) list += (list.empty() ? "\"" : ", \"") + backend + "\"";
        return "workers: 1\n" + settings + "listeners:\n  - name: front\n    bind: \"" + listen +
               "\"\n    pool: back\npools:\n  back:\n    backends: [" + list + "]\n" + pool_settings;
    }
};

ENGINE_TEST("a client is reset when every backend refuses") {
    Dialling dialling(here, {refusing_address(), refusing_address()});
    const std::size_t sockets = descriptors_of_kind(dialling.relay.pid(), "socket:");
    Socket client = connect_or_reset(dialling.listen);
    const Stopwatch since_connect;
    CHECK(ending_of(client) == Ending::reset);
    CHECK(since_connect.elapsed() < Milliseconds(1'000));
    const AccessLine line = dialling.relay.access_log(1).back();
    CHECK(line.end == "connect_failed");
    CHECK(line.pool == "back");
    expect_sockets(dialling.relay, sockets);
    dialling.relay.stop();
}

ENGINE_TEST("a client is served by the backend that does not refuse") {
    const Listener backend;
    Dialling dialling(here, {refusing_address(), backend.address(), refusing_address()});
    for (int session = 0; session < 4; ++session) {
        Socket client = connect_to(dialling.listen);
        client.send_all("sent before anything was dialled");
        Socket upstream = const_cast<Listener&>(backend).accept();
        CHECK(upstream.receive_exactly(32) == "sent before anything was dialled");
        client.shutdown_write();
        CHECK(upstream.receive_to_end().ending == Ending::fin);
        upstream.close();
        CHECK(client.receive_to_end().ending == Ending::fin);
    }
    for (const AccessLine& line : dialling.relay.access_log(4)) {
        CHECK(line.end == "client_fin");
        CHECK(line.backend == backend.address());
    }
    dialling.relay.stop();
}

ENGINE_TEST("retries: 0 tries one backend only") {
    Listener backend;
    Dialling dialling(here, {refusing_address(), backend.address()}, "", "    retries: 0\n");
    int refused = 0;
    for (int session = 0; session < 4; ++session) {
        Socket client = connect_or_reset(dialling.listen);
        if (backend.waiting(Milliseconds(500))) {
            Socket upstream = backend.accept();
            client.close();
            CHECK(upstream.receive_to_end().ending == Ending::fin);
        } else {
            CHECK(ending_of(client) == Ending::reset);
            ++refused;
        }
    }
    CHECK(refused == 2);  // round robin: every other one
    dialling.relay.stop();
}

ENGINE_TEST("a client is reset when the backend does not answer in time") {
    SilentBackend silent;
    Dialling dialling(here, {silent.address()}, "timeouts: {connect: 400ms}\n", "    retries: 0\n");
    const std::size_t sockets = descriptors_of_kind(dialling.relay.pid(), "socket:");
    const Stopwatch since_connect;
    Socket client = connect_to(dialling.listen);
    client.send_all("nobody reads this");
    CHECK(client.receive_to_end(soon).ending == Ending::reset);
    since_connect.expect(Milliseconds(400));
    CHECK(dialling.relay.access_log(1).back().end == "connect_timeout");
    expect_sockets(dialling.relay, sockets);
    dialling.relay.stop();
}

ENGINE_TEST("after a backend that does not answer the next one is tried") {
    SilentBackend silent;
    Listener backend;
    Dialling dialling(here, {silent.address(), backend.address()}, "timeouts: {connect: 300ms}\n");
    for (int session = 0; session < 2; ++session) {
        Socket client = connect_to(dialling.listen);
        client.send_all("kept");
        Socket upstream = backend.accept(soon);
        CHECK(upstream.receive_exactly(4) == "kept");
        client.close();
        CHECK(upstream.receive_to_end().ending == Ending::fin);
    }
    dialling.relay.stop();
}

ENGINE_TEST(
    "what a client sends while its backend is being dialled is kept, and its half-close and reset too") {
    SilentBackend silent;
    Dialling dialling(here, {silent.address()}, "timeouts: {connect: 15s}\n");
    const std::size_t sockets = descriptors_of_kind(dialling.relay.pid(), "socket:");
    const std::string bytes = pattern(100'000, 6);
    Socket client = connect_to(dialling.listen);
    client.send_all(bytes);
    client.shutdown_write();
    CHECK(client.silent());
    Socket upstream = silent.answer();  // once the kernel sends its next SYN
    const Received received = upstream.receive_to_end();
    CHECK(received.bytes == bytes);
    CHECK(received.ending == Ending::fin);
    upstream.send_all("answer");
    upstream.close();
    const Received answer = client.receive_to_end();
    CHECK(answer.bytes == "answer");
    CHECK(answer.ending == Ending::fin);
    CHECK(dialling.relay.access_log(1).back().end == "client_fin");
    expect_sockets(dialling.relay, sockets);
    dialling.relay.stop();
}

ENGINE_TEST("a client that resets while its backend is being dialled is let go at once") {
    SilentBackend silent;
    Dialling dialling(here, {silent.address()}, "timeouts: {connect: 15s}\n");
    const std::size_t sockets = descriptors_of_kind(dialling.relay.pid(), "socket:");
    for (int round = 1; round <= 3; ++round) {
        Socket client = connect_to(dialling.listen);
        REQUIRE(
            wait_until([&] { return descriptors_of_kind(dialling.relay.pid(), "socket:") == sockets + 2; }));
        client.reset();
        CHECK(dialling.relay.access_log(static_cast<std::size_t>(round), soon).back().end == "client_reset");
        expect_sockets(dialling.relay, sockets);
    }
    dialling.relay.stop();
}

ENGINE_TEST("a name that does not resolve stops neither the start nor the other backends") {
    // A name server that refuses at once, so that the test asks nobody.
    const std::string settings =
        "timeouts: {connect: 500ms}\ndns: {servers: [\"" + refusing_address() + "\"], timeout: 200ms}\n";
    {
        Dialling dialling(here, {"db.invalid:5432"}, settings);
        const std::size_t sockets = descriptors_of_kind(dialling.relay.pid(), "socket:");
        Socket client = connect_or_reset(dialling.listen);
        const Stopwatch since_connect;
        CHECK(ending_of(client) == Ending::reset);
        CHECK(since_connect.elapsed() <= Milliseconds(500) + late_max);
        CHECK(dialling.relay.access_log(1).back().end == "no_backend");
        CHECK(wait_until([&] { return descriptors_of_kind(dialling.relay.pid(), "socket:") <= sockets; },
                         soon));
        CHECK(dialling.relay.process().wait_for_text("db.invalid", soon));
        dialling.relay.stop();
    }
    Listener backend;
    Dialling dialling(here, {"db.invalid:5432", backend.address()}, settings);
    for (int session = 0; session < 2; ++session) {
        Socket client = connect_or_reset(dialling.listen);
        Socket upstream = backend.accept(soon);
        CHECK(pass(client, upstream, "served") == "served");
        client.close();
        CHECK(upstream.receive_to_end().ending == Ending::fin);
    }
    dialling.relay.stop();
}

ENGINE_TEST("a unix backend whose queue is full is given time") {
    const TemporaryFolder folder;
    const std::string address = "unix:" + folder.file("busy");
    Listener backend(address, {}, 0);
    const Socket filler = connect_to(address);
    Dialling dialling(here, {address}, "timeouts: {connect: 10s}\n");
    Socket client = connect_to(dialling.listen);
    client.send_all("patient");
    CHECK(client.silent());
    const Socket first = backend.accept();
    Socket upstream = backend.accept(soon);
    CHECK(upstream.receive_exactly(7) == "patient");
    client.close();
    CHECK(upstream.receive_to_end().ending == Ending::fin);
    upstream.close();
    dialling.relay.stop();
}

ENGINE_TEST(
    "a unix backend whose queue stays full is a connect timeout, and one that is not there a failure") {
    const TemporaryFolder folder;
    const std::string address = "unix:" + folder.file("busy");
    const Listener backend(address, {}, 0);
    const Socket filler = connect_to(address);
    {
        Dialling dialling(here, {address}, "timeouts: {connect: 300ms}\n", "    retries: 0\n");
        const Stopwatch since_connect;
        Socket client = connect_or_reset(dialling.listen);
        CHECK(ending_of(client) == Ending::reset);
        since_connect.expect(Milliseconds(300));
        CHECK(dialling.relay.access_log(1).back().end == "connect_timeout");
        dialling.relay.stop();
    }
    Dialling dialling(here, {"unix:" + folder.file("nobody")});
    Socket client = connect_or_reset(dialling.listen);
    CHECK(ending_of(client) == Ending::reset);
    CHECK(dialling.relay.access_log(1).back().end == "connect_failed");
    dialling.relay.stop();
}

}  // namespace
}  // namespace sluice::test

// A whole relay in this process, because what is looked at here are its counters, its records and settings
// that the command line does not have.

#include "sluice/datagram/table.hpp"

#include "sluice/relay/relay.hpp"

#include "tests/support/datagrams.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sluice {
namespace {

using test::Milliseconds;

Endpoint endpoint(const std::string& text) {
    return parse_endpoint(text.starts_with("unix") ? text : "udp://" + text).value();
}

// One listener before one pool of these backends.
class RelayHere {
  public:
    using Change = std::function<void(config::Config&)>;

    RelayHere(test::RelayCase here, const std::vector<std::string>& binds,
              const std::vector<std::string>& backends, const Change& change = {}) {
        auto settings = std::make_shared<config::Config>();
        settings->workers = 2;
        settings->engine =
            here.engine == test::Engine::epoll ? config::Engine::epoll : config::Engine::io_uring;
        settings->access_log.events.close = true;
        config::Listener listener;
        listener.name = "front";
        listener.pool = "back";
        for (const std::string& bind : binds) listener.bind.push_back(endpoint(bind));
        settings->listeners.push_back(listener);
        config::Pool pool;
        pool.name = "back";
        for (const std::string& backend : backends)
            pool.backends.push_back({.name = backend, .address = endpoint(backend), .place = {}});
        settings->pools.push_back(pool);
        if (change) change(*settings);
        descriptors_ = test::descriptors_open(::getpid());
        auto relay = Relay::open(settings);
        REQUIRE_MESSAGE(relay, (relay ? "" : relay.error().front()));
        relay_ = std::move(*relay);
        REQUIRE(relay_->start());
    }

    ~RelayHere() {
        if (relay_ == nullptr) return;
        relay_->kill();
        CHECK(relay_->wait_until_idle(Clock::now() + test::patience));
        CHECK(relay_->counters().stale_completions == 0);
        CHECK(relay_->counters().sessions_now == 0);
        relay_.reset();
        CHECK(test::descriptors_open(::getpid()) == descriptors_ - closed_since);
    }

    Relay& operator*() { return *relay_; }
    Relay* operator->() { return relay_.get(); }
    std::string address(std::size_t index = 0) const {
        const std::string text = to_string(relay_->addresses()[index]);
        return text.starts_with("unix:") ? "unix-dgram:" + text.substr(5) : text;
    }
    std::uint64_t lost(Loss why) { return relay_->counters().datagrams_lost[static_cast<std::size_t>(why)]; }
    std::uint64_t ended(End end) { return relay_->counters().ends[static_cast<std::size_t>(end)]; }
    bool sessions_become(std::uint64_t count) {
        return test::wait_until([&] { return relay_->counters().sessions_now == count; });
    }
    // The next record of an ended session; waits for it.
    SessionRecord record() {
        SessionRecord record;
        REQUIRE(test::wait_until([&] { return relay_->records().pop(record); }));
        return record;
    }

    std::size_t closed_since = 0;  // descriptors of the test that were there before the relay

  private:
    std::unique_ptr<Relay> relay_;
    std::size_t descriptors_ = 0;
};

// Sends and waits for what the backend sees.
test::Datagram pass(test::DatagramSocket& client, const std::string& address, test::DatagramSocket& backend,
                    const std::string& text) {
    client.send_to(address, text);
    test::Datagram datagram = backend.expect();
    CHECK(datagram.bytes == text);
    return datagram;
}

ENGINE_TEST("a session of datagrams is over after udp_idle, and is recorded once") {
    test::DatagramSocket backend;
    test::DatagramSocket client;
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()}, [](config::Config& config) {
        config.listeners[0].timeouts.udp_idle = Milliseconds(300);
    });
    const auto started = Clock::now();
    const auto first = pass(client, relay.address(), backend, "12345");
    backend.send_to(first.sender, "123");
    CHECK(client.expect().bytes == "123");
    pass(client, relay.address(), backend, "");
    CHECK(relay.sessions_become(1));
    CHECK(relay.sessions_become(0));
    CHECK(Clock::now() - started >= Milliseconds(300));
    const SessionRecord record = relay.record();
    CHECK(record.end == End::idle_timeout);
    CHECK(record.datagrams);
    CHECK(record.path_reason == PathReason::datagrams);
    CHECK(record.upload_datagrams == 2);
    CHECK(record.download_datagrams == 1);
    CHECK(record.lost_datagrams == 0);
    CHECK(record.upload_bytes == 5);
    CHECK(record.download_bytes == 3);
    CHECK(to_string(record.client.address()) == client.address());
    CHECK(record.duration >= Milliseconds(300));
    // The next one is another session, from another port of ours.
    CHECK(pass(client, relay.address(), backend, "again").sender != first.sender);
    CHECK(relay->counters().sessions == 2);
}

ENGINE_TEST("datagrams keep a session alive, in either direction") {
    test::DatagramSocket backend;
    test::DatagramSocket client;
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()}, [](config::Config& config) {
        config.listeners[0].timeouts.udp_idle = Milliseconds(400);
    });
    const auto first = pass(client, relay.address(), backend, "hello");
    for (int step = 0; step < 8; ++step) {
        std::this_thread::sleep_for(Milliseconds(150));
        if (step < 4)
            backend.send_to(first.sender, "still");
        else
            CHECK(pass(client, relay.address(), backend, "there").sender == first.sender);
        if (step < 4) CHECK(client.expect().bytes == "still");
    }
    CHECK(relay->counters().sessions == 1);
}

ENGINE_TEST("one request and one response are a session, and the next request begins another") {
    test::DatagramSocket backend;
    test::DatagramSocket client;
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()},
                    [](config::Config& config) { config.listeners[0].udp = {1, 1}; });
    // Three at once: three sessions, each with a socket of its own.
    for (const char* text : {"a", "b", "c"}) client.send_to(relay.address(), text);
    std::map<std::string, std::string> questions;
    for (int count = 0; count < 3; ++count) {
        const auto question = backend.expect();
        questions[question.sender] = question.bytes;
    }
    CHECK(questions.size() == 3);
    CHECK(relay.sessions_become(3));
    for (const auto& [sender, text] : questions) backend.send_to(sender, text + text);
    std::map<std::string, int> answers;
    for (int count = 0; count < 3; ++count) ++answers[client.expect().bytes];
    CHECK(answers == std::map<std::string, int>{{"aa", 1}, {"bb", 1}, {"cc", 1}});
    CHECK(relay.sessions_become(0));
    CHECK(relay.ended(End::answered) == 3);
    CHECK(relay.record().end == End::answered);
    // A second answer comes too late for anybody.
    backend.send_to(questions.begin()->first, "late");
    CHECK(client.silent());
}

ENGINE_TEST("requests without a response to wait for end a session at once") {
    test::DatagramSocket backend;
    test::DatagramSocket client;
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()},
                    [](config::Config& config) { config.listeners[0].udp = {2, 0}; });
    const auto first = pass(client, relay.address(), backend, "1");
    CHECK(relay.sessions_become(1));
    CHECK(pass(client, relay.address(), backend, "2").sender == first.sender);
    CHECK(relay.sessions_become(0));
    CHECK(relay.ended(End::answered) == 1);
    // In one batch, too: five are three sessions.
    for (int count = 0; count < 5; ++count) client.send_to(relay.address(), std::to_string(count));
    std::map<std::string, std::string> seen;
    for (int count = 0; count < 5; ++count) {
        const auto datagram = backend.expect();
        seen[datagram.sender] += datagram.bytes;
    }
    CHECK(seen.size() == 3);
    CHECK(relay.sessions_become(1));
    CHECK(relay.ended(End::answered) == 3);
}

ENGINE_TEST("the least recently used session gives way to a newer one") {
    test::DatagramSocket backend;
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()}, [](config::Config& config) {
        config.workers = 1;
        config.listeners[0].sessions_max = 3;
    });
    std::vector<test::DatagramSocket> clients(4);
    std::vector<std::string> names;
    for (std::size_t index = 0; index < 3; ++index)
        names.push_back(pass(clients[index], relay.address(), backend, "hello").sender);
    // The first is used again, so the second is now the oldest.
    CHECK(pass(clients[0], relay.address(), backend, "again").sender == names[0]);
    pass(clients[3], relay.address(), backend, "new");
    CHECK(relay.sessions_become(3));
    CHECK(relay.ended(End::evicted) == 1);
    CHECK(to_string(relay.record().client.address()) == clients[1].address());
    CHECK(pass(clients[0], relay.address(), backend, "mine").sender == names[0]);
    CHECK(pass(clients[2], relay.address(), backend, "mine").sender == names[2]);
}

ENGINE_TEST("a flood of clients meets a bounded table, and whoever talks is served") {
    test::DatagramSocket backend;
    RelayHere relay(here, {"0.0.0.0:0"}, {backend.address()}, [](config::Config& config) {
        config.sessions_max = 100;
        config.access_log.events.close = false;
    });
    const std::string port = relay.address().substr(relay.address().rfind(':'));
    test::DatagramSocket good;
    const std::size_t descriptors = test::descriptors_open(::getpid());
    std::size_t most = 0;
    for (std::uint32_t count = 0; count < 4000; ++count) {
        // Another source each time.
        test::DatagramSocket spoofed("127.1." + std::to_string(count / 250) + "." +
                                     std::to_string(1 + count % 250) + ":0");
        spoofed.send_to("127.0.0.1" + port, "flood");
        if (count % 50 == 0) {
            most = std::max(most, test::descriptors_open(::getpid()));
            CHECK(relay->counters().sessions_now <= 100 + 1024);
        }
    }
    CHECK(test::wait_until([&] { return relay->counters().sessions_now <= 100; }));
    // A worker may have given up a place for the other one just before the other's last client came: then
    // nobody was left to take it.
    CHECK(relay->counters().sessions_now >= 98);
    CHECK(relay.ended(End::evicted) >= 3000);
    // Those in passing aside: a socket is closed a turn after its session.
    CHECK(most < descriptors + 100 + 1024);
    while (backend.receive(Milliseconds(50))) {
    }
    good.send_to("127.0.0.1" + port, "good");
    CHECK(backend.expect().bytes == "good");
}

ENGINE_TEST("a datagram that can go nowhere takes no place from anybody") {
    test::DatagramSocket backend;
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()}, [](config::Config& config) {
        config.workers = 1;
        config.sessions_max = 2;
        config.dns.servers = {"127.0.0.1:1"};
        config::Listener lost = config.listeners[0];
        lost.name = "lost";
        lost.pool = "nowhere";
        config.listeners.push_back(lost);
        config::Pool pool;
        pool.name = "nowhere";
        pool.backends.push_back(
            {.name = "name.invalid", .address = endpoint("name.invalid:53"), .place = {}});
        config.pools.push_back(pool);
    });
    std::vector<test::DatagramSocket> clients(2);
    std::vector<std::string> names;
    for (auto& client : clients) names.push_back(pass(client, relay.address(), backend, "here").sender);
    test::DatagramSocket other;
    other.send_to(relay.address(1), "nowhere");
    CHECK(test::wait_until([&] { return relay.lost(Loss::no_backend) == 1; }));
    CHECK(relay.ended(End::evicted) == 0);
    for (std::size_t index = 0; index < clients.size(); ++index)
        CHECK(pass(clients[index], relay.address(), backend, "still").sender == names[index]);
}

ENGINE_TEST("a flood is read by the clock, and when it is over nothing looks at the clock any more") {
    test::DatagramSocket backend("127.0.0.1:0", 64 << 20);
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()},
                    [](config::Config& config) { config.workers = 1; });
    test::DatagramSocket client;
    client.connect(relay.address());
    constexpr std::uint64_t burst = 200;
    for (int round = 0; round < 2; ++round) {
        // As fast as the backend takes them, for longer than a flood needs to be seen as one.
        const auto end = Clock::now() + Milliseconds(100);
        std::uint64_t number = 0;
        while (Clock::now() < end) {
            const std::uint64_t first = number;
            for (; number < first + burst; ++number) client.send(std::to_string(number));
            for (std::uint64_t expected = first; expected < number; ++expected)
                REQUIRE(backend.expect().bytes == std::to_string(expected));
        }
        const auto calm = [&] {
            const auto calls = relay->counters().system_calls;
            std::this_thread::sleep_for(Milliseconds(50));
            return relay->counters().system_calls == calls;
        };
        CHECK(test::wait_until(calm));
        pass(client, relay.address(), backend, "and on");
    }
    CHECK(relay->counters().sessions == 1);
}

ENGINE_TEST("no worker keeps all places of the process for the clients of its listener") {
    // The one place is taken by a client of the first listener, who goes on talking. In every second relay or
    // so the client of the second one is of the other worker, which has nothing of its own to end.
    for (int attempt = 0; attempt < 8; ++attempt) {
        test::DatagramSocket backend;
        RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()}, [](config::Config& config) {
            config.sessions_max = 1;
            config.access_log.events.close = false;
            config::Listener second = config.listeners[0];
            second.name = "second";
            config.listeners.push_back(second);
        });
        std::vector<test::DatagramSocket> clients(2);
        pass(clients[0], relay.address(0), backend, "first");
        std::map<std::string, int> served;
        for (int round = 0; round < 20; ++round) {
            for (std::size_t index = 0; index < clients.size(); ++index)
                clients[index].send_to(relay.address(index), clients[index].address());
            while (const auto datagram = backend.receive(Milliseconds(10))) ++served[datagram->bytes];
        }
        CHECK(served[clients[0].address()] > 0);
        CHECK(served[clients[1].address()] > 0);
    }
}

ENGINE_TEST("no worker keeps all places for its own clients") {
    // The kernel shares the clients out over two workers. In every second relay or so the first two clients
    // are of the same worker, which then has both places and could end one of its own sessions for each
    // newcomer.
    for (int attempt = 0; attempt < 8; ++attempt) {
        test::DatagramSocket backend;
        RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()}, [](config::Config& config) {
            config.listeners[0].sessions_max = 2;
            config.access_log.events.close = false;
        });
        std::vector<test::DatagramSocket> clients(20);
        std::uint64_t lost_early = 0;
        std::map<std::string, int> served;
        for (int round = 0; round < 12; ++round) {
            if (round == 6) lost_early = relay.lost(Loss::limit);
            for (auto& client : clients) client.send_to(relay.address(), client.address());
            while (const auto datagram = backend.receive(Milliseconds(10)))
                if (round >= 6) ++served[datagram->bytes];
        }
        CHECK(served.size() == clients.size());
        CHECK(relay.lost(Loss::limit) == lost_early);
    }
}

ENGINE_TEST("where nobody answers, errors are counted and nothing spins") {
    auto backend = std::make_unique<test::DatagramSocket>();
    const std::string address = backend->address();
    test::DatagramSocket client;
    RelayHere relay(here, {"127.0.0.1:0"}, {address});
    backend.reset();
    relay.closed_since = 1;
    // One after the other: of several errors the kernel keeps the last one only.
    for (std::uint64_t count = 1; count <= 20; ++count) {
        client.send_to(relay.address(), "anybody?");
        REQUIRE(test::wait_until([&] { return relay.lost(Loss::refused) == count; }));
    }
    const auto calls = relay->counters().system_calls;
    CHECK(test::cpu_share(::getpid(), Milliseconds(300)) < 0.05);
    CHECK(relay->counters().system_calls - calls < 20);
    // Somebody is there again: the same session serves, and the stale error costs nothing.
    test::DatagramSocket again(address);
    client.send_to(relay.address(), "now?");
    CHECK(again.expect().bytes == "now?");
    relay->kill();
    const SessionRecord record = relay.record();
    CHECK(record.error == ECONNREFUSED);
    CHECK(record.lost_datagrams == 20);
    CHECK(record.upload_datagrams == 21);
}

ENGINE_TEST("an address without a way ends the session as connect_failed, or the next backend serves") {
    test::DatagramSocket backend;
    test::DatagramSocket client;
    const std::string nowhere = "unix-dgram:/nonexistent/sluice-test";
    {
        RelayHere relay(here, {"127.0.0.1:0"}, {nowhere});
        client.send_to(relay.address(), "lost");
        const SessionRecord record = relay.record();
        CHECK(record.end == End::connect_failed);
        CHECK(record.error == ENOENT);
        CHECK(record.lost_datagrams == 1);
        CHECK(relay.lost(Loss::no_backend) == 1);
        CHECK(relay.sessions_become(0));
    }
    RelayHere relay(here, {"127.0.0.1:0"}, {nowhere, backend.address()});
    pass(client, relay.address(), backend, "served");
}

ENGINE_TEST("a name that is not resolved yet loses datagrams, and no session is told of") {
    test::DatagramSocket client;
    RelayHere relay(here, {"127.0.0.1:0"}, {"name.invalid:53"}, [](config::Config& config) {
        config.dns.servers = {"127.0.0.1:1"};
        config.dns.timeout = std::chrono::seconds(60);
    });
    client.send_to(relay.address(), "too early");
    CHECK(test::wait_until([&] { return relay.lost(Loss::no_backend) == 1; }));
    CHECK(relay->counters().sessions == 0);
}

ENGINE_TEST("draining serves who is there, drops who is new, and ends at its deadline") {
    test::DatagramSocket backend;
    test::DatagramSocket client;
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()}, [](config::Config& config) {
        config.workers = 1;  // one that has no session has stopped looking
    });
    const auto first = pass(client, relay.address(), backend, "hello");
    relay->drain(Clock::now() + Milliseconds(700));
    CHECK(test::wait_until([&] {
        test::DatagramSocket late;
        late.send_to(relay.address(), "too late");
        std::this_thread::sleep_for(Milliseconds(10));
        return relay.lost(Loss::draining) > 0;
    }));
    while (backend.receive(Milliseconds(20))) {
    }
    CHECK(pass(client, relay.address(), backend, "still here").sender == first.sender);
    backend.send_to(first.sender, "indeed");
    CHECK(client.expect().bytes == "indeed");
    CHECK(relay->wait_until_idle(Clock::now() + test::patience));
    CHECK(relay.ended(End::drained) >= 1);
}

ENGINE_TEST("a relay without sessions drains at once, and one with sessions is killed at once") {
    test::DatagramSocket backend;
    test::DatagramSocket client;
    {
        RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()});
        relay->drain(time_never);
        CHECK(relay->wait_until_idle(Clock::now() + test::patience));
    }
    RelayHere relay(here, {"127.0.0.1:0"}, {backend.address()});
    pass(client, relay.address(), backend, "hello");
    relay->kill();
    CHECK(relay->wait_until_idle(Clock::now() + test::patience));
    CHECK(relay.ended(End::killed) == 1);
}

// --- unix ---

struct UnixNames {
    test::TemporaryFolder folder;
    std::string path(const std::string& name) const {
        return "unix-dgram:" + (folder.path() / name).string();
    }
};

ENGINE_TEST("unix datagrams go both ways, by path and by abstract name, empty and long ones too") {
    const UnixNames names;
    for (const bool abstract : {false, true}) {
        CAPTURE(abstract);
        const std::string tag = std::to_string(::getpid());
        const std::string listen = abstract ? "unix-dgram:@sluice-l-" + tag : names.path("listen");
        test::DatagramSocket backend(abstract ? "unix-dgram:@sluice-b-" + tag : names.path("backend"));
        test::DatagramSocket client(names.path(abstract ? "client-a" : "client-p"));
        RelayHere relay(here, {listen}, {backend.address()});
        CHECK(relay.address() == listen);
        for (const std::size_t size : {0UL, 1UL, 5000UL, 65536UL, 200000UL}) {
            const std::string text = test::pattern(size, size);
            const auto seen = pass(client, listen, backend, text);
            backend.send_to(seen.sender, text + "!");
            const auto answer = client.expect();
            CHECK(answer.bytes == text + "!");
            CHECK(answer.sender == listen);
        }
        CHECK(relay->counters().sessions == 1);
    }
    // What was made is removed, and nothing else.
    CHECK_FALSE(std::filesystem::exists(names.folder.path() / "listen"));
    CHECK(std::filesystem::exists(names.folder.path() / "backend"));
}

ENGINE_TEST(
    "a unix message that is too long is lost whole and counted; a nameless client is served one way") {
    const UnixNames names;
    test::DatagramSocket backend(names.path("backend"));
    test::DatagramSocket nameless("unix-dgram:");
    RelayHere relay(here, {names.path("listen")}, {backend.address()});
    nameless.send_to(relay.address(), "who");
    const auto seen = backend.expect();
    CHECK(seen.bytes == "who");
    nameless.send_to(relay.address(), test::pattern(300'000, 1));
    CHECK(test::wait_until([&] { return relay.lost(Loss::truncated) == 1; }));
    backend.send_to(seen.sender, "to nobody");
    CHECK(test::wait_until([&] { return relay.lost(Loss::unsent) == 1; }));
    nameless.send_to(relay.address(), "next");
    CHECK(backend.expect().bytes == "next");
    relay->kill();
    CHECK(relay.record().lost_datagrams == 2);
}

ENGINE_TEST("nothing is lost or reordered when a unix backend stops reading for a while") {
    const UnixNames names;
    test::DatagramSocket backend(names.path("backend"));
    test::DatagramSocket client(names.path("client"));
    RelayHere relay(here, {names.path("listen")}, {backend.address()});
    // More than the queues of both sockets hold: the client meets EAGAIN itself.
    std::uint64_t sent = 0;
    const auto message = [](std::uint64_t number) {
        return std::to_string(number) + ":" + test::pattern(number * 37 % 3000, number);
    };
    std::uint64_t stuck = 0;
    while (stuck < 50) {
        if (client.try_send_to(relay.address(), message(sent)) == 0) {
            ++sent;
            stuck = 0;
        } else {
            ++stuck;
            std::this_thread::sleep_for(Milliseconds(2));
        }
        REQUIRE(sent < 1'000'000);
    }
    CHECK(sent > 10);
    const auto calls = relay->counters().system_calls;
    std::this_thread::sleep_for(Milliseconds(200));
    CHECK(relay->counters().system_calls - calls < 20);  // it waits, and does not ask again and again
    for (std::uint64_t number = 0; number < sent; ++number)
        REQUIRE(backend.expect().bytes == message(number));
    CHECK(backend.silent());
    pass(client, relay.address(), backend, "and on");
}

ENGINE_TEST("nothing is lost or reordered when a unix client stops reading for a while") {
    const UnixNames names;
    test::DatagramSocket backend(names.path("backend"));
    test::DatagramSocket client(names.path("client"));
    test::DatagramSocket other(names.path("other"));
    RelayHere relay(here, {names.path("listen")}, {backend.address()});
    const std::string back = pass(client, relay.address(), backend, "hello").sender;
    // The client's queue takes 11 of them (net.unix.max_dgram_qlen), the relay one, and the rest waits.
    const std::uint64_t sent = 300;
    for (std::uint64_t number = 0; number < sent; ++number) backend.send_to(back, std::to_string(number));
    // Another client does not wait for that one.
    const std::string others = pass(other, relay.address(), backend, "me too").sender;
    backend.send_to(others, "sure");
    CHECK(other.expect().bytes == "sure");
    for (std::uint64_t number = 0; number < sent; ++number)
        REQUIRE(client.expect().bytes == std::to_string(number));
    CHECK(client.silent());
}

ENGINE_TEST("a unix backend that was started anew is found by its old name") {
    const UnixNames names;
    auto backend = std::make_unique<test::DatagramSocket>(names.path("backend"));
    test::DatagramSocket client(names.path("client"));
    RelayHere relay(here, {names.path("listen")}, {names.path("backend")});
    pass(client, relay.address(), *backend, "one");
    backend.reset();
    relay.closed_since = 1;
    std::filesystem::remove(names.folder.path() / "backend");
    client.send_to(relay.address(), "nobody");
    CHECK(test::wait_until([&] { return relay.lost(Loss::unsent) == 1; }));
    test::DatagramSocket again(names.path("backend"));
    pass(client, relay.address(), again, "two");
}

ENGINE_TEST("unix datagrams to a UDP backend and back, and the other way round") {
    const UnixNames names;
    test::DatagramSocket udp;
    test::DatagramSocket client(names.path("client"));
    {
        RelayHere relay(here, {names.path("listen")}, {udp.address()});
        const auto seen = pass(client, relay.address(), udp, "to UDP");
        udp.send_to(seen.sender, "to unix");
        CHECK(client.expect().bytes == "to unix");
        client.send_to(relay.address(), test::pattern(70'000, 1));
        CHECK(test::wait_until([&] { return relay.lost(Loss::oversized) == 1; }));
    }
    RelayHere relay(here, {"127.0.0.1:0"}, {client.address()});
    const auto seen = pass(udp, relay.address(), client, "to unix");
    client.send_to(seen.sender, "to UDP");
    CHECK(udp.expect().bytes == "to UDP");
}

}  // namespace
}  // namespace sluice

// Orders of answers that a real engine gives once in a thousand runs, given on purpose: the real worker over
// real loopback sockets, with a reactor that answers what the test says.

#include "sluice/relay/worker.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/scripted_reactor.hpp"
#include "tests/support/sockets.hpp"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <filesystem>
#include <thread>
#include <vector>

namespace sluice::test {
namespace {

std::size_t descriptors() {
    const std::filesystem::directory_iterator entries("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

constexpr int ready = POLLIN | POLLOUT;
constexpr int refused = POLLIN | POLLOUT | POLLRDHUP | POLLERR | POLLHUP;

// A worker with one listener, whose answers the test gives. At its end it checks what holds for all of them.
class ScriptedWorker {
  public:
    explicit ScriptedWorker(const std::vector<std::string>& backends) {
        config_.pools.push_back({});
        config_.pools.front().name = "back";
        for (const std::string& backend : backends)
            config_.pools.front().backends.push_back({backend, parse_endpoint(backend).value(), {}});
        config_.listeners.push_back({});
        config_.listeners.front().name = "front";
        config_.listeners.front().pool = "back";
        OwnedFd listening = std::move(
            open_listening_socket(*SocketAddress::from_literal("127.0.0.1", 0), SOCK_STREAM, {}).value());
        listening_ = listening.get();
        address = to_string(local_address_of(listening_));
        Worker::Plan plan;
        plan.config = &config_;
        plan.open_reactor = [this] { return script.open_reactor(); };
        plan.listening.push_back({std::move(listening), &config_.listeners.front(), 0, &listener_sessions_});
        plan.sessions_max = 8;
        plan.sessions = &sessions_;
        plan.pipe_budget = 1024 * 1024;
        plan.records = &records_;
        worker = Worker::open(std::move(plan)).value();
        thread_ = std::thread([this] {
            worker->run({});
            script.worker_ended();
        });
        script.settle();
    }
    ~ScriptedWorker() {
        if (thread_.joinable()) kill_and_join();
        worker.reset();
        CHECK(script.broken_promises() == std::vector<std::string>());
        for (const Token token : script.left_out()) CHECK(token.question() == Question::doorbell);
        CHECK(sessions_ == 0);
        CHECK(listener_sessions_ == 0);
    }
    ScriptedWorker(const ScriptedWorker&) = delete;
    ScriptedWorker& operator=(const ScriptedWorker&) = delete;

    // A client that waits to be accepted, and its descriptor at the relay's side.
    struct Guest {
        Socket client;
        int gift;
    };
    Guest guest() {
        Guest guest{connect_to(address), -1};
        REQUIRE(wait_until([&] {
            guest.gift = ::accept4(listening_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            return guest.gift >= 0;
        }));
        return guest;
    }
    Socket admit() {
        Guest arrived = guest();
        script.answer({{script.out(Question::accept), arrived.gift, true}});
        return std::move(arrived.client);
    }
    void command(Worker::Command command) {
        worker->post(std::move(command));
        script.answer({{script.out(Question::doorbell), POLLIN, true}});
    }
    void answer(Question question, int result, bool more) {
        script.answer({{script.out(question), result, more}});
    }
    // The last answers of everything that the worker wishes to end.
    void let_go() {
        for (const Question question : {Question::watch_client, Question::watch_upstream, Question::accept})
            if (script.count_out(question) == 1 && script.cancelled(question))
                answer(question, -ECANCELED, false);
    }
    void kill_and_join() {
        command(Worker::Kill{});
        let_go();
        thread_.join();
    }
    std::uint64_t ended(End end) const {
        return worker->counters().ends[static_cast<std::size_t>(end)].get();
    }
    std::uint64_t stale() const { return worker->counters().stale_completions.get(); }

    Script script;
    std::string address;
    std::unique_ptr<Worker> worker;

  private:
    config::Config config_;
    Records records_{1, 64};
    Seat::Count sessions_{0};
    Seat::Count listener_sessions_{0};
    int listening_ = -1;
    std::thread thread_;
};

TEST_CASE("a watch that the system refuses ends the session as exhausted, with a reset to both sides") {
    Listener backend;
    ScriptedWorker relay({backend.address()});
    for (const Question question : {Question::watch_client, Question::watch_upstream}) {
        Socket client = relay.admit();
        Socket upstream = backend.accept();
        const std::uint64_t before = relay.ended(End::exhausted);
        relay.answer(question, -ENOMEM, false);
        CHECK(relay.ended(End::exhausted) == before + 1);
        relay.let_go();
        CHECK(client.receive_to_end().ending == Ending::reset);
        CHECK(upstream.receive_to_end().ending == Ending::reset);
    }
    CHECK(relay.stale() == 0);
}

TEST_CASE("a session beside one whose sends go with the wait has its turn before it") {
    Listener backend;
    ScriptedWorker relay({backend.address()});
    relay.script.carry_sends();
    struct Guested {
        Socket client;
        int gift;
        Socket upstream;
        Token of_client;
    };
    std::vector<Guested> guests;
    for (std::uint32_t slot = 0; slot < 2; ++slot) {
        auto arrived = relay.guest();
        relay.script.answer({{relay.script.out(Question::accept), arrived.gift, true}});
        guests.push_back({std::move(arrived.client), arrived.gift, backend.accept(),
                          Token(Question::watch_client, {slot, 1})});
        relay.script.answer({{Token(Question::watch_upstream, {slot, 1}), POLLOUT, true},
                             {guests.back().of_client, POLLOUT, true}});
    }
    const auto say = [](Guested& guest, const std::string& bytes) {
        guest.client.send_all(bytes);
        REQUIRE(wait_until([&] {
            int queued = 0;
            return ::ioctl(guest.gift, FIONREAD, &queued) == 0 && std::cmp_equal(queued, bytes.size());
        }));
    };
    Guested& small = guests.front();
    Guested& large = guests.back();
    // After a read of more than a round takes it does its next one alone.
    say(large, pattern(20'000, 1));
    relay.script.answer({{large.of_client, POLLIN, true}});
    CHECK((large.upstream.receive_exactly(20'000) == pattern(20'000, 1)));
    say(small, "a");
    say(large, "b");
    relay.script.answer({{small.of_client, POLLIN, true}, {large.of_client, POLLIN, true}});
    // Not only when something else wakes the worker: that would be in a second.
    pollfd heard{.fd = large.upstream.descriptor(), .events = POLLIN, .revents = 0};
    CHECK(::poll(&heard, 1, static_cast<int>(glance.count())) == 1);
    CHECK(small.upstream.receive_exactly(1) == "a");
    CHECK(large.upstream.receive_exactly(1) == "b");
    relay.command(Worker::Kill{});
    for (std::uint32_t slot = 0; slot < 2; ++slot)
        relay.script.answer({{Token(Question::watch_client, {slot, 1}), -ECANCELED, false},
                             {Token(Question::watch_upstream, {slot, 1}), -ECANCELED, false}});
}

TEST_CASE("an answer for a session that is gone is counted and reaches nobody") {
    Listener backend;
    ScriptedWorker relay({backend.address()});
    Socket client = relay.admit();
    const Token old = relay.script.out(Question::watch_client);
    relay.answer(Question::watch_client, -ENOMEM, false);
    relay.let_go();
    Socket successor = relay.admit();  // takes the same slot
    const Token own = relay.script.out(Question::watch_client);
    CHECK(own.name().slot == old.name().slot);
    CHECK(own != old);
    relay.script.answer_unasked({{old, -ENOMEM, false}});
    CHECK(relay.stale() == 1);
    CHECK(relay.ended(End::exhausted) == 1);
    CHECK(relay.script.count_out(Question::watch_client) == 1);
    CHECK(successor.silent());
}

TEST_CASE("a watch whose last answer was an event is asked again, and no byte is lost") {
    Listener backend;
    ScriptedWorker relay({backend.address()});
    Socket client = relay.admit();
    Socket upstream = backend.accept();
    relay.answer(Question::watch_upstream, POLLOUT, false);
    CHECK(relay.script.times_asked(Question::watch_upstream) == 2);
    client.send_all("hello");
    relay.answer(Question::watch_client, ready, false);
    CHECK(relay.script.times_asked(Question::watch_client) == 2);
    CHECK(upstream.receive_exactly(5) == "hello");
    client.send_all("again");
    relay.answer(Question::watch_client, POLLIN, true);
    CHECK(upstream.receive_exactly(5) == "again");
}

TEST_CASE("after a refused dial the next backend is dialled only when nothing names the old socket") {
    Listener live;
    const std::string dead = "127.0.0.1:" + std::to_string(free_port());
    ScriptedWorker relay({dead, live.address()});
    Socket client = relay.admit();
    relay.answer(Question::watch_upstream, refused, true);
    CHECK(relay.script.cancelled(Question::watch_upstream));
    CHECK_FALSE(live.waiting());
    // What is still told of the old socket says nothing of the next dial.
    relay.answer(Question::watch_upstream, ready, true);
    relay.answer(Question::watch_upstream, refused, true);
    CHECK_FALSE(live.waiting());
    CHECK(relay.script.times_asked(Question::watch_upstream) == 1);
    SUBCASE("it was cancelled") {
        relay.answer(Question::watch_upstream, -ECANCELED, false);
    }
    SUBCASE("it ended by itself") {
        relay.answer(Question::watch_upstream, ready, false);
    }
    CHECK(live.waiting(patience));
    Socket upstream = live.accept();
    relay.answer(Question::watch_upstream, POLLOUT, true);
    client.send_all("x");
    relay.answer(Question::watch_client, ready, true);
    CHECK(upstream.receive_exactly(1) == "x");
}

TEST_CASE("a client that arrives after the cancel is served by a drain, and reset by a kill") {
    Listener backend;
    const std::size_t before = descriptors();
    for (const bool last : {false, true}) {
        {
            ScriptedWorker relay({backend.address()});
            ScriptedWorker::Guest guest = relay.guest();
            relay.command(Worker::Drain{Clock::now() + std::chrono::seconds(60)});
            CHECK(relay.script.cancelled(Question::accept));
            relay.answer(Question::accept, guest.gift, !last);
            CHECK(relay.worker->counters().sessions.get() == 1);
            Socket upstream = backend.accept();
            relay.answer(Question::watch_upstream, POLLOUT, true);
            guest.client.send_all("served");
            relay.answer(Question::watch_client, ready, true);
            CHECK(upstream.receive_exactly(6) == "served");
            relay.let_go();
        }
        {
            ScriptedWorker relay({backend.address()});
            ScriptedWorker::Guest guest = relay.guest();
            relay.command(Worker::Kill{});
            relay.answer(Question::accept, guest.gift, !last);
            CHECK(guest.client.receive_to_end().ending == Ending::reset);
            CHECK(relay.worker->counters().sessions.get() == 0);
            relay.let_go();
        }
        CHECK(descriptors() == before);
    }
}

TEST_CASE("a batch may hold more answers of a session whose first one ends it") {
    Listener backend;
    ScriptedWorker relay({backend.address()});
    Socket client = relay.admit();
    Socket upstream = backend.accept();
    const Token of_client = relay.script.out(Question::watch_client);
    const Token of_upstream = relay.script.out(Question::watch_upstream);
    SUBCASE("the upstream's comes second") {
        relay.script.answer({{of_client, -ENOMEM, false}, {of_upstream, ready, true}});
        CHECK(relay.script.count_out(Question::watch_upstream) == 1);
        CHECK(client.silent());  // its descriptors stay while anything names them
        relay.let_go();
    }
    SUBCASE("the client's comes second") {
        relay.script.answer({{of_upstream, -ENOMEM, false}, {of_client, refused, true}});
        relay.let_go();
    }
    SUBCASE("the second is the last of all") {
        relay.script.answer({{of_client, -ENOMEM, false}, {of_upstream, ready, false}});
    }
    CHECK(relay.ended(End::exhausted) == 1);
    CHECK(relay.script.count_out(Question::watch_client) == 0);
    CHECK(relay.script.count_out(Question::watch_upstream) == 0);
    CHECK(client.receive_to_end().ending == Ending::reset);
    CHECK(relay.stale() == 0);
}

TEST_CASE(
    "accept that fails for want of descriptors is asked again after a pause, an aborted client at once") {
    ScriptedWorker relay({"127.0.0.1:1"});
    relay.answer(Question::accept, -ECONNABORTED, false);
    CHECK(relay.script.times_asked(Question::accept) == 2);
    const TestClock::time_point failed = TestClock::now();
    relay.answer(Question::accept, -EMFILE, false);
    CHECK(relay.worker->counters().accept_pauses.get() == 1);
    REQUIRE(wait_until([&] { return relay.script.times_asked(Question::accept) == 3; }));
    CHECK(TestClock::now() - failed >= Milliseconds(90));
}

}  // namespace
}  // namespace sluice::test

#include "sluice/reactor/reactor.hpp"

#include "sluice/net/owned_fd.hpp"
#include "sluice/net/socket.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/sockets.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace sluice {
namespace {

// The engines; every case below runs on each of them.
struct IoUring {
    static constexpr const char* name = "io_uring";
    static auto open() { return open_uring_reactor(64); }
};
struct Epoll {
    static constexpr const char* name = "epoll";
    static auto open() { return open_epoll_reactor(64); }
};

#define OPEN_REACTOR(reactor)                                     \
    auto reactor##_opened = Engine::open();                       \
    if (!reactor##_opened) SLUICE_SKIP(reactor##_opened.error()); \
    Reactor& reactor = **reactor##_opened

const Token a_listener(Question::accept, {1, 1});
const Token a_client(Question::watch_client, {2, 7});
const Token an_upstream(Question::watch_upstream, {3, 7});
const Token the_doorbell(Question::doorbell, {0, 1});

// What a reactor has answered so far.
class Answers {
  public:
    explicit Answers(Reactor& reactor, std::size_t room = 16) : reactor_(reactor), room_(room) {}

    // Waits until enough is true of the answers; false when the deadline came first.
    template <class Enough>
    bool until(Enough enough, test::Milliseconds deadline = test::patience) {
        const Time end = Clock::now() + deadline;
        while (!enough()) {
            if (Clock::now() >= end) return false;
            take(end);
        }
        return true;
    }

    void take(Time deadline) {
        std::array<Completion, 64> answers;
        const std::size_t count = reactor_.wait(std::span(answers).first(room_), deadline);
        REQUIRE(count <= room_);
        for (const Completion& answer : std::span(answers).first(count)) {
            const auto question = static_cast<unsigned>(answer.token.question());
            if (answer.token.question() == Question::accept && answer.result >= 0)
                accepted.emplace_back(answer.result);
            else if (answer.result >= 0)
                events[answer.token.raw()] |= answer.result;
            CAPTURE(question);
            CHECK(!ended.contains(answer.token.raw()));  // nothing comes after a last answer
            if (!answer.more) ended[answer.token.raw()] = answer.result;
        }
    }

    // Whether nothing of this is told during a glance.
    bool silent_about(Token token, int of_events) {
        events[token.raw()] = 0;
        return !until([&] { return (events[token.raw()] & of_events) != 0; }, test::glance);
    }

    bool told(Token token, int of_events) { return (events[token.raw()] & of_events) == of_events; }
    bool has_ended(Token token) const { return ended.contains(token.raw()); }

    std::map<std::uint64_t, int> events;  // by token: all that were told since somebody cleared it
    std::map<std::uint64_t, int> ended;   // by token: the result of the last answer
    std::vector<OwnedFd> accepted;

  private:
    Reactor& reactor_;
    std::size_t room_;
};

TEST_CASE("a token tells its question, slot and generation back") {
    const Token token(Question::watch_upstream, {Token::slots_max - 1, UINT32_MAX});
    CHECK(token.question() == Question::watch_upstream);
    CHECK(token.name() == SlotName{Token::slots_max - 1, UINT32_MAX});
    CHECK(Token(token.raw()) == token);
    CHECK(!(Token(Question::watch_client, {5, 1}) == Token(Question::watch_client, {5, 2})));
    CHECK(!(Token(Question::watch_client, {5, 1}) == Token(Question::watch_upstream, {5, 1})));
    CHECK(test::death_of([] {
              static_cast<void>(Token(Question::accept, {Token::slots_max, 1}));
          }).broke_promise("name.slot < slots_max"));
}

TEST_CASE("the probe of io_uring agrees with what opening one says") {
    const auto probed = probe_uring();
    const auto opened = open_uring_reactor(64);
    if (probed) CHECK(opened);
    if (!opened) CHECK(!probed);
    if (!probed) CHECK(probed.error().find("io_uring") != std::string::npos);
    if (opened) CHECK(std::string((*opened)->name()) == "io_uring");
    CHECK(std::string((*open_epoll_reactor(64))->name()) == "epoll");
}

TEST_CASE_TEMPLATE("clients are accepted until the question is cancelled", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    const test::Listener listener;
    Answers answers(reactor);
    std::vector<test::Socket> clients;
    clients.push_back(test::connect_to(listener.address()));  // before the question
    reactor.accept(listener.descriptor(), a_listener);
    CHECK(answers.until([&] { return answers.accepted.size() == 1; }));
    for (int count = 0; count < 5; ++count) clients.push_back(test::connect_to(listener.address()));
    CHECK(answers.until([&] { return answers.accepted.size() == 6; }));
    for (const OwnedFd& fd : answers.accepted) {
        CHECK((::fcntl(fd.get(), F_GETFL) & O_NONBLOCK) != 0);
        CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    }
    CHECK(!answers.has_ended(a_listener));
    reactor.cancel(listener.descriptor(), a_listener);
    CHECK(answers.until([&] { return answers.has_ended(a_listener); }));
    CHECK(answers.ended[a_listener.raw()] == -ECANCELED);
    clients.push_back(test::connect_to(listener.address()));
    answers.until([] { return false; }, test::glance);
    CHECK(answers.accepted.size() == 6);
    CHECK(listener.waiting());  // still in the backlog
}

TEST_CASE_TEMPLATE("unix clients are accepted, too, and two listeners starve none", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    const test::Listener one;
    // A name for each engine: a ring that dies gives up its hold on a listener a moment later than close(2).
    const test::Listener other(std::string("unix:@sluice-") + Engine::name + std::to_string(::getpid()));
    Answers answers(reactor, 1);
    reactor.accept(one.descriptor(), a_listener);
    reactor.accept(other.descriptor(), Token(Question::accept, {2, 1}));
    std::vector<test::Socket> clients;
    for (int count = 0; count < 4; ++count) {
        clients.push_back(test::connect_to(one.address()));
        clients.push_back(test::connect_to(other.address()));
    }
    CHECK(answers.until([&] { return answers.accepted.size() == 8; }));
}

TEST_CASE_TEMPLATE("a watch tells what holds now, and then what changes", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    for (const bool exchanged : {false, true}) {
        CAPTURE(exchanged);
        auto [near, far] = test::tcp_pair();
        if (exchanged) std::swap(near, far);
        far.send_all("x");
        REQUIRE(test::wait_until([&] {
            char byte = 0;
            return ::recv(near.descriptor(), &byte, 1, MSG_PEEK) == 1;
        }));
        const Token token(Question::watch_client, {9, exchanged ? 2U : 1U});
        Answers answers(reactor);
        reactor.watch(near.descriptor(), token);
        CHECK(answers.until([&] { return answers.told(token, POLLIN | POLLOUT); }));
        CHECK(near.receive_exactly(1) == "x");
        CHECK(answers.silent_about(token, POLLIN));
        far.send_all("y");
        CHECK(answers.until([&] { return answers.told(token, POLLIN); }));
        CHECK(!answers.has_ended(token));
        reactor.cancel(near.descriptor(), token);
        CHECK(answers.until([&] { return answers.has_ended(token); }));
    }
}

TEST_CASE_TEMPLATE("a partial read brings no new event, a new byte does", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    auto [near, far] = test::tcp_pair();
    Answers answers(reactor);
    reactor.watch(near.descriptor(), a_client);
    far.send_all("hello");
    CHECK(answers.until([&] { return answers.told(a_client, POLLIN | POLLOUT); }));
    CHECK(near.receive_exactly(2) == "he");
    CHECK(answers.silent_about(a_client, POLLIN));
    far.send_all("!");
    CHECK(answers.until([&] { return answers.told(a_client, POLLIN); }));
    CHECK(near.receive_exactly(4) == "llo!");
}

TEST_CASE_TEMPLATE("a socket that was full tells when it takes bytes again", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    auto [near, far] = test::tcp_pair({.receive = 4096, .send = 16'384});
    Answers answers(reactor);
    reactor.watch(near.descriptor(), a_client);
    CHECK(answers.until([&] { return answers.told(a_client, POLLOUT); }));
    const std::size_t sent = near.send_until_full(1 << 20);
    CHECK(answers.silent_about(a_client, POLLOUT));
    far.receive_exactly(sent);
    CHECK(answers.until([&] { return answers.told(a_client, POLLOUT); }));
}

TEST_CASE_TEMPLATE("a FIN, a hang-up and a reset each bring their event", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    auto [near, far] = test::tcp_pair();
    Answers answers(reactor);
    reactor.watch(near.descriptor(), a_client);
    far.shutdown_write();
    CHECK(answers.until([&] { return answers.told(a_client, POLLIN | POLLRDHUP); }));
    CHECK(!answers.told(a_client, POLLHUP));
    near.shutdown_write();
    CHECK(answers.until([&] { return answers.told(a_client, POLLHUP); }));

    auto [other_near, other_far] = test::tcp_pair();
    reactor.watch(other_near.descriptor(), an_upstream);
    CHECK(answers.until([&] { return answers.told(an_upstream, POLLOUT); }));
    other_far.reset();
    CHECK(answers.until([&] { return answers.told(an_upstream, POLLERR | POLLHUP); }));

    auto [unix_near, unix_far] = test::unix_pair();
    const Token by_unix(Question::watch_client, {4, 1});
    reactor.watch(unix_near.descriptor(), by_unix);
    unix_far.close();
    CHECK(answers.until([&] { return answers.told(by_unix, POLLHUP); }));
}

TEST_CASE_TEMPLATE("a dial that is under way tells when it is over, refused or not", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    const test::Listener listener;
    const auto there = *SocketAddress::from_literal("127.0.0.1", listener.port());
    const auto nowhere = *SocketAddress::from_literal("127.0.0.1", test::free_port());
    const auto good = open_socket(there, SOCK_STREAM, {});
    const auto bad = open_socket(nowhere, SOCK_STREAM, {});
    REQUIRE(good);
    REQUIRE(bad);
    dial(good->get(), there);
    dial(bad->get(), nowhere);
    Answers answers(reactor);
    reactor.watch(good->get(), a_client);
    reactor.watch(bad->get(), an_upstream);
    CHECK(
        answers.until([&] { return answers.told(a_client, POLLOUT) && answers.told(an_upstream, POLLERR); }));
    CHECK(take_error(good->get()) == 0);
    CHECK(take_error(bad->get()) == ECONNREFUSED);
}

TEST_CASE_TEMPLATE("a cancelled question is answered a last time, once, and not before", Engine, IoUring,
                   Epoll) {
    OPEN_REACTOR(reactor);
    auto [near, far] = test::tcp_pair();
    auto [other_near, other_far] = test::tcp_pair();
    Answers answers(reactor);
    reactor.watch(near.descriptor(), a_client);
    reactor.watch(other_near.descriptor(), an_upstream);
    CHECK(
        answers.until([&] { return answers.told(a_client, POLLOUT) && answers.told(an_upstream, POLLOUT); }));
    CHECK(answers.ended.empty());
    reactor.cancel(near.descriptor(), a_client);
    CHECK(answers.until([&] { return answers.has_ended(a_client); }));
    CHECK(answers.ended[a_client.raw()] == -ECANCELED);
    // Nobody hears of that socket any more, and the other one's question stands.
    far.send_all("x");
    answers.until([] { return false; }, test::glance);
    CHECK(!answers.has_ended(an_upstream));
    other_far.send_all("x");
    CHECK(answers.until([&] { return answers.told(an_upstream, POLLIN); }));
    // The socket may be watched anew, by another name.
    const Token again(Question::watch_client, {2, 8});
    reactor.watch(near.descriptor(), again);
    CHECK(answers.until([&] { return answers.told(again, POLLIN); }));
}

TEST_CASE_TEMPLATE("a cancel that meets an event loses neither", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    for (std::uint32_t round = 1; round <= 50; ++round) {
        auto [near, far] = test::unix_pair();
        const Token token(Question::watch_client, {1, round});
        Answers answers(reactor);
        reactor.watch(near.descriptor(), token);
        if (round % 2 == 0) answers.take(Time::min());
        far.close();
        reactor.cancel(near.descriptor(), token);
        REQUIRE(answers.until([&] { return answers.has_ended(token); }));
    }
}

TEST_CASE_TEMPLATE("without a descriptor to be had accepting ends with EMFILE and keeps the backlog", Engine,
                   IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    const test::Listener listener;
    Answers answers(reactor);
    std::vector<test::Socket> clients;
    for (int count = 0; count < 3; ++count) clients.push_back(test::connect_to(listener.address()));
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    {
        // The limit is on numbers: all below it are taken, so that not one more can be had.
        const OwnedFd last(::fcntl(0, F_DUPFD_CLOEXEC, 0));
        const rlimit low{static_cast<rlim_t>(last.get()) + 8, before.rlim_max};
        std::vector<OwnedFd> taken;
        taken.reserve(1024);
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &low) == 0);
        for (int fd = 0; (fd = ::fcntl(0, F_DUPFD_CLOEXEC, 0)) >= 0;) taken.emplace_back(fd);
        reactor.accept(listener.descriptor(), a_listener);
        const bool ended = answers.until([&] { return answers.has_ended(a_listener); });
        ::setrlimit(RLIMIT_NOFILE, &before);
        CHECK(ended);
    }
    CHECK(answers.ended[a_listener.raw()] == -EMFILE);
    CHECK(answers.accepted.empty());
    CHECK(listener.waiting());
    const Token again(Question::accept, {1, 2});
    reactor.accept(listener.descriptor(), again);
    CHECK(answers.until([&] { return answers.accepted.size() == 3; }));
    CHECK(!answers.has_ended(again));
    clients.push_back(test::connect_to(listener.address()));
    CHECK(answers.until([&] { return answers.accepted.size() == 4; }));
}

TEST_CASE_TEMPLATE("a deadline is honoured without spinning, and one that has passed does not wait", Engine,
                   IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    auto [near, far] = test::tcp_pair();
    Answers answers(reactor);
    reactor.watch(near.descriptor(), a_client);
    CHECK(answers.until([&] { return answers.told(a_client, POLLOUT); }));
    std::array<Completion, 4> room;
    for (const auto duration : {test::Milliseconds(1), test::Milliseconds(30)}) {
        const Time deadline = Clock::now() + duration;
        int waits = 0;
        while (Clock::now() < deadline) {
            CHECK(reactor.wait(room, deadline) == 0);
            REQUIRE(++waits < 20);
        }
    }
    CHECK(reactor.wait(room, Clock::now() - test::Milliseconds(1)) == 0);
    CHECK(reactor.wait(room, Time::min()) == 0);
    // What is there already is told also to one who does not wait.
    far.send_all("x");
    REQUIRE(test::wait_until([&] {
        char byte = 0;
        return ::recv(near.descriptor(), &byte, 1, MSG_PEEK) == 1;
    }));
    answers.events.clear();
    answers.take(Time::min());
    CHECK(answers.told(a_client, POLLIN));
}

TEST_CASE_TEMPLATE("a doorbell wakes one who waits for ever, each time it is rung", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    const OwnedFd bell(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    Answers answers(reactor);
    reactor.watch(bell.get(), the_doorbell);
    CHECK(answers.until([&] { return answers.told(the_doorbell, POLLOUT); }));
    for (int round = 0; round < 100; ++round) {
        answers.events.clear();
        std::thread ringer([&] { ::eventfd_write(bell.get(), 1); });
        while (!answers.told(the_doorbell, POLLIN)) answers.take(time_never);
        ringer.join();
        eventfd_t rings = 0;
        REQUIRE(::eventfd_read(bell.get(), &rings) == 0);
        REQUIRE(rings == 1);
    }
    CHECK(!answers.has_ended(the_doorbell));
}

TEST_CASE_TEMPLATE("more answers than there is room for come later", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    const test::Listener listener;
    std::vector<test::Socket> clients;
    std::vector<std::pair<test::Socket, test::Socket>> pairs;
    for (int count = 0; count < 10; ++count) clients.push_back(test::connect_to(listener.address()));
    reactor.accept(listener.descriptor(), a_listener);
    std::vector<Token> tokens;
    for (std::uint32_t slot = 0; slot < 10; ++slot) {
        pairs.push_back(test::unix_pair());
        tokens.emplace_back(Question::watch_client, SlotName{slot, 5});
        reactor.watch(pairs.back().first.descriptor(), tokens.back());
        pairs.back().second.send_all("x");
    }
    Answers answers(reactor, 2);
    CHECK(answers.until([&] {
        return answers.accepted.size() == 10 && std::ranges::all_of(tokens, [&](Token token) {
                   return answers.told(token, POLLIN | POLLOUT);
               });
    }));
    for (std::size_t index = 0; index < tokens.size(); ++index)
        reactor.cancel(pairs[index].first.descriptor(), tokens[index]);
    reactor.cancel(listener.descriptor(), a_listener);
    CHECK(answers.until([&] { return answers.ended.size() == 11; }));
    for (const auto& [token, result] : answers.ended) CHECK(result == -ECANCELED);
}

TEST_CASE_TEMPLATE("more questions than the queue holds are all asked", Engine, IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    constexpr std::uint32_t many = 2500;  // io_uring's submission queue has 1024 entries
    std::vector<OwnedFd> bells;
    Answers answers(reactor, 64);
    for (std::uint32_t slot = 0; slot < many; ++slot) {
        bells.emplace_back(::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC));
        if (!bells.back().valid()) SLUICE_SKIP("too few descriptors allowed (ulimit -n)");
        reactor.watch(bells.back().get(), Token(Question::doorbell, {slot, 1}));
    }
    CHECK(answers.until([&] { return answers.events.size() == many; }));
    for (std::uint32_t slot = 0; slot < many; ++slot)
        reactor.cancel(bells[slot].get(), Token(Question::doorbell, {slot, 1}));
    CHECK(answers.until([&] { return answers.ended.size() == many; }));
}

TEST_CASE_TEMPLATE("sends that are taken along go before the wait, and only a short one is answered", Engine,
                   IoUring, Epoll) {
    OPEN_REACTOR(reactor);
    auto [whole, reader] = test::tcp_pair();
    auto [full, sleeper] = test::tcp_pair({.receive = 4096, .send = 4096});
    auto [dead, corpse] = test::tcp_pair();
    corpse.reset();
    REQUIRE(test::wait_until([&] {
        pollfd one{.fd = dead.descriptor(), .events = POLLERR, .revents = 0};
        return ::poll(&one, 1, 0) == 1;
    }));
    const std::string bytes = test::pattern(std::size_t{4} * 1024 * 1024, 1);
    const auto part = [&](std::size_t size) { return std::as_bytes(std::span(bytes)).first(size); };
    const Token to_whole(Question::carry, {0, 1});
    const Token to_full(Question::carry, {1, 1});
    const Token to_dead(Question::carry, {2, 1});
    const std::array<Send, 3> sends = {Send{whole.descriptor(), part(1000), to_whole},
                                       Send{full.descriptor(), part(bytes.size()), to_full},
                                       Send{dead.descriptor(), part(10), to_dead}};
    const bool carries = reactor.carry(sends);
    CHECK(carries == (std::string_view(reactor.name()) == "io_uring"));
    if (!carries) return;
    std::array<Completion, 16> answers;
    // Without an answer it would wait for ever.
    const std::size_t count = reactor.wait(answers, time_never);
    REQUIRE(count == 2);
    CHECK(answers[0].token == to_full);
    CHECK(answers[0].result > 0);
    CHECK(std::cmp_less(answers[0].result, bytes.size()));
    CHECK(answers[1].token == to_dead);
    CHECK(answers[1].result == -ECONNRESET);
    CHECK((reader.receive_exactly(1000) == bytes.substr(0, 1000)));
    const auto sent = static_cast<std::size_t>(answers[0].result);
    CHECK((sleeper.receive_exactly(sent) == bytes.substr(0, sent)));
    // A whole one wakes nobody.
    const Send last{whole.descriptor(), part(5), to_whole};
    REQUIRE(reactor.carry({&last, 1}));
    const Time begun = Clock::now();
    CHECK(reactor.wait(answers, begun + test::glance) == 0);
    CHECK(Clock::now() - begun >= test::glance);
    CHECK(reader.receive_exactly(5) == bytes.substr(0, 5));
}

TEST_CASE_TEMPLATE("a reactor that dies with questions out leaves no descriptor", Engine, IoUring, Epoll) {
    const test::Listener listener;
    auto [near, far] = test::tcp_pair();
    const auto descriptors = [] {
        const std::filesystem::directory_iterator folder("/proc/self/fd");
        return std::distance(begin(folder), end(folder));
    };
    const auto before = descriptors();
    {
        OPEN_REACTOR(reactor);
        reactor.accept(listener.descriptor(), a_listener);
        reactor.watch(near.descriptor(), a_client);
        Answers answers(reactor);
        CHECK(answers.until([&] { return answers.told(a_client, POLLOUT); }));
    }
    CHECK(descriptors() == before);
    far.send_all("x");
    CHECK(near.receive_exactly(1) == "x");
}

}  // namespace
}  // namespace sluice

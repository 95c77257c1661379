#include "sluice/flow/flow.hpp"

#include "sluice/flow/round.hpp"
#include "sluice/net/socket.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/sockets.hpp"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace sluice {
namespace {

using Progress = Flow::Progress;

constexpr std::size_t plenty = std::size_t{64} * 1024 * 1024;  // a budget, of a turn or of pipes
constexpr std::size_t bulky = 40 * 1024;                       // a read that speaks for splicing
constexpr std::size_t chatty = 1000;                           // one that speaks for copying

// The four ways from a socket to a socket. "Exchanged": the flow's source was accepted and its target
// dialled, as in a download; else the other way round.
struct Route {
    const char* name;
    bool source_tcp;
    bool target_tcp;
    bool exchanged;
};
constexpr std::array routes = {
    Route{"tcp to tcp", true, true, false},     Route{"tcp to tcp, exchanged", true, true, true},
    Route{"tcp to unix", true, false, false},   Route{"unix to tcp", false, true, false},
    Route{"unix to unix", false, false, false},
};
constexpr std::span<const Route> tcp_routes = std::span(routes).first(2);

struct Options {
    std::size_t pipe_budget = plenty;
    test::Buffers source_buffers = {};
    test::Buffers target_buffers = {};
    const char* calls = "one by one";  // or "aio", "io_uring"
    bool rounds = true;                // begins each turn as the worker does
};

// Where io_uring is forbidden, AIO stands in.
std::unique_ptr<Calls> open_calls(std::string_view name) {
    if (name == "one by one") return open_single_calls();
    if (auto calls = open_uring_calls(); calls && name == "io_uring") return std::move(*calls);
    return open_aio_calls();
}

// A flow between two sockets, with the ends of both peers at hand:
//     sender  ~>  source | flow | target  ~>  receiver
// Readiness comes as in the relay: edge-triggered, so a flow that forgets an event stalls here, too.
class Bench {
  public:
    explicit Bench(const Route& route, const Options& options = {})
        : pipes(options.pipe_budget), calls(open_calls(options.calls)), rounds_(options.rounds) {
        auto [near_source, far_source] = pair_of(route.source_tcp, route.exchanged, options.source_buffers);
        auto [near_target, far_target] = pair_of(route.target_tcp, !route.exchanged, options.target_buffers);
        sender = std::move(far_source);
        receiver = std::move(far_target);
        adopt(source, std::move(near_source), route.source_tcp);
        adopt(target, std::move(near_target), route.target_tcp);
        // As sessions decide it: unix sockets are copied.
        flow.allow_splice(route.source_tcp && route.target_tcp);
    }
    ~Bench() {
        flow.abandon(lane);
        CHECK(pipes.leased_bytes() == 0);
        CHECK(blocks.taken_bytes() == 0);
    }
    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    // Takes what the kernel has to tell of the source and the target; waits for it until the deadline.
    bool hear(test::Milliseconds deadline = test::Milliseconds(0)) {
        std::array<epoll_event, 8> events{};
        const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()),
                                       static_cast<int>(deadline.count()));
        for (int index = 0; index < count; ++index) {
            auto& socket = *static_cast<Socket*>(events[static_cast<std::size_t>(index)].data.ptr);
            const std::uint32_t told = events[static_cast<std::size_t>(index)].events;
            // As a session notes it, but that what broke the connection is left for the flow to find: its
            // reads then prove nothing.
            if ((told & (EPOLLPRI | EPOLLERR)) != 0) socket.urgent_came = true;
            if ((told & EPOLLRDHUP) != 0 && (told & EPOLLERR) == 0 && socket.error == 0 &&
                socket.stream_of_tcp)
                socket.fin_came = true;
            if ((told & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) socket.readable = true;
            if ((told & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0) socket.writable = true;
        }
        return count > 0;
    }

    // One turn of the worker. Afterwards other sessions use the scratch memory, and a flow that holds no
    // bytes holds nothing at all.
    Progress turn(std::size_t budget = plenty) {
        if (rounds_ && flow.joins_round(source, target)) {
            round_.add(flow, source, target);
            round_.read(lane);
            round_.send(lane);
        }
        const Progress progress = flow.advance(source, target, lane, budget);
        std::ranges::fill(scratch_, std::byte{0xee});
        if (!flow.holds_bytes()) {
            CHECK(!flow.holds_pipe());
            CHECK(pipes.leased_bytes() == 0);
            CHECK(blocks.taken_bytes() == 0);
        }
        return progress;
    }

    // Until the kernel holds so many bytes for the flow to read.
    void wait_until_queued(std::size_t bytes) {
        REQUIRE(test::wait_until([&] {
            int queued = 0;
            return ::ioctl(source.fd.get(), FIONREAD, &queued) == 0 && std::cmp_greater_equal(queued, bytes);
        }));
        hear();
    }

    // The sender says something, the flow reads all of it at once, and the receiver hears it.
    void pass_on(std::size_t size) {
        const std::string bytes = test::pattern(size, ++passed_on_);
        sender.send_all(bytes);
        wait_until_queued(size);
        CHECK(turn() == Progress::waiting);
        std::string received;
        while (received.size() < size) {
            received += receive_available();
            if (received.size() < size) wait_for_anything(false);
            hear();
            turn();
        }
        CHECK((received == bytes));
    }

    // Until the flow splices.
    void promote() {
        pass_on(bulky);
        pass_on(bulky);
    }

    // Relays this as fast as it goes, with the receiver reading at the same time. Then the sender's FIN, if
    // asked for. Returns what the receiver got.
    std::string relay(std::string_view bytes, bool fin = false, std::size_t budget = plenty) {
        std::string received;
        std::size_t sent = 0;
        bool fin_sent = !fin;
        const std::size_t wanted = bytes.size() + owed;
        owed = 0;
        const auto end = test::TestClock::now() + test::patience;
        while (received.size() < wanted || (fin && !flow.done())) {
            if (test::TestClock::now() > end) {
                FAIL_CHECK("stalled after " << received.size() << " of " << wanted << " bytes");
                break;
            }
            const std::size_t now = sent < bytes.size() ? sender.send_some(bytes.substr(sent)) : 0;
            sent += now;
            if (sent == bytes.size() && !std::exchange(fin_sent, true)) sender.shutdown_write();
            const bool told = hear();
            const Progress progress = turn(budget);
            const std::string part = receive_available();
            received += part;
            if (now == 0 && !told && part.empty() && progress == Progress::waiting)
                wait_for_anything(sent < bytes.size());
        }
        return received;
    }

    std::string receive_available() {
        std::string bytes(256 * 1024, '\0');
        const ssize_t got = ::recv(receiver.descriptor(), bytes.data(), bytes.size(), MSG_DONTWAIT);
        bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
        return bytes;
    }

    static void set(const Socket& socket, int level, int name) {
        const int on = 1;
        REQUIRE(::setsockopt(socket.fd.get(), level, name, &on, sizeof(on)) == 0);
    }

    test::Socket sender;
    test::Socket receiver;
    Socket source;
    Socket target;
    BlockPool blocks;
    PipePool pipes;
    std::unique_ptr<Calls> calls;
    Flow flow;
    std::size_t owed = 0;  // bytes sent before relay(), which it receives too

  private:
    static std::pair<test::Socket, test::Socket> pair_of(bool tcp, bool exchanged, test::Buffers buffers) {
        auto [one, other] = tcp ? test::tcp_pair(buffers) : test::unix_pair();
        if (!tcp) {
            one.set_buffers(buffers);
            other.set_buffers(buffers);
        }
        if (exchanged) std::swap(one, other);
        return {std::move(one), std::move(other)};
    }

    void adopt(Socket& socket, test::Socket from, bool tcp) {
        socket.fd = OwnedFd(from.release());
        socket.stream_of_tcp = tcp;
        set(socket, SOL_SOCKET, SO_OOBINLINE);
        epoll_event event{};
        event.events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;
        event.data.ptr = &socket;
        REQUIRE(::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket.fd.get(), &event) == 0);
    }

    void wait_for_anything(bool sending) {
        std::array<pollfd, 3> polled = {{
            {.fd = epoll_.get(), .events = POLLIN, .revents = 0},
            {.fd = receiver.descriptor(), .events = POLLIN, .revents = 0},
            {.fd = sending ? sender.descriptor() : -1, .events = POLLOUT, .revents = 0},
        }};
        // A wait that nothing ends is a stall; relay() and its like notice.
        ::poll(polled.data(), polled.size(), static_cast<int>(test::patience.count()));
    }

    OwnedFd epoll_{::epoll_create1(EPOLL_CLOEXEC)};
    std::vector<std::byte> scratch_ = std::vector<std::byte>(message_bytes_max);
    std::uint64_t passed_on_ = 0;
    bool rounds_;
    Round round_;

  public:
    Lane lane{scratch_, blocks, pipes, *calls};
};

// Every flow that is to splice needs pipes, which this user's other processes may have used up.
#define NEEDS_PIPES() \
    if (!Pipe::open(1024 * 1024)) SLUICE_SKIP("this user's pipe budget (pipe-user-pages-soft) is used up")

TEST_CASE("bytes arrive whole, and the FIN after the last of them") {
    for (const Route& route : routes) {
        CAPTURE(route.name);
        for (const std::size_t size : {0UZ, 1UZ, 1000UZ, 65'536UZ, 65'537UZ, 3'000'000UZ}) {
            CAPTURE(size);
            Bench bench(route);
            const std::string bytes = test::pattern(size, size);
            const bool whole = bench.relay(bytes, true) == bytes;
            CHECK(whole);
            CHECK(bench.flow.state() == FlowState::finished);
            CHECK(bench.flow.bytes() == size);
            const test::Received rest = bench.receiver.receive_to_end();
            CHECK(rest.bytes.empty());
            CHECK(rest.ending == test::Ending::fin);
        }
    }
}

TEST_CASE("the other direction stays open after a FIN") {
    for (const Route& route : routes) {
        CAPTURE(route.name);
        Bench bench(route);
        CHECK(bench.relay("request", true) == "request");
        bench.receiver.send_all("answer");
        Flow back;
        REQUIRE(test::wait_until([&] {
            bench.hear();
            back.advance(bench.target, bench.source, bench.lane, plenty);
            return back.bytes() == 6;
        }));
        CHECK(bench.sender.receive_exactly(6) == "answer");
        CHECK(bench.receiver.receive_to_end().ending == test::Ending::fin);
        back.abandon(bench.lane);
    }
}

TEST_CASE("two bulky reads make a flow splice, and eight small ones make it copy again; no byte is lost") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.pass_on(bulky);
        CHECK(bench.flow.bytes_spliced() == 0);
        bench.pass_on(chatty);  // the streak begins anew
        bench.pass_on(bulky);
        bench.pass_on(bulky);
        CHECK(bench.flow.bytes_spliced() == 0);
        CHECK(bench.flow.bytes_copied() == 3 * bulky + chatty);
        bench.pass_on(bulky);
        CHECK(bench.flow.bytes_spliced() == bulky);
        CHECK(bench.flow.bytes_copied() == 3 * bulky + chatty);

        for (int read = 0; read < 7; ++read) bench.pass_on(chatty);
        bench.pass_on(bulky);  // not enough of them in a row
        CHECK(bench.flow.bytes_spliced() == 2 * bulky + 7 * chatty);
        for (int read = 0; read < 8; ++read) bench.pass_on(chatty);
        CHECK(bench.flow.bytes_spliced() == 2 * bulky + 15 * chatty);
        bench.pass_on(chatty);
        CHECK(bench.flow.bytes_spliced() == 2 * bulky + 15 * chatty);
        CHECK(bench.flow.bytes_copied() == 3 * bulky + 2 * chatty);
        bench.promote();
        bench.pass_on(bulky);
        CHECK(bench.flow.bytes_spliced() == 3 * bulky + 15 * chatty);
        CHECK(!bench.flow.splice_refused());
        CHECK(!bench.flow.pipe_missed());
    }
}

TEST_CASE("unix sockets are never spliced, nor what was not allowed to be") {
    for (const Route& route : routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.flow.allow_splice(false);
        const std::string bytes = test::pattern(1'000'000, 1);
        CHECK((bench.relay(bytes) == bytes));
        CHECK(bench.flow.bytes_spliced() == 0);
        CHECK(bench.flow.bytes_copied() == bytes.size());
        CHECK(!bench.flow.pipe_missed());
    }
}

TEST_CASE("no pipe to be had means copying, never failing") {
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route, {.pipe_budget = 0});
        const std::string bytes = test::pattern(3'000'000, 1);
        for (int read = 0; read < 3; ++read) bench.pass_on(bulky);
        CHECK((bench.relay(bytes, true) == bytes));
        CHECK(bench.flow.bytes_spliced() == 0);
        CHECK(bench.flow.pipe_missed());
        CHECK(!bench.flow.splice_refused());
        CHECK(bench.flow.state() == FlowState::finished);
    }
}

TEST_CASE("a target that is full makes the flow wait, and what it holds outlives the turn") {
    for (const Route& route : routes) {
        CAPTURE(route.name);
        Bench bench(route, {.target_buffers = {.receive = 4096, .send = 4096}});
        bench.flow.allow_splice(false);
        const std::string bytes = test::pattern(50'000, 7);
        bench.sender.send_all(bytes);
        bench.wait_until_queued(bytes.size());
        REQUIRE(test::wait_until([&] {
            bench.hear();
            return bench.turn() == Progress::waiting && bench.flow.holds_bytes() && !bench.target.writable;
        }));
        CHECK(bench.blocks.taken_bytes() > 0);
        const std::uint64_t stuck_at = bench.flow.bytes();
        CHECK(stuck_at < bytes.size());
        CHECK(bench.turn() == Progress::waiting);
        CHECK(bench.flow.bytes() == stuck_at);
        bench.owed = bytes.size();
        const std::string more = test::pattern(100'000, 8);
        CHECK((bench.relay(more, true) == bytes + more));
        CHECK(bench.flow.state() == FlowState::finished);
        CHECK(bench.blocks.taken_bytes() == 0);
    }
}

TEST_CASE("a full target keeps a spliced flow's bytes in its pipe, which then goes back") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route, {.target_buffers = {.receive = 4096, .send = 4096}});
        bench.promote();
        std::string bytes;
        for (int part = 0; !bench.flow.holds_bytes() && part < 100; ++part) {
            bytes += test::pattern(bulky, 100 + static_cast<std::uint64_t>(part));
            bench.sender.send_all(std::string_view(bytes).substr(bytes.size() - bulky));
            bench.wait_until_queued(bulky);
            bench.turn();
        }
        REQUIRE(bench.flow.holds_bytes());
        CHECK(bench.flow.holds_pipe());
        CHECK(bench.pipes.leased_bytes() > 0);
        bench.owed = bytes.size();
        const std::string more = test::pattern(500'000, 8);
        CHECK((bench.relay(more, true) == bytes + more));
        CHECK(bench.pipes.leased_bytes() == 0);
        CHECK(bench.pipes.idle_bytes() > 0);
        CHECK(bench.flow.state() == FlowState::finished);
    }
}

TEST_CASE("a target that takes nothing is not read for") {
    for (const Route& route : routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.sender.send_all("hello");
        bench.wait_until_queued(5);
        bench.target.writable = false;
        CHECK(bench.turn() == Progress::waiting);
        CHECK(!bench.flow.holds_bytes());
        CHECK(bench.source.readable);
        bench.target.writable = true;
        CHECK(bench.turn() == Progress::waiting);
        CHECK(bench.receiver.receive_exactly(5) == "hello");
    }
}

TEST_CASE("a spent budget ends the turn, and the flow goes on without a new event") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        for (const bool spliced : {false, true}) {
            CAPTURE(route.name);
            CAPTURE(spliced);
            Bench bench(route, {.source_buffers = {.receive = 1 << 20, .send = 1 << 20}});
            bench.flow.allow_splice(spliced);
            bench.promote();
            const std::string bytes = test::pattern(150'000, 9);
            const std::uint64_t before = bench.flow.bytes();
            bench.sender.send_all(bytes);
            bench.wait_until_queued(bytes.size());
            int turns = 0;
            std::string received;
            while (bench.turn(1) == Progress::spent) {
                CHECK(bench.flow.bytes() > before);
                received += bench.receive_available();
                REQUIRE(++turns < 1000);
            }
            CHECK(turns >= 2);
            CHECK(bench.flow.bytes() == before + bytes.size());
            received += bench.receiver.receive_exactly(bytes.size() - received.size());
            CHECK((received == bytes));
            CHECK(bench.turn(0) == Progress::waiting);  // nothing is there: not "spent"
        }
    }
}

TEST_CASE("with TCP_INQ the read that would only be answered EAGAIN is saved") {
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.sender.send_all("hello");
        bench.wait_until_queued(5);
        // With a budget that one read uses up: without the news the flow would have to ask again.
        CHECK(bench.turn(1) == Progress::waiting);
        CHECK(!bench.source.readable);
        const std::string bytes = test::pattern(2'000'000, 4);
        CHECK(bench.receiver.receive_exactly(5) == "hello");
        CHECK((bench.relay(bytes, true) == bytes));
        CHECK(bench.flow.state() == FlowState::finished);
    }
}

TEST_CASE("a reset of the target breaks the flow, and the target remembers how") {
    for (const Route& route : routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.hear();
        if (route.target_tcp)
            bench.receiver.reset();
        else
            bench.receiver.close();
        REQUIRE(bench.hear(test::patience));
        bench.sender.send_all("hello");
        bench.wait_until_queued(5);
        CHECK(bench.turn() == Progress::done);
        CHECK(bench.flow.state() == FlowState::broken);
        // A unix peer may only have stopped reading.
        CHECK(bench.target.error == (route.target_tcp ? ECONNRESET : 0));
        CHECK(bench.source.error == 0);
        CHECK(bench.flow.bytes() == 0);
        CHECK(bench.turn() == Progress::done);
    }
}

TEST_CASE("a pipe with a lost target's bytes in it is destroyed and not given to another flow") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route, {.target_buffers = {.receive = 4096, .send = 4096}});
        bench.promote();
        for (int part = 0; !bench.flow.holds_bytes() && part < 100; ++part) {
            bench.sender.send_all(test::pattern(bulky, 1));
            bench.wait_until_queued(bulky);
            bench.turn();
        }
        REQUIRE(bench.flow.holds_pipe());
        const std::size_t idle = bench.pipes.idle_bytes();
        bench.receiver.reset();
        REQUIRE(test::wait_until([&] {
            bench.hear();
            return bench.turn() == Progress::done;
        }));
        CHECK(bench.flow.state() == FlowState::broken);
        CHECK(bench.target.error == ECONNRESET);
        CHECK(!bench.flow.holds_bytes());
        CHECK(bench.pipes.leased_bytes() == 0);
        CHECK(bench.pipes.idle_bytes() == idle);
    }
}

TEST_CASE(
    "abandoning a flow gives back what it holds, twice as well as once, and keeps a finished one finished") {
    NEEDS_PIPES();
    for (const bool spliced : {false, true}) {
        CAPTURE(spliced);
        Bench bench(routes[0], {.target_buffers = {.receive = 4096, .send = 4096}});
        bench.flow.allow_splice(spliced);
        bench.promote();
        for (int part = 0; !bench.flow.holds_bytes() && part < 100; ++part) {
            bench.sender.send_all(test::pattern(bulky, 1));
            bench.wait_until_queued(bulky);
            bench.turn();
        }
        REQUIRE(bench.flow.holds_bytes());
        CHECK(bench.flow.holds_pipe() == spliced);
        for (int time = 0; time < 2; ++time) {
            bench.flow.abandon(bench.lane);
            CHECK(bench.flow.state() == FlowState::broken);
            CHECK(!bench.flow.holds_bytes());
            CHECK(bench.pipes.leased_bytes() == 0);
            CHECK(bench.blocks.taken_bytes() == 0);
        }
        Bench finished(routes[0]);
        finished.relay("x", true);
        finished.flow.abandon(finished.lane);
        CHECK(finished.flow.state() == FlowState::finished);
    }
}

TEST_CASE("a reset of the source breaks the flow after the bytes before it, and no FIN is sent") {
    NEEDS_PIPES();
    for (const Route& route : {routes[0], routes[1], routes[2]}) {
        for (const bool spliced : {false, true}) {
            CAPTURE(route.name);
            CAPTURE(spliced);
            if (spliced && !route.target_tcp) continue;
            Bench bench(route);
            if (spliced) bench.promote();
            const std::string bytes = test::pattern(bulky, 2);
            bench.sender.send_all(bytes);
            bench.wait_until_queued(bytes.size());
            bench.sender.reset();
            REQUIRE(test::wait_until([&] {
                bench.hear();
                return bench.turn() == Progress::done;
            }));
            CHECK(bench.flow.state() == FlowState::broken);
            CHECK(bench.source.error == ECONNRESET);
            CHECK(bench.target.error == 0);
            CHECK((bench.flow.bytes_spliced() > 0) == spliced);
            CHECK((bench.receiver.receive_exactly(bytes.size()) == bytes));
            CHECK(bench.receiver.silent());  // a truncated stream never looks complete
        }
    }
}

TEST_CASE("an end of a socket whose reset was already told to a send is not taken for a FIN") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        for (const bool spliced : {false, true}) {
            CAPTURE(route.name);
            CAPTURE(spliced);
            Bench bench(route);
            if (spliced) bench.promote();
            bench.sender.reset();
            bench.receiver.send_all("answer");
            Flow back;
            REQUIRE(test::wait_until([&] {
                bench.hear();
                return back.advance(bench.target, bench.source, bench.lane, plenty) == Progress::done;
            }));
            CHECK(bench.source.error == ECONNRESET);
            // The kernel has told its error; from now on recv answers 0.
            bench.source.readable = true;
            CHECK(bench.turn() == Progress::done);
            CHECK(bench.flow.state() == FlowState::broken);
            CHECK(bench.source.error == ECONNRESET);
            CHECK(bench.receiver.silent());
        }
    }
}

TEST_CASE("a source that closed in good order is whole, though what is sent to it has nowhere to go") {
    for (const Route& route : routes) {
        CAPTURE(route.name);
        Bench bench(route);
        const std::string bytes = test::pattern(bulky, 3);
        bench.sender.send_all(bytes);
        bench.wait_until_queued(bytes.size());
        bench.sender.close();
        bench.receiver.send_all("answer");
        Flow back;
        REQUIRE(test::wait_until([&] {
            bench.hear();
            if (back.done()) return true;
            // TCP takes the first bytes and learns by the answering RST.
            static_cast<void>(back.advance(bench.target, bench.source, bench.lane, plenty));
            if (!back.done()) bench.receiver.send_some("more");
            return back.done();
        }));
        // A unix socket is not broken by it: its peer may only have stopped reading.
        CHECK(bench.source.error == (route.source_tcp ? EPIPE : 0));
        CHECK(back.state() == FlowState::broken);
        bench.source.readable = true;
        std::string received;
        REQUIRE(test::wait_until([&] {
            bench.hear();
            const Progress progress = bench.turn();
            received += bench.receive_available();
            return progress == Progress::done;
        }));
        CHECK(bench.flow.state() == FlowState::finished);
        received += bench.receiver.receive_to_end().bytes;
        CHECK((received == bytes));
    }
}

TEST_CASE("a source that said FIN is whole, also when a reset comes after both FINs") {
    for (const Route& route : tcp_routes) {
        for (const bool heard : {true, false}) {
            CAPTURE(route.name);
            CAPTURE(heard);
            Bench bench(route);
            const std::string bytes = test::pattern(bulky, 5);
            bench.sender.send_all(bytes);
            bench.wait_until_queued(bytes.size());
            bench.sender.close();
            pollfd entry{bench.source.fd.get(), POLLRDHUP, 0};
            REQUIRE(::poll(&entry, 1, static_cast<int>(test::patience.count())) == 1);
            REQUIRE((entry.revents & POLLERR) == 0);
            bench.source.fin_came = heard;
            // In one segment with our FIN, so that the reset it provokes meets LAST_ACK.
            REQUIRE(::send(bench.source.fd.get(), "x", 1, MSG_MORE) == 1);
            REQUIRE(::shutdown(bench.source.fd.get(), SHUT_WR) == 0);
            entry.events = 0;
            REQUIRE(::poll(&entry, 1, static_cast<int>(test::patience.count())) == 1);
            REQUIRE((entry.revents & POLLERR) != 0);
            bench.source.error = take_error(bench.source.fd.get());
            REQUIRE(bench.source.error == ECONNRESET);
            std::string received;
            REQUIRE(test::wait_until([&] {
                bench.hear();
                const Progress progress = bench.turn();
                received += bench.receive_available();
                return progress == Progress::done;
            }));
            if (!heard) {
                // Nobody can tell then, and what cannot be told must not look complete.
                CHECK(bench.flow.state() == FlowState::broken);
                CHECK(bench.receiver.silent());
                continue;
            }
            CHECK(bench.flow.state() == FlowState::finished);
            const test::Received rest = bench.receiver.receive_to_end();
            CHECK((received + rest.bytes == bytes));
            CHECK(rest.ending == test::Ending::fin);
        }
    }
}

TEST_CASE("a target that was reset after the last byte does not count as told of the end") {
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.receiver.reset();
        REQUIRE(bench.hear(test::patience));
        bench.sender.shutdown_write();
        REQUIRE(test::wait_until([&] {
            bench.hear();
            return bench.turn() == Progress::done;
        }));
        CHECK(bench.flow.state() == FlowState::broken);
        CHECK(bench.target.error != 0);
    }
}

TEST_CASE("an urgent byte is relayed in its place") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        for (const bool spliced : {false, true}) {
            for (const char* calls : {"one by one", "aio", "io_uring"}) {
                CAPTURE(route.name);
                CAPTURE(spliced);
                CAPTURE(calls);
                Bench bench(route, {.calls = calls});
                if (spliced) bench.promote();
                bench.sender.send_all("abc");
                REQUIRE(::send(bench.sender.descriptor(), "d", 1, MSG_OOB) == 1);
                bench.sender.send_all("ef");
                bench.wait_until_queued(6);
                bench.owed = 6;
                CHECK(bench.relay("") == "abcdef");
                // The flow is not hurt by it.
                const std::string bytes = test::pattern(1'000'000, 5);
                CHECK((bench.relay(bytes, true) == bytes));
                CHECK(bench.flow.state() == FlowState::finished);
            }
        }
    }
}

TEST_CASE("an urgent byte in the midst of a bulky stream stalls nothing") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.promote();
        std::string expected;
        for (std::uint64_t round = 0; round < 5; ++round) {
            const std::string bytes = test::pattern(100'000, round);
            CHECK((bench.relay(bytes) == bytes));
            REQUIRE(::send(bench.sender.descriptor(), "!", 1, MSG_OOB) == 1);
            bench.owed = 1;
            CHECK((bench.relay(bytes) == "!" + bytes));
        }
    }
}

TEST_CASE("sixteen segments of one byte go through a spliced flow in one turn") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.promote();
        for (int round = 0; round < 7; ++round) {
            const std::uint64_t before = bench.flow.bytes_spliced();
            for (int segment = 0; segment < 16; ++segment) bench.sender.send_all("x");
            bench.wait_until_queued(16);
            bench.turn();
            CHECK(bench.receiver.receive_exactly(16) == std::string(16, 'x'));
            CHECK(bench.flow.bytes_spliced() == before + 16);
        }
    }
}

// From now on this thread's splices into `target` are answered EINVAL.
void refuse_splices_into(int target) {
    std::array program = {
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_splice, 0, 3),
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
        sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(target), 0, 1),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const sock_fprog filter{.len = program.size(), .filter = program.data()};
    REQUIRE(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    REQUIRE(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0);
}

TEST_CASE("a target that takes no splices is copied to, with what the pipe held already") {
    NEEDS_PIPES();
    for (const Route& route : tcp_routes) {
        CAPTURE(route.name);
        Bench bench(route);
        bench.promote();
        std::string received;
        const std::string bytes = test::pattern(1'000'000, 6);
        // The filter is the thread's own and ends with it.
        std::thread([&] {
            refuse_splices_into(bench.target.fd.get());
            received = bench.relay(bytes, true);
        }).join();
        CHECK((received == bytes));
        CHECK(bench.flow.splice_refused());
        CHECK(bench.flow.bytes_spliced() == 0);
        CHECK(bench.flow.state() == FlowState::finished);
        CHECK(bench.pipes.idle_bytes() > 0);  // it was emptied, so it is clean
    }
}

TEST_CASE("a target that stops taking splices breaks its session and no promise") {
    NEEDS_PIPES();
    Bench bench(routes[0]);
    bench.promote();
    bench.pass_on(bulky);
    REQUIRE(bench.flow.bytes_spliced() == bulky);
    bench.sender.send_all(test::pattern(bulky, 1));
    bench.wait_until_queued(bulky);
    std::thread([&] {
        refuse_splices_into(bench.target.fd.get());
        CHECK(bench.turn() == Progress::done);
    }).join();
    CHECK(bench.flow.state() == FlowState::broken);
    CHECK(bench.target.error == EINVAL);
}

TEST_CASE("random chunks through random flows arrive whole") {
    auto random = test::generator("flow");
    for (int round = 0; round < (test::sanitized ? 20 : 60); ++round) {
        const Route& route = routes[random() % routes.size()];
        const auto buffer = [&] { return random() % 2 == 0 ? 0 : 4096 << random() % 6; };
        const Options options{.pipe_budget = random() % 4 == 0 ? 0 : plenty,
                              .source_buffers = {buffer(), buffer()},
                              .target_buffers = {buffer(), buffer()},
                              .calls = std::array{"one by one", "aio", "io_uring"}[random() % 3],
                              .rounds = random() % 4 != 0};
        CAPTURE(round);
        CAPTURE(route.name);
        Bench bench(route, options);
        std::uint64_t total = 0;
        const int parts = static_cast<int>(random() % 12);
        for (int part = 0; part < parts; ++part) {
            const std::size_t size = 1 + random() % (std::size_t{1} << random() % 20);
            const std::size_t budget = random() % 2 == 0 ? plenty : 1 + random() % 100'000;
            const std::string bytes = test::pattern(size, random());
            const bool whole = bench.relay(bytes, part + 1 == parts, budget) == bytes;
            REQUIRE(whole);
            total += size;
        }
        CHECK(bench.flow.bytes() == total);
        if (parts > 0) CHECK(bench.flow.state() == FlowState::finished);
    }
}

}  // namespace
}  // namespace sluice

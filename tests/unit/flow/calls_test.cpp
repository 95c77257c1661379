#include "sluice/flow/calls.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/process.hpp"
#include "tests/support/sockets.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sluice {
namespace {

using Outcome = Transfer::Outcome;
using Kind = SocketCall::Kind;

struct Way {
    const char* name;
    std::function<std::unique_ptr<Calls>()> open;
    bool knows_what_is_left;  // an urgent mark or a FIN behind the bytes does not deceive it
};

// io_uring may be forbidden here; the others are always to be had, but for AIO in some sandboxes.
std::vector<Way> ways() {
    std::vector<Way> found = {{"one by one", open_single_calls, false}, {"aio", open_aio_calls, false}};
    if (open_uring_calls())
        found.push_back({"io_uring", [] { return std::move(*open_uring_calls()); }, true});
    return found;
}

void wait_until_queued(const test::Socket& socket, int bytes) {
    REQUIRE(test::wait_until([&] {
        int queued = 0;
        return ::ioctl(socket.descriptor(), FIONREAD, &queued) == 0 && queued >= bytes;
    }));
}

void wait_for(const test::Socket& socket, short events) {
    pollfd one{.fd = socket.descriptor(), .events = events, .revents = 0};
    REQUIRE(::poll(&one, 1, static_cast<int>(test::patience.count())) == 1);
}

void make_non_blocking(const test::Socket& socket) {
    REQUIRE(::fcntl(socket.descriptor(), F_SETFL, O_NONBLOCK) == 0);
}

// One after the other, each alone, and beside others that always have an answer: alone is a path of its own.
class Caller {
  public:
    Caller(Calls& calls, bool in_company) : calls_(calls), in_company_(in_company) {
        auto [one, other] = test::tcp_pair();
        make_non_blocking(one);
        idle_ = std::move(one);
        idle_peer_ = std::move(other);
    }

    Transfer receive(const test::Socket& socket, std::size_t size = 65'536) {
        return make({Kind::receive, socket.descriptor(), memory_.data(), static_cast<std::uint32_t>(size)});
    }
    Transfer send(const test::Socket& socket, std::string bytes) {
        std::ranges::copy(std::as_bytes(std::span(bytes)), memory_.begin());
        return make(
            {Kind::send, socket.descriptor(), memory_.data(), static_cast<std::uint32_t>(bytes.size())});
    }
    std::string text(std::size_t size) const { return {reinterpret_cast<const char*>(memory_.data()), size}; }

  private:
    Transfer make(const SocketCall& call) {
        std::array<std::byte, 16> unused{};
        const SocketCall idle{Kind::receive, idle_.descriptor(), unused.data(), unused.size()};
        std::array<SocketCall, 3> calls = {idle, call, idle};
        calls_.make(in_company_ ? std::span(calls) : std::span(calls).subspan(1, 1));
        if (in_company_) {
            CHECK(calls[0].transfer.outcome == Outcome::blocked);
            CHECK(calls[2].transfer.outcome == Outcome::blocked);
        }
        return calls[1].transfer;
    }

    Calls& calls_;
    bool in_company_;
    test::Socket idle_;
    test::Socket idle_peer_;
    std::vector<std::byte> memory_ = std::vector<std::byte>(std::size_t{8} * 1024 * 1024);
};

template <class Body>
void in_every_way(Body body) {
    for (const Way& way : ways())
        for (const bool in_company : {false, true}) {
            CAPTURE(way.name);
            CAPTURE(in_company);
            const auto calls = way.open();
            Caller caller(*calls, in_company);
            body(caller, way);
        }
}

TEST_CASE("receive: bytes, then nothing, then the end") {
    in_every_way([](Caller& caller, const Way&) {
        for (const bool tcp : {true, false}) {
            CAPTURE(tcp);
            auto [one, other] = tcp ? test::tcp_pair() : test::unix_pair();
            make_non_blocking(other);
            CHECK(caller.receive(other).outcome == Outcome::blocked);
            one.send_all("hello");
            wait_until_queued(other, 5);
            const Transfer transfer = caller.receive(other);
            CHECK(transfer.outcome == Outcome::moved);
            CHECK(transfer.bytes == 5);
            CHECK(caller.text(5) == "hello");
            one.shutdown_write();
            wait_for(other, POLLRDHUP);
            CHECK(caller.receive(other).outcome == Outcome::ended);
        }
    });
}

TEST_CASE("a receive from TCP says whether it took the last byte") {
    in_every_way([](Caller& caller, const Way& way) {
        auto [one, other] = test::tcp_pair();
        make_non_blocking(other);
        one.send_all("hello");
        wait_until_queued(other, 5);
        CHECK(!caller.receive(other, 3).emptied);
        CHECK(caller.receive(other, 3).emptied);
        one.send_all("bye");
        one.shutdown_write();
        wait_for(other, POLLRDHUP);
        const Transfer last = caller.receive(other);
        CHECK(last.bytes == 3);
        if (way.knows_what_is_left) CHECK(!last.emptied);
        CHECK(caller.receive(other).outcome == Outcome::ended);
    });
}

TEST_CASE("a receive that an urgent mark stopped does not pass for the last one where the kernel is asked") {
    in_every_way([](Caller& caller, const Way& way) {
        if (!way.knows_what_is_left) return;
        auto [one, other] = test::tcp_pair();
        make_non_blocking(other);
        const int on = 1;
        REQUIRE(::setsockopt(other.descriptor(), SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)) == 0);
        one.send_all("abc");
        REQUIRE(::send(one.descriptor(), "d", 1, MSG_OOB) == 1);
        wait_until_queued(other, 3);
        wait_for(other, POLLPRI);
        const Transfer first = caller.receive(other);
        CHECK(first.bytes == 3);
        CHECK(!first.emptied);
        CHECK(caller.receive(other).emptied);
    });
}

TEST_CASE("a reset is told as broken, after the bytes before it") {
    in_every_way([](Caller& caller, const Way&) {
        auto [one, other] = test::tcp_pair();
        make_non_blocking(other);
        one.send_all("hello");
        wait_until_queued(other, 5);
        one.reset();
        wait_for(other, POLLERR);
        CHECK(caller.receive(other).bytes == 5);
        const Transfer end = caller.receive(other);
        CHECK(end.outcome == Outcome::broken);
        CHECK(end.error == ECONNRESET);
    });
}

TEST_CASE("a send to a connection that is gone says how, and raises no signal") {
    in_every_way([](Caller& caller, const Way&) {
        // As main() does it: a write by AIO knows no flag against the signal.
        const auto before = std::signal(SIGPIPE, SIG_IGN);
        {
            auto [one, other] = test::tcp_pair();
            make_non_blocking(other);
            one.reset();
            wait_for(other, POLLERR);
            const Transfer first = caller.send(other, "x");
            CHECK(first.outcome == Outcome::broken);
            CHECK(first.error == ECONNRESET);
            CHECK(caller.send(other, "x").error == EPIPE);
        }
        auto [one, other] = test::unix_pair();
        make_non_blocking(other);
        one.close();
        CHECK(caller.send(other, "x").error == EPIPE);
        std::signal(SIGPIPE, before);
    });
}

TEST_CASE("a send that does not fit is said to be short, and the next one blocked") {
    in_every_way([](Caller& caller, const Way&) {
        auto [one, other] = test::tcp_pair({.receive = 4096, .send = 4096});
        make_non_blocking(one);
        const std::string bytes = test::pattern(std::size_t{8} * 1024 * 1024, 1);
        const Transfer first = caller.send(one, bytes);
        CHECK(first.outcome == Outcome::moved);
        CHECK(first.bytes < bytes.size());
        std::size_t sent = first.bytes;
        Transfer next = caller.send(one, bytes.substr(sent));
        while (next.outcome == Outcome::moved) {
            sent += next.bytes;
            next = caller.send(one, bytes.substr(sent));
        }
        CHECK(next.outcome == Outcome::blocked);
        CHECK((other.receive_exactly(sent) == bytes.substr(0, sent)));
    });
}

TEST_CASE("sixty-four calls at once are each answered by their own socket") {
    for (const Way& way : ways()) {
        CAPTURE(way.name);
        const auto calls = way.open();
        std::vector<std::pair<test::Socket, test::Socket>> pairs;
        std::vector<std::vector<std::byte>> memory(Calls::calls_max, std::vector<std::byte>(1000));
        std::vector<SocketCall> made;
        for (std::size_t index = 0; index < Calls::calls_max; ++index) {
            pairs.push_back(test::tcp_pair());
            make_non_blocking(pairs.back().first);
            make_non_blocking(pairs.back().second);
        }
        for (int round = 0; round < 3; ++round) {
            CAPTURE(round);
            made.clear();
            for (std::size_t index = 0; index < Calls::calls_max; ++index) {
                const std::string bytes = test::pattern(index + 1, index);
                std::ranges::copy(std::as_bytes(std::span(bytes)), memory[index].begin());
                made.push_back({Kind::send, pairs[index].first.descriptor(), memory[index].data(),
                                static_cast<std::uint32_t>(index + 1)});
            }
            calls->make(made);
            for (std::size_t index = 0; index < made.size(); ++index) {
                CHECK(made[index].transfer.bytes == index + 1);
                wait_until_queued(pairs[index].second, static_cast<int>(index + 1));
                made[index] = {Kind::receive, pairs[index].second.descriptor(), memory[index].data(), 1000};
            }
            calls->make(made);
            for (std::size_t index = 0; index < made.size(); ++index) {
                CHECK(made[index].transfer.bytes == index + 1);
                const std::string text(reinterpret_cast<const char*>(memory[index].data()), index + 1);
                CHECK((text == test::pattern(index + 1, index)));
            }
        }
    }
}

TEST_CASE("descriptors that a unix peer sends along are not kept") {
    in_every_way([](Caller& caller, const Way&) {
        auto [sender, source] = test::unix_pair();
        make_non_blocking(source);
        const std::size_t before = test::descriptors_open(::getpid());
        for (int round = 0; round < 20; ++round) {
            const std::array<int, 2> gifts = {sender.descriptor(), source.descriptor()};
            alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(gifts))> control{};
            char byte = 'x';
            iovec vector{.iov_base = &byte, .iov_len = 1};
            msghdr message{};
            message.msg_iov = &vector;
            message.msg_iovlen = 1;
            message.msg_control = control.data();
            message.msg_controllen = control.size();
            cmsghdr* header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof(gifts));
            std::memcpy(CMSG_DATA(header), gifts.data(), sizeof(gifts));
            REQUIRE(::sendmsg(sender.descriptor(), &message, 0) == 1);
            CHECK(caller.receive(source).bytes == 1);
        }
        CHECK(test::descriptors_open(::getpid()) == before);
    });
}

TEST_CASE("ways to call leave no descriptor behind") {
    const std::size_t before = test::descriptors_open(::getpid());
    for (const Way& way : ways()) way.open();
    CHECK(test::descriptors_open(::getpid()) == before);
}

}  // namespace
}  // namespace sluice

#include "sluice/net/socket.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/sockets.hpp"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include <string>
#include <vector>

namespace sluice {
namespace {

int option(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof(value);
    REQUIRE(::getsockopt(fd, level, name, &value, &length) == 0);
    return value;
}

SocketAddress loopback(std::uint16_t port) {
    return *SocketAddress::from_literal("127.0.0.1", port);
}

OwnedFd opened(const SocketAddress& address, const SocketOptions& options = {}) {
    auto fd = open_socket(address, SOCK_STREAM, options);
    REQUIRE_MESSAGE(fd, (fd ? "" : fd.error().call));
    return std::move(*fd);
}

// How a dial that is under way ended.
int outcome_of(int fd) {
    pollfd one{.fd = fd, .events = POLLOUT, .revents = 0};
    REQUIRE(::poll(&one, 1, static_cast<int>(test::patience.count())) == 1);
    return take_error(fd);
}

TEST_CASE("a stream socket is born non-blocking, close-on-exec and with its options") {
    SocketOptions options;
    options.keepalive_idle_s = 33;
    options.keepalive_interval_s = 7;
    options.keepalive_count = 4;
    options.user_timeout_ms = 12'345;
    options.receive_buffer = 16'384;
    options.send_buffer = 32'768;
    const OwnedFd fd = opened(loopback(1), options);
    CHECK((::fcntl(fd.get(), F_GETFL) & O_NONBLOCK) != 0);
    CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(option(fd.get(), IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(option(fd.get(), SOL_SOCKET, SO_OOBINLINE) == 1);
    CHECK(option(fd.get(), SOL_SOCKET, SO_KEEPALIVE) == 1);
    CHECK(option(fd.get(), IPPROTO_TCP, TCP_KEEPIDLE) == 33);
    CHECK(option(fd.get(), IPPROTO_TCP, TCP_KEEPINTVL) == 7);
    CHECK(option(fd.get(), IPPROTO_TCP, TCP_KEEPCNT) == 4);
    CHECK(option(fd.get(), IPPROTO_TCP, TCP_USER_TIMEOUT) == 12'345);
    CHECK(option(fd.get(), SOL_SOCKET, SO_RCVBUF) == 2 * 16'384);  // socket(7): the kernel doubles it
    CHECK(option(fd.get(), SOL_SOCKET, SO_SNDBUF) == 2 * 32'768);
}

TEST_CASE("options of 0 leave the system's defaults") {
    SocketOptions options;
    options.keepalive_idle_s = 0;
    options.nodelay = false;
    const OwnedFd fd = opened(loopback(1), options);
    CHECK(option(fd.get(), SOL_SOCKET, SO_KEEPALIVE) == 0);
    CHECK(option(fd.get(), IPPROTO_TCP, TCP_NODELAY) == 0);
    CHECK(option(fd.get(), IPPROTO_TCP, TCP_USER_TIMEOUT) == 0);
}

TEST_CASE("an option that the system refuses is named") {
    SocketOptions options;
    std::string("no-such-algo").copy(options.congestion, sizeof(options.congestion) - 1);
    const auto fd = open_socket(loopback(1), SOCK_STREAM, options);
    REQUIRE(!fd);
    CHECK(std::string(fd.error().call) == "TCP_CONGESTION");
    CHECK(fd.error().number == ENOENT);
}

TEST_CASE("TCP options are not asked of a unix socket") {
    const OwnedFd fd = opened(SocketAddress::from_unix_path("/x"));
    CHECK(fd.valid());
}

TEST_CASE("a dial to a listener connects, one to a closed port is refused") {
    const test::Listener listener;
    const OwnedFd fd = opened(loopback(listener.port()));
    const Dial begun = dial(fd.get(), loopback(listener.port()));
    CHECK((begun.state == Dial::State::under_way || begun.state == Dial::State::connected));
    CHECK(outcome_of(fd.get()) == 0);
    CHECK(peer_of(fd.get()) == loopback(listener.port()));

    const std::uint16_t port = test::free_port();
    const OwnedFd other = opened(loopback(port));
    const Dial refused = dial(other.get(), loopback(port));
    const int error = refused.state == Dial::State::failed ? refused.error : outcome_of(other.get());
    CHECK(error == ECONNREFUSED);
    CHECK(take_error(other.get()) == 0);  // taken once
    CHECK(peer_of(other.get()).family() == AF_UNSPEC);
}

TEST_CASE("a unix dial ends at once: connected, failed, or busy while the queue is full") {
    const test::TemporaryFolder folder;
    const SocketAddress address = SocketAddress::from_unix_path(folder.file("s"));
    const OwnedFd nobody = opened(address);
    const Dial missing = dial(nobody.get(), address);
    CHECK(missing.state == Dial::State::failed);
    CHECK(missing.error == ENOENT);

    test::Listener listener("unix:" + folder.file("s"), {}, 1);
    std::vector<OwnedFd> clients;
    Dial last{Dial::State::connected};
    while (last.state == Dial::State::connected && clients.size() < 10) {
        clients.push_back(opened(address));
        last = dial(clients.back().get(), address);
    }
    CHECK(clients.size() > 1);
    CHECK(last.state == Dial::State::busy);
    listener.accept();
    CHECK(dial(clients.back().get(), address).state == Dial::State::connected);
}

TEST_CASE("unacknowledged bytes are seen, and a reset throws them away") {
    auto [one, other] = test::tcp_pair({.receive = 4096, .send = 65'536});
    CHECK(unacknowledged(one.descriptor()) == 0);
    one.send_until_full(1 << 20);
    CHECK(unacknowledged(one.descriptor()) > 0);
    reset_on_close(one.descriptor());
    one.close();
    CHECK(other.receive_to_end().ending == test::Ending::reset);
    CHECK(unacknowledged(-1) == 0);
}

TEST_CASE(
    "listening sockets share a port with the other workers, and what they accept inherits the options") {
    SocketOptions options;
    options.keepalive_idle_s = 44;
    auto first = open_listening_socket(loopback(0), SOCK_STREAM, options);
    REQUIRE(first);
    const SocketAddress address = local_address_of(first->get());
    CHECK(address.port() != 0);
    auto second = open_listening_socket(address, SOCK_STREAM, options);
    REQUIRE(second);
    second->close();
    const test::Socket client = test::connect_to(to_string(address));
    const OwnedFd accepted(::accept4(first->get(), nullptr, nullptr, SOCK_NONBLOCK));
    REQUIRE(accepted.valid());
    CHECK(option(accepted.get(), IPPROTO_TCP, TCP_KEEPIDLE) == 44);
    CHECK(option(accepted.get(), IPPROTO_TCP, TCP_NODELAY) == 1);
    CHECK(option(accepted.get(), SOL_SOCKET, SO_OOBINLINE) == 1);
}

TEST_CASE("[::] takes IPv4 clients too, and [::1] does not take their port away") {
    if (!test::ipv6_available()) SLUICE_SKIP("no IPv6");
    const auto every = open_listening_socket(*SocketAddress::from_literal("::", 0), SOCK_STREAM, {});
    REQUIRE(every);
    const std::uint16_t port = local_address_of(every->get()).port();
    CHECK(test::try_connect("127.0.0.1:" + std::to_string(port)) == 0);
    CHECK(test::try_connect("[::1]:" + std::to_string(port)) == 0);

    const std::uint16_t other = test::free_port();
    const auto six = open_listening_socket(*SocketAddress::from_literal("::1", other), SOCK_STREAM, {});
    const auto four = open_listening_socket(loopback(other), SOCK_STREAM, {});
    CHECK(six);
    CHECK(four);
}

TEST_CASE("a taken address is refused with the call and errno; the probe knows beforehand") {
    const test::Listener holder;
    CHECK(probe_listening_address(loopback(holder.port()), SOCK_STREAM) == EADDRINUSE);
    const auto refused = open_listening_socket(loopback(holder.port()), SOCK_STREAM, {});
    REQUIRE(!refused);
    CHECK(std::string(refused.error().call) == "bind");
    CHECK(refused.error().number == EADDRINUSE);
    CHECK(probe_listening_address(loopback(test::free_port()), SOCK_STREAM) == 0);
    CHECK(probe_listening_address(*SocketAddress::from_literal("192.0.2.1", 80), SOCK_STREAM) ==
          EADDRNOTAVAIL);
}

TEST_CASE("the probe notices another relay's shared listener instead of joining it") {
    const auto shared = open_listening_socket(loopback(0), SOCK_STREAM, {});
    REQUIRE(shared);
    CHECK(probe_listening_address(local_address_of(shared->get()), SOCK_STREAM) == EADDRINUSE);
}

TEST_CASE("the probe tells a unix path with a listener from a stale one") {
    const test::TemporaryFolder folder;
    const SocketAddress address = SocketAddress::from_unix_path(folder.file("s"));
    CHECK(probe_listening_address(address, SOCK_STREAM) == 0);
    {
        const test::Listener listener("unix:" + folder.file("s"));
        CHECK(probe_listening_address(address, SOCK_STREAM) == EADDRINUSE);
    }
    CHECK(probe_listening_address(address, SOCK_STREAM) == 0);
}

}  // namespace
}  // namespace sluice

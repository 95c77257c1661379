#include "sluice/net/datagram_socket.hpp"

#include "tests/support/datagrams.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/sockets.hpp"

#include <fcntl.h>
#include <netinet/udp.h>

#include <string>

namespace sluice {
namespace {

SocketAddress address_of(const std::string& host, std::uint16_t port) {
    return *SocketAddress::from_literal(host, port);
}

OwnedFd listening_on(const SocketAddress& address) {
    auto fd = open_datagram_listener(address, {});
    REQUIRE_MESSAGE(fd, (fd ? "" : fd.error().call));
    return std::move(*fd);
}

int option(int fd, int level, int name) {
    int value = -1;
    socklen_t length = sizeof(value);
    REQUIRE(::getsockopt(fd, level, name, &value, &length) == 0);
    return value;
}

TEST_CASE("a datagram listener is born non-blocking, close-on-exec and with room for bursts") {
    const OwnedFd fd = listening_on(address_of("127.0.0.1", 0));
    CHECK((::fcntl(fd.get(), F_GETFL) & O_NONBLOCK) != 0);
    CHECK((::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) != 0);
    const OwnedFd plain(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    CHECK(option(fd.get(), SOL_SOCKET, SO_RCVBUF) > option(plain.get(), SOL_SOCKET, SO_RCVBUF));
}

TEST_CASE("only a listener on a wildcard asks which address was reached") {
    CHECK(option(listening_on(address_of("127.0.0.1", 0)).get(), IPPROTO_IP, IP_PKTINFO) == 0);
    CHECK(option(listening_on(address_of("0.0.0.0", 0)).get(), IPPROTO_IP, IP_PKTINFO) == 1);
    if (!test::ipv6_available()) return;
    CHECK(option(listening_on(address_of("::1", 0)).get(), IPPROTO_IPV6, IPV6_RECVPKTINFO) == 0);
    const OwnedFd both = listening_on(address_of("::", 0));
    CHECK(option(both.get(), IPPROTO_IPV6, IPV6_RECVPKTINFO) == 1);
    CHECK(option(both.get(), IPPROTO_IP, IP_PKTINFO) == 1);
    CHECK(option(both.get(), IPPROTO_IPV6, IPV6_V6ONLY) == 0);
}

TEST_CASE("several workers share a UDP address, and somebody else's is noticed") {
    const OwnedFd first = listening_on(address_of("127.0.0.1", 0));
    const SocketAddress address = local_address_of(first.get());
    const OwnedFd second = listening_on(address);
    CHECK(local_address_of(second.get()) == address);
    CHECK(probe_datagram_address(address) == EADDRINUSE);

    const test::DatagramSocket other;  // shares nothing
    const SocketAddress taken = local_address_of(other.descriptor());
    CHECK(probe_datagram_address(taken) == EADDRINUSE);
    CHECK_FALSE(open_datagram_listener(taken, {}));
}

TEST_CASE("a UDP port is free although TCP has it") {
    const test::Listener tcp;
    CHECK(probe_datagram_address(address_of("127.0.0.1", tcp.port())) == 0);
}

TEST_CASE("an upstream socket hears its target only, and of a closed port") {
    test::DatagramSocket target;
    test::DatagramSocket stranger;
    auto fd = open_datagram_upstream(local_address_of(target.descriptor()), {});
    REQUIRE(fd);
    REQUIRE(::send(fd->get(), "question", 8, 0) == 8);
    const test::Datagram question = target.expect();
    CHECK(question.bytes == "question");
    stranger.send_to(question.sender, "not asked");
    target.send_to(question.sender, "answer");
    char answer[32];
    REQUIRE(::recv(fd->get(), answer, sizeof(answer), 0) == 6);
    CHECK(std::string(answer, 6) == "answer");
    target.close();
    REQUIRE(::send(fd->get(), "question", 8, 0) == 8);
    CHECK(test::wait_until([&] { return take_error(fd->get()) == ECONNREFUSED; }));
}

TEST_CASE("a unix upstream has a name, so that it can be answered; a missing target is an error") {
    const test::TemporaryFolder folder;
    test::DatagramSocket target("unix-dgram:" + folder.path().string() + "/target");
    auto fd = open_datagram_upstream(SocketAddress::from_unix_path(folder.path().string() + "/target"), {});
    REQUIRE(fd);
    REQUIRE(::send(fd->get(), "question", 8, 0) == 8);
    const test::Datagram question = target.expect();
    CHECK(question.sender.starts_with("unix-dgram:@"));
    target.send_to(question.sender, "answer");
    char answer[32];
    CHECK(::recv(fd->get(), answer, sizeof(answer), 0) == 6);

    const auto missing =
        open_datagram_upstream(SocketAddress::from_unix_path(folder.path().string() + "/none"), {});
    REQUIRE_FALSE(missing);
    CHECK(missing.error().number == ENOENT);
}

}  // namespace
}  // namespace sluice

#include "sluice/net/datagram_batch.hpp"

#include "sluice/net/address.hpp"
#include "sluice/net/datagram_socket.hpp"

#include "tests/support/datagrams.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/sockets.hpp"

#include <netinet/udp.h>
#include <poll.h>

#include <string>
#include <vector>

namespace sluice {
namespace {

using Room = DatagramBatch::Room;

OwnedFd listening_on(const std::string& host) {
    auto fd = open_datagram_listener(*SocketAddress::from_literal(host, 0), {});
    REQUIRE(fd);
    return std::move(*fd);
}

std::string at(const std::string& host, const OwnedFd& socket) {
    return host + ":" + std::to_string(local_address_of(socket.get()).port());
}

void wait_for_datagram(int fd) {
    pollfd one{.fd = fd, .events = POLLIN, .revents = 0};
    REQUIRE(::poll(&one, 1, static_cast<int>(test::patience.count())) == 1);
}

std::string text_of(const DatagramMessage& message) {
    return {reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size()};
}

std::string sender_of(const DatagramMessage& message) {
    return to_string(SocketAddress::from(reinterpret_cast<const sockaddr*>(message.sender.data()),
                                         static_cast<socklen_t>(message.sender.size())));
}

TEST_CASE("datagrams are received as they were sent, empty ones too, with their senders") {
    DatagramBatch batch(DatagramBatch::udp_bytes_max);
    const OwnedFd listener = listening_on("127.0.0.1");
    CHECK(batch.receive(listener.get(), Room::many, true).drained);
    test::DatagramSocket one;
    test::DatagramSocket other;
    const std::string longest = test::pattern(65507, 1);
    one.send_to(at("127.0.0.1", listener), "first");
    other.send_to(at("127.0.0.1", listener), "");
    one.send_to(at("127.0.0.1", listener), longest);
    const auto received = batch.receive(listener.get(), Room::many, true);
    REQUIRE(received.messages.size() == 3);
    CHECK(received.drained);
    CHECK(text_of(received.messages[0]) == "first");
    CHECK(text_of(received.messages[1]).empty());
    CHECK(received.messages[1].datagrams() == 1);
    CHECK(text_of(received.messages[2]) == longest);
    CHECK(sender_of(received.messages[0]) == one.address());
    CHECK(sender_of(received.messages[1]) == other.address());
    for (const DatagramMessage& message : received.messages) {
        CHECK_FALSE(message.truncated);
        CHECK_FALSE(message.reached.told());
    }
}

TEST_CASE("a batch that is full does not call the socket drained") {
    DatagramBatch batch(DatagramBatch::udp_bytes_max);
    const OwnedFd listener = listening_on("127.0.0.1");
    test::DatagramSocket client;
    for (std::size_t index = 0; index <= DatagramBatch::messages_max; ++index)
        client.send_to(at("127.0.0.1", listener), std::to_string(index));
    auto received = batch.receive(listener.get(), Room::many, true);
    CHECK(received.messages.size() == DatagramBatch::messages_max);
    CHECK_FALSE(received.drained);
    received = batch.receive(listener.get(), Room::many, true);
    REQUIRE(received.messages.size() == 1);
    CHECK(received.drained);
    CHECK(text_of(received.messages[0]) == std::to_string(DatagramBatch::messages_max));
}

TEST_CASE("a wildcard listener tells which address was reached, of both families") {
    if (!test::ipv6_available()) SLUICE_SKIP("there is no IPv6");
    DatagramBatch batch(DatagramBatch::udp_bytes_max);
    const OwnedFd listener = listening_on("::");
    test::DatagramSocket v4;
    test::DatagramSocket v6("[::1]:0");
    v4.send_to(at("127.0.0.5", listener), "four");
    v6.send_to(at("[::1]", listener), "six");
    const auto received = batch.receive(listener.get(), Room::many, true);
    REQUIRE(received.messages.size() == 2);
    CHECK(received.messages[0].reached.is_v4());
    CHECK(received.messages[0].reached.host.s6_addr[12] == 127);
    CHECK(received.messages[0].reached.host.s6_addr[15] == 5);
    CHECK_FALSE(received.messages[1].reached.is_v4());
    CHECK(IN6_IS_ADDR_LOOPBACK(&received.messages[1].reached.host));
    CHECK_FALSE(received.messages[0].reached == received.messages[1].reached);
}

TEST_CASE("datagrams that the kernel hands over together can be told apart") {
    DatagramBatch batch(DatagramBatch::udp_bytes_max);
    const OwnedFd listener = listening_on("127.0.0.1");
    if (!receive_datagrams_together(listener.get())) SLUICE_SKIP("this kernel has no UDP_GRO");
    test::DatagramSocket client;
    const int segment = 100;
    REQUIRE(::setsockopt(client.descriptor(), IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof(segment)) == 0);
    client.send_to(at("127.0.0.1", listener), test::pattern(950, 3));
    wait_for_datagram(listener.get());
    const auto received = batch.receive(listener.get(), Room::many, true);
    REQUIRE(received.messages.size() == 1);
    CHECK(received.messages[0].segment == 100);
    CHECK(received.messages[0].datagrams() == 10);
    CHECK(text_of(received.messages[0]) == test::pattern(950, 3));
}

TEST_CASE("a message that is longer than its memory is called truncated") {
    const test::TemporaryFolder folder;
    DatagramBatch batch(1000);
    auto listener =
        open_datagram_listener(SocketAddress::from_unix_path(folder.path().string() + "/listener"), {});
    REQUIRE(listener);
    test::DatagramSocket client("unix-dgram:" + folder.path().string() + "/client");
    test::DatagramSocket nameless("unix-dgram:");
    const std::string target = "unix-dgram:" + folder.path().string() + "/listener";
    client.send_to(target, test::pattern(1000, 1));
    client.send_to(target, test::pattern(1001, 1));
    nameless.send_to(target, "who");
    auto received = batch.receive(listener->get(), Room::one, true);
    REQUIRE(received.messages.size() == 1);
    CHECK_FALSE(received.messages[0].truncated);
    CHECK(sender_of(received.messages[0]) == "unix:" + folder.path().string() + "/client");
    received = batch.receive(listener->get(), Room::one, true);
    REQUIRE(received.messages.size() == 1);
    CHECK(received.messages[0].truncated);
    received = batch.receive(listener->get(), Room::one, true);
    REQUIRE(received.messages.size() == 1);
    CHECK(received.messages[0].sender.empty());
}

TEST_CASE("what the network said of an earlier datagram is told once, and takes nothing with it") {
    DatagramBatch batch(DatagramBatch::udp_bytes_max);
    auto target = std::make_unique<test::DatagramSocket>();
    const SocketAddress address = local_address_of(target->descriptor());
    auto upstream = open_datagram_upstream(address, {});
    REQUIRE(upstream);
    REQUIRE(::send(upstream->get(), "to nobody", 9, 0) == 9);
    const std::string back = target->expect().sender;
    target->send_to(back, "before");
    target->close();
    REQUIRE(::send(upstream->get(), "to nobody", 9, 0) == 9);
    const auto first = batch.receive(upstream->get(), Room::many, false);
    CHECK(first.error == ECONNREFUSED);
    CHECK_FALSE(first.drained);
    const auto second = batch.receive(upstream->get(), Room::many, false);
    REQUIRE(second.messages.size() == 1);
    CHECK(text_of(second.messages[0]) == "before");
}

}  // namespace
}  // namespace sluice

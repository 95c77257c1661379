#include "sluice/net/address.hpp"

#include "tests/support/death.hpp"
#include "tests/support/doctest.hpp"

#include <string>

namespace sluice {
namespace {

SocketAddress literal(const std::string& host, std::uint16_t port) {
    const auto address = SocketAddress::from_literal(host, port);
    REQUIRE_MESSAGE(address, host);
    return *address;
}

TEST_CASE("literal addresses are read and written in the grammar of the configuration") {
    CHECK(to_string(literal("10.0.0.1", 80)) == "10.0.0.1:80");
    CHECK(to_string(literal("::1", 443)) == "[::1]:443");
    CHECK(literal("10.0.0.1", 80).family() == AF_INET);
    CHECK(literal("::1", 443).family() == AF_INET6);
    CHECK(literal("10.0.0.1", 65535).port() == 65535);
    CHECK(literal("::1", 443).port() == 443);
}

TEST_CASE("a name is no literal address, and nobody asks DNS for it") {
    CHECK(!SocketAddress::from_literal("localhost", 80));
    CHECK(!SocketAddress::from_literal("db1.example.org", 80));
    CHECK(!SocketAddress::from_literal("10.0.0.256", 80));
    CHECK(!SocketAddress::from_literal("", 80));
}

TEST_CASE("the scope of a link-local address is kept") {
    const SocketAddress address = literal("fe80::1%lo", 80);
    CHECK(reinterpret_cast<const sockaddr_in6*>(address.get())->sin6_scope_id != 0);
    CHECK(to_string(address).starts_with("[fe80::1%"));
    CHECK(PeerAddress(address).address() == address);
}

TEST_CASE("an IPv4 address that came in by an IPv6 socket is written as IPv4") {
    CHECK(to_string(literal("::ffff:10.1.2.3", 80)) == "10.1.2.3:80");
}

TEST_CASE("unix addresses: a path ends with its zero byte, an abstract name with its length") {
    const SocketAddress path = SocketAddress::from_unix_path("/run/x.sock");
    CHECK(path.family() == AF_UNIX);
    CHECK(path.length() == offsetof(sockaddr_un, sun_path) + 12);
    CHECK(to_string(path) == "unix:/run/x.sock");
    const SocketAddress name = SocketAddress::from_unix_path("@x");
    CHECK(name.length() == offsetof(sockaddr_un, sun_path) + 2);
    CHECK(to_string(name) == "unix:@x");
    CHECK(path.port() == 0);
    const std::string longest(sizeof(sockaddr_un::sun_path) - 1, 'x');
    CHECK(to_string(SocketAddress::from_unix_path(longest)) == "unix:" + longest);
    CHECK(test::death_of([&] {
              SocketAddress::from_unix_path(longest + "x");
          }).broke_promise("path.size() < sizeof(local.sun_path)"));
}

TEST_CASE("a unix socket without a name is just \"unix\", and no address is unknown") {
    sockaddr nameless{};
    nameless.sa_family = AF_UNIX;
    CHECK(to_string(SocketAddress::from(&nameless, sizeof(sa_family_t))) == "unix");
    CHECK(SocketAddress().family() == AF_UNSPEC);
    CHECK(to_string(SocketAddress()) == "unknown");
}

TEST_CASE("equal addresses are equal, and a port or a host makes them differ") {
    CHECK(literal("10.0.0.1", 80) == literal("10.0.0.1", 80));
    CHECK(!(literal("10.0.0.1", 80) == literal("10.0.0.1", 81)));
    CHECK(!(literal("10.0.0.1", 80) == literal("10.0.0.2", 80)));
    CHECK(!(literal("127.0.0.1", 80) == literal("::1", 80)));
    SocketAddress moved = literal("::1", 1);
    moved.set_port(443);
    CHECK(moved == literal("::1", 443));
    SocketAddress path = SocketAddress::from_unix_path("/x");
    path.set_port(80);
    CHECK(path == SocketAddress::from_unix_path("/x"));
}

TEST_CASE("a length beyond the storage is cut") {
    sockaddr_storage large{};
    large.ss_family = AF_UNIX;
    const SocketAddress address =
        SocketAddress::from(reinterpret_cast<const sockaddr*>(&large), sizeof(large));
    CHECK(address.length() >= sizeof(sockaddr_un));
    CHECK(address.length() < sizeof(large));
}

TEST_CASE("a session remembers its client in fewer bytes, and tells the same address") {
    CHECK(sizeof(PeerAddress) <= 24);
    CHECK(PeerAddress(literal("10.0.0.1", 80)).address() == literal("10.0.0.1", 80));
    CHECK(PeerAddress(literal("2001:db8::7", 443)).address() == literal("2001:db8::7", 443));
    CHECK(to_string(PeerAddress(SocketAddress::from_unix_path("/run/x")).address()) == "unix");
    CHECK(PeerAddress().address().family() == AF_UNSPEC);
}

}  // namespace
}  // namespace sluice

#include "sluice/net/holder.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/sockets.hpp"

#include <unistd.h>

#include <string>

namespace sluice {
namespace {

std::string this_process() {
    return "pid " + std::to_string(::getpid()) + " (";
}

TEST_CASE("the holder of a TCP port is named by process") {
    const test::Listener listener("127.0.0.1:0");
    const auto address = SocketAddress::from_literal("127.0.0.1", listener.port());
    CHECK(describe_holder(*address).starts_with(this_process()));
}

TEST_CASE("the holder of an IPv6 port is named, also to one who wanted the IPv4 port") {
    if (!test::ipv6_available()) SLUICE_SKIP("no IPv6");
    const test::Listener listener("[::1]:0");
    CHECK(describe_holder(*SocketAddress::from_literal("::1", listener.port())).starts_with(this_process()));
    CHECK(describe_holder(*SocketAddress::from_literal("0.0.0.0", listener.port()))
              .starts_with(this_process()));
}

TEST_CASE("the holder of a unix path and of an abstract name is named") {
    const test::TemporaryFolder folder;
    const std::string path = folder.file("held");
    const test::Listener by_path("unix:" + path);
    CHECK(describe_holder(SocketAddress::from_unix_path(path)).starts_with(this_process()));
    const std::string name = "@sluice-holder-" + std::to_string(::getpid());
    const test::Listener by_name("unix:" + name);
    CHECK(describe_holder(SocketAddress::from_unix_path(name)).starts_with(this_process()));
}

TEST_CASE("where nobody is seen, the message says what would tell") {
    const auto address = SocketAddress::from_literal("127.0.0.1", test::free_port());
    const std::string text = describe_holder(*address);
    CHECK(text.find("ss -tanp") != std::string::npos);
    CHECK(text.find(std::to_string(address->port())) != std::string::npos);
    CHECK(describe_holder(SocketAddress::from_unix_path("/nobody/here")).find("ss -xlp") !=
          std::string::npos);
}

}  // namespace
}  // namespace sluice

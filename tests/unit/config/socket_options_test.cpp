#include "sluice/config/socket_options.hpp"

#include "tests/support/doctest.hpp"

#include <string>

namespace sluice::config {
namespace {

TEST_CASE("the configuration's options reach the sockets, in the kernel's units") {
    Tcp tcp;
    tcp.nodelay = false;
    tcp.keepalive = {std::chrono::milliseconds(1500), std::chrono::seconds(3), 2};
    tcp.user_timeout = std::chrono::seconds(9);
    tcp.receive_buffer = 10'000;
    tcp.send_buffer = 20'000;
    tcp.congestion = "cubic";
    const SocketOptions options = socket_options(tcp);
    CHECK(!options.nodelay);
    CHECK(options.keepalive_idle_s == 2);  // whole seconds, rounded up
    CHECK(options.keepalive_interval_s == 3);
    CHECK(options.keepalive_count == 2);
    CHECK(options.user_timeout_ms == 9000);
    CHECK(options.receive_buffer == 10'000);
    CHECK(options.send_buffer == 20'000);
    CHECK(options.backlog == static_cast<int>(tcp.backlog));
    CHECK(std::string(options.congestion) == "cubic");
}

}  // namespace
}  // namespace sluice::config

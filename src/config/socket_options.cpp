#include "sluice/config/socket_options.hpp"

#include <chrono>

namespace sluice::config {

namespace {

int whole_seconds(Milliseconds duration) {
    return static_cast<int>(std::chrono::ceil<std::chrono::seconds>(duration).count());
}

}  // namespace

SocketOptions socket_options(const Tcp& tcp) noexcept {
    SocketOptions options;
    options.nodelay = tcp.nodelay;
    options.fastopen = tcp.fastopen;
    options.keepalive_idle_s = whole_seconds(tcp.keepalive.idle);
    options.keepalive_interval_s = whole_seconds(tcp.keepalive.interval);
    options.keepalive_count = static_cast<int>(tcp.keepalive.count);
    options.backlog = static_cast<int>(tcp.backlog);
    options.user_timeout_ms = static_cast<int>(tcp.user_timeout.count());
    options.receive_buffer = static_cast<int>(tcp.receive_buffer);
    options.send_buffer = static_cast<int>(tcp.send_buffer);
    // The configuration has refused longer ones; the last byte stays zero.
    tcp.congestion.copy(options.congestion, sizeof(options.congestion) - 1);
    return options;
}

}  // namespace sluice::config

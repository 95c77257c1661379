#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/owned_fd.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <expected>

namespace sluice {

// What is set on a TCP socket. 0 leaves the system's default.
struct SocketOptions {
    bool nodelay = true;
    bool fastopen = false;      // listeners only
    int keepalive_idle_s = 60;  // 0: no keepalive
    int keepalive_interval_s = 10;
    int keepalive_count = 6;
    int user_timeout_ms = 0;
    int receive_buffer = 0;  // bytes
    int send_buffer = 0;     // bytes
    char congestion[16] = {};
    int backlog = 4096;  // listeners only
    // On dials, too: a listener that is to have a port which a dial once had need not wait for that one's
    // TIME_WAIT.
    bool reuse_address = true;
};

// What a call of the system answered when it failed: which call, and errno.
struct SystemError {
    const char* call;
    int number;
};

// Whether the errno says that the system is short of something that may be free again in a moment.
constexpr bool no_descriptor_or_memory(int error) noexcept {
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

// A socket of this type (SOCK_STREAM, SOCK_SEQPACKET) for `address`, non-blocking and close-on-exec, not yet
// connected, with the options set.
std::expected<OwnedFd, SystemError> open_socket(const SocketAddress& address, int type,
                                                const SocketOptions& options) noexcept;

// Has the kernel ask whether the peer of this TCP socket is still there, as the options say.
void keep_alive(int fd, const SocketOptions& options) noexcept;

// How a dial began.
//   connected, under_way: watch the socket; when it is writable the dial is over, take_error() says how.
//   busy: a unix socket's queue is full, and nothing will tell when it is not: try again a little later.
//   failed: `error` is the errno.
struct Dial {
    enum class State : std::uint8_t { connected, under_way, busy, failed } state;
    int error = 0;
};
Dial dial(int fd, const SocketAddress& address) noexcept;

// An urgent byte stays where it stands in the stream. By default the kernel takes it out and, nobody asking
// for it, loses it. Every socket that open_socket() and open_listening_socket() make has it set.
bool keep_urgent_bytes_in_place(int fd) noexcept;

// For a socket that keeps the boundaries of messages. A message that it receives from now on has a time, and
// the end has none: that is how an empty one is told from the end (recv answers 0 to both). And its send
// buffer takes messages of this size, as far as net.core.wmem_max allows.
bool prepare_for_messages(int fd, std::size_t message_bytes_max) noexcept;

// How the socket's last asynchronous error reads (SO_ERROR), which this also clears; 0 for none.
int take_error(int fd) noexcept;

// The address of the other end; family AF_UNSPEC when it is gone already.
SocketAddress peer_of(int fd) noexcept;

// The address the socket is bound to.
SocketAddress local_address_of(int fd) noexcept;

// Bytes that were sent but that the other end has not acknowledged; 0 when the kernel does not know.
std::size_t unacknowledged(int fd) noexcept;

// From now on closing this TCP socket sends RST and throws away what was not yet sent. Unix sockets have no
// such thing: their peer sees an ordinary end, unless it left bytes unread on our side.
void reset_on_close(int fd) noexcept;

// A listening socket that shares its TCP address with the other workers' sockets by SO_REUSEPORT. Accepted
// sockets inherit the options, so nothing is set on them one by one. "[::]" takes IPv4 clients too. The stale
// file of a unix path must be gone already.
std::expected<OwnedFd, SystemError> open_listening_socket(const SocketAddress& address, int type,
                                                          const SocketOptions& options) noexcept;

// Whether somebody listens on this address now: a bind that shares nothing is refused, or a unix path
// answers. EADDRINUSE, EACCES and the like say why this address cannot be had; 0: it can.
int probe_listening_address(const SocketAddress& address, int type) noexcept;

}  // namespace sluice

#pragma once

#include "sluice/net/address.hpp"
#include "sluice/net/owned_fd.hpp"
#include "sluice/net/socket.hpp"

#include <expected>

namespace sluice {

// A socket that takes the datagrams of many clients, non-blocking and close-on-exec. A UDP address is shared
// with the other workers' sockets by SO_REUSEPORT; "[::]" takes IPv4 clients too. On a wildcard address each
// datagram tells which address it was sent to, so that the reply can leave from there. The stale file of a
// unix path must be gone already.
std::expected<OwnedFd, SystemError> open_datagram_listener(const SocketAddress& address,
                                                           const SocketOptions& options) noexcept;

// From now on the kernel may hand over many datagrams of one size as one message (UDP_GRO). False where it
// does not: then each comes alone.
bool receive_datagrams_together(int fd) noexcept;

// A socket that talks to this address only. A unix one gets a name of its own (an abstract one, from the
// kernel), because the other end could not answer a nameless one.
std::expected<OwnedFd, SystemError> open_datagram_upstream(const SocketAddress& target,
                                                           const SocketOptions& options) noexcept;

// 0, or why this UDP address cannot be bound: EADDRINUSE when any socket has it, shared or not.
int probe_datagram_address(const SocketAddress& address) noexcept;

}  // namespace sluice

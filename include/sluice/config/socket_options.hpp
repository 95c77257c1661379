#pragma once

#include "sluice/config/config.hpp"
#include "sluice/net/socket.hpp"

namespace sluice::config {

// What a `tcp:` map asks of a socket, in the kernel's units.
SocketOptions socket_options(const Tcp& tcp) noexcept;

}  // namespace sluice::config

#pragma once

#include "sluice/net/address.hpp"

#include <optional>
#include <string>

namespace sluice {

// Who listens on this address: "pid 123 (nginx)"; nullopt where nobody does, or /proc does not tell us whose
// the socket is. Slow: reads the descriptors of every process.
std::optional<std::string> find_holder(const SocketAddress& address);

// The same of a UDP address.
std::optional<std::string> find_datagram_holder(const SocketAddress& address);

// The same for a message to a person: where no process is found, a command that would.
std::string describe_holder(const SocketAddress& address);
std::string describe_datagram_holder(const SocketAddress& address);

}  // namespace sluice

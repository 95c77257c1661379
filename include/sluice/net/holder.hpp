#pragma once

#include "sluice/net/address.hpp"

#include <string>

namespace sluice {

// Who listens on this address, for a message to a person: "pid 123 (nginx)", or, when /proc does not tell us,
// a command that would. Slow: reads the descriptors of every process.
std::string describe_holder(const SocketAddress& address);

}  // namespace sluice

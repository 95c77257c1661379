#pragma once

#include "sluice/net/endpoint.hpp"

#include <optional>
#include <string>

// Which kinds of endpoints go together. What is wrong with a pair is said in a sentence; nullopt = nothing.
namespace sluice::config {

// Two addresses of one listener, or two backends of one pool: the same transport.
[[nodiscard]] std::optional<std::string> fault_beside(const Endpoint& first, const Endpoint& other);

// What clients reach, and where their sessions go: the same transport, or streams and files; a range of ports
// to a range of the same size, or to one port.
[[nodiscard]] std::optional<std::string> fault_towards(const Endpoint& bind, const Endpoint& backend);

}  // namespace sluice::config

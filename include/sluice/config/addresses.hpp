#pragma once

#include "sluice/net/endpoint.hpp"

#include <expected>
#include <string>
#include <string_view>

// What an address must be besides well-formed, by what is to be done with it. The errors name the address.
namespace sluice::config {

// To listen at. What a name stands for can change while nobody looks; where to listen must not.
[[nodiscard]] std::expected<Endpoint, std::string> parse_bind(std::string_view text);

// To dial: with a host and a port, if it is not a unix path.
[[nodiscard]] std::expected<Endpoint, std::string> parse_target(std::string_view text);

// To ask for names: an address, with port 53 where none is written; an IPv6 address then needs no brackets.
[[nodiscard]] std::expected<Endpoint, std::string> parse_name_server(std::string_view text);

}  // namespace sluice::config

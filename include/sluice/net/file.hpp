#pragma once

#include "sluice/net/endpoint.hpp"
#include "sluice/net/owned_fd.hpp"
#include "sluice/net/socket.hpp"

#include <cstdint>
#include <expected>

namespace sluice {

// Opens the file of an endpoint, at its beginning, for reading; or, where the endpoint takes bytes, for
// writing (claim_file() must follow). Only regular files: others would block the worker, or never end
// (EISDIR, ENOTSUP). EWOULDBLOCK: somebody has a lease on it, and was asked to give it up. REQUIRES:
// endpoint.kind == Endpoint::Kind::file
std::expected<OwnedFd, SystemError> open_file(const Endpoint& endpoint) noexcept;

// Makes the caller the only session that writes this file, in this process and in others (flock), and puts
// what follows at its end. 0; EWOULDBLOCK while somebody else has it; or what the system says. Closing lets
// it go.
int claim_file(int fd) noexcept;

// Lets others claim it, before it is closed.
void release_file(int fd) noexcept;

// Whether the path still names the file that was opened: somebody may have put another one there, or none.
bool still_named(int fd, const Endpoint& endpoint) noexcept;

std::uint64_t size_of_file(int fd) noexcept;

}  // namespace sluice

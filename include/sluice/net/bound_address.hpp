#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/endpoint.hpp"
#include "sluice/net/owned_fd.hpp"
#include "sluice/net/socket.hpp"

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

namespace sluice {

// One bound address: a listening socket for each worker. TCP addresses are shared by SO_REUSEPORT, a unix
// path has one socket, of which each worker gets a duplicate. Removes the unix path that it made when it
// dies.
class BoundAddress {
  public:
    // Before any address is bound, so that our own are not taken for somebody else's (`:80` beside
    // `127.0.0.1:80`): whether this one is free. Takes over a unix path whose owner is gone; refuses one
    // where somebody listens, and any other kind of file. The error is a sentence: the address, what is wrong
    // with it, who holds it, what to do.
    static std::expected<void, std::string> make_room(const Endpoint& endpoint, Time deadline);

    // How long it is worth waiting, for all addresses together.
    static constexpr Nanoseconds departure_max = std::chrono::milliseconds(500);

    // REQUIRES: the endpoint is no file, and one port; there is room for it. The error is of the same kind.
    static std::expected<BoundAddress, std::string> open(const Endpoint& endpoint,
                                                         const SocketOptions& options, std::uint32_t workers);
    ~BoundAddress();
    BoundAddress(BoundAddress&&) noexcept;
    BoundAddress& operator=(BoundAddress&&) = delete;

    const SocketAddress& address() const noexcept { return address_; }

    // The socket of one worker; taken once. Of a unix-dgram name only the first worker has one.
    OwnedFd take_socket(std::uint32_t worker) noexcept { return std::move(sockets_[worker]); }

  private:
    BoundAddress() = default;
    static std::expected<BoundAddress, std::string> open_datagrams(const Endpoint& endpoint,
                                                                   const SocketAddress& wanted,
                                                                   const SocketOptions& options,
                                                                   std::uint32_t workers);

    SocketAddress address_;
    std::vector<OwnedFd> sockets_;
    std::string made_path_;  // empty: none
    dev_t made_device_ = 0;  // which file it was: somebody may have put another one there since
    ino_t made_inode_ = 0;
};

}  // namespace sluice

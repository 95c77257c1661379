#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

// An address that connect(2) and bind(2) take as it is: IPv4, IPv6 or a unix path. A value.
class SocketAddress {
  public:
    SocketAddress() noexcept;  // AF_UNSPEC: no address

    // From what the kernel wrote. Lengths beyond the storage are cut.
    static SocketAddress from(const sockaddr* address, socklen_t length) noexcept;
    // A literal IPv4 or IPv6 address ("10.0.0.1", "::1", "fe80::1%eth0"); nullopt if it is a name.
    static std::optional<SocketAddress> from_literal(const std::string& host, std::uint16_t port);
    // "/path" or "@abstract". REQUIRES: shorter than sun_path.
    static SocketAddress from_unix_path(std::string_view path) noexcept;

    int family() const noexcept { return storage_.any.sa_family; }
    const sockaddr* get() const noexcept { return &storage_.any; }
    socklen_t length() const noexcept { return length_; }

    std::uint16_t port() const noexcept;  // 0 for unix
    void set_port(std::uint16_t port) noexcept;

    bool operator==(const SocketAddress& other) const noexcept;

  private:
    union Storage {
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
        sockaddr_un local;
    } storage_;
    socklen_t length_;
};

// "10.0.0.1:80", "[::1]:80", "unix:/path", "unix:@name"; "unix" for a nameless unix socket. A v4 address
// mapped into v6 is written as v4, as the client knows itself.
std::string to_string(const SocketAddress& address);

// Who a client is, in the few bytes that a session can spare (a SocketAddress has room for a path).
class PeerAddress {
  public:
    PeerAddress() = default;
    explicit PeerAddress(const SocketAddress& address) noexcept;
    SocketAddress address() const noexcept;

  private:
    std::array<std::uint8_t, 16> host_{};  // v4 in the first four bytes
    std::uint32_t scope_ = 0;
    std::uint16_t port_ = 0;
    std::uint16_t family_ = AF_UNSPEC;
};

}  // namespace sluice

#include "sluice/net/datagram_socket.hpp"

#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#include <cerrno>

namespace sluice {

namespace {

// Bursts wait in the receive buffer while the worker is elsewhere, and what finds it full is lost: the
// default (208 KiB) holds 90 datagrams of 1,200 bytes, because each one is charged with its overhead. The
// memory is spent only while something waits.
constexpr int listener_buffer_bytes = 4 * 1024 * 1024;
constexpr int upstream_buffer_bytes = 1024 * 1024;
// What a unix sender may have on its way, and so the longest message that it can send.
constexpr int unix_buffer_bytes = 512 * 1024;

bool set(int fd, int level, int name, int value) noexcept {
    return ::setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

// Wishes: the system grants less where net.core.rmem_max and wmem_max say so.
void size_buffers(int fd, int family, const SocketOptions& options, int receive_bytes) noexcept {
    const bool listens = receive_bytes == listener_buffer_bytes;
    const int receive = options.receive_buffer > 0 ? options.receive_buffer : receive_bytes;
    // FORCE is for CAP_NET_ADMIN, and worth a try for sockets that are few.
    if (!listens || !set(fd, SOL_SOCKET, SO_RCVBUFFORCE, receive)) set(fd, SOL_SOCKET, SO_RCVBUF, receive);
    const int usual = family == AF_UNIX ? unix_buffer_bytes : listener_buffer_bytes;
    const int send = options.send_buffer > 0 ? options.send_buffer : usual;
    // A connected UDP socket carries one client's datagrams: the default will do.
    if (listens || family == AF_UNIX || options.send_buffer > 0) set(fd, SOL_SOCKET, SO_SNDBUF, send);
}

bool is_wildcard(const SocketAddress& address) noexcept {
    if (address.family() == AF_INET)
        return reinterpret_cast<const sockaddr_in*>(address.get())->sin_addr.s_addr == htonl(INADDR_ANY);
    return address.family() == AF_INET6 &&
           IN6_IS_ADDR_UNSPECIFIED(&reinterpret_cast<const sockaddr_in6*>(address.get())->sin6_addr);
}

// The name of the option that was refused, or null when all were taken.
const char* prepare_udp(int fd, const SocketAddress& address, bool shared) noexcept {
    const bool wildcard = is_wildcard(address);
    // No SO_REUSEADDR: for UDP it would let any other socket that has it set take over the port.
    if (shared && !set(fd, SOL_SOCKET, SO_REUSEPORT, 1)) return "SO_REUSEPORT";
    if (address.family() == AF_INET6) {
        // Said by us and not by net.ipv6.bindv6only: "[::]" takes both families, any other address its own.
        if (!set(fd, IPPROTO_IPV6, IPV6_V6ONLY, wildcard ? 0 : 1)) return "IPV6_V6ONLY";
        if (wildcard && !set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)) return "IPV6_RECVPKTINFO";
    }
    // On a socket of both families this one tells of IPv4 datagrams, with the address to answer from where
    // they were broadcast.
    if (wildcard && !set(fd, IPPROTO_IP, IP_PKTINFO, 1)) return "IP_PKTINFO";
    return nullptr;
}

}  // namespace

std::expected<OwnedFd, SystemError> open_datagram_listener(const SocketAddress& address,
                                                           const SocketOptions& options) noexcept {
    OwnedFd fd(::socket(address.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return std::unexpected(SystemError{"socket", errno});
    size_buffers(fd.get(), address.family(), options, listener_buffer_bytes);
    if (address.family() != AF_UNIX)
        if (const char* refused = prepare_udp(fd.get(), address, true))
            return std::unexpected(SystemError{refused, errno});
    if (::bind(fd.get(), address.get(), address.length()) != 0)
        return std::unexpected(SystemError{"bind", errno});
    return fd;
}

bool receive_datagrams_together(int fd) noexcept {
    return set(fd, IPPROTO_UDP, UDP_GRO, 1);
}

std::expected<OwnedFd, SystemError> open_datagram_upstream(const SocketAddress& target,
                                                           const SocketOptions& options) noexcept {
    OwnedFd fd(::socket(target.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return std::unexpected(SystemError{"socket", errno});
    size_buffers(fd.get(), target.family(), options, upstream_buffer_bytes);
    if (target.family() == AF_UNIX) {
        // unix(7), "Autobind feature": an address of nothing but the family.
        const sa_family_t nameless = AF_UNIX;
        if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&nameless), sizeof(nameless)) != 0)
            return std::unexpected(SystemError{"bind", errno});
    }
    if (::connect(fd.get(), target.get(), target.length()) != 0)
        return std::unexpected(SystemError{"connect", errno});
    return fd;
}

int probe_datagram_address(const SocketAddress& address) noexcept {
    OwnedFd fd(::socket(address.family(), SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return errno;
    if (prepare_udp(fd.get(), address, false) != nullptr) return errno;
    return ::bind(fd.get(), address.get(), address.length()) == 0 ? 0 : errno;
}

}  // namespace sluice

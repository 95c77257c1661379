#include "sluice/net/socket.hpp"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

namespace sluice {

namespace {

bool set(int fd, int level, int name, int value) noexcept {
    return ::setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

// The name of the option that was refused, or null when all were taken.
const char* apply_keepalive(int fd, const SocketOptions& options) noexcept {
    if (options.keepalive_idle_s <= 0) return nullptr;
    if (!set(fd, SOL_SOCKET, SO_KEEPALIVE, 1)) return "SO_KEEPALIVE";
    if (!set(fd, IPPROTO_TCP, TCP_KEEPIDLE, options.keepalive_idle_s)) return "TCP_KEEPIDLE";
    if (!set(fd, IPPROTO_TCP, TCP_KEEPINTVL, options.keepalive_interval_s)) return "TCP_KEEPINTVL";
    if (!set(fd, IPPROTO_TCP, TCP_KEEPCNT, options.keepalive_count)) return "TCP_KEEPCNT";
    return nullptr;
}

const char* apply(int fd, int family, const SocketOptions& options) noexcept {
    if (options.receive_buffer > 0 && !set(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer))
        return "SO_RCVBUF";
    if (options.send_buffer > 0 && !set(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer)) return "SO_SNDBUF";
    if (!keep_urgent_bytes_in_place(fd)) return "SO_OOBINLINE";
    if (family == AF_UNIX) return nullptr;
    // Listeners: a restart need not wait for the old connections' TIME_WAIT.
    if (options.reuse_address && !set(fd, SOL_SOCKET, SO_REUSEADDR, 1)) return "SO_REUSEADDR";
    if (options.nodelay && !set(fd, IPPROTO_TCP, TCP_NODELAY, 1)) return "TCP_NODELAY";
    if (const char* refused = apply_keepalive(fd, options)) return refused;
    if (options.user_timeout_ms > 0 && !set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, options.user_timeout_ms))
        return "TCP_USER_TIMEOUT";
    if (options.congestion[0] != '\0' &&
        ::setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, options.congestion,
                     static_cast<socklen_t>(std::strlen(options.congestion))) != 0)
        return "TCP_CONGESTION";
    return nullptr;
}

// An abstract name begins with a NUL; a nameless socket has none.
bool is_abstract(const SocketAddress& address) noexcept {
    const auto* local = reinterpret_cast<const sockaddr_un*>(address.get());
    return address.length() > offsetof(sockaddr_un, sun_path) && local->sun_path[0] == '\0';
}

}  // namespace

std::expected<OwnedFd, SystemError> open_socket(const SocketAddress& address, int type,
                                                const SocketOptions& options) noexcept {
    OwnedFd fd(::socket(address.family(), type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return std::unexpected(SystemError{"socket", errno});
    if (const char* refused = apply(fd.get(), address.family(), options))
        return std::unexpected(SystemError{refused, errno});
    return fd;
}

void keep_alive(int fd, const SocketOptions& options) noexcept {
    apply_keepalive(fd, options);  // the listener's were taken, so these are
}

bool keep_urgent_bytes_in_place(int fd) noexcept {
    return set(fd, SOL_SOCKET, SO_OOBINLINE, 1);
}

bool prepare_for_messages(int fd, std::size_t message_bytes_max) noexcept {
    // Never smaller than it is: the system's default lets most messages pass.
    int size = 0;
    socklen_t length = sizeof(size);
    ::getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length);
    const int wanted = static_cast<int>(message_bytes_max);
    if (size < 2 * wanted) set(fd, SOL_SOCKET, SO_SNDBUF, wanted);
    return set(fd, SOL_SOCKET, SO_TIMESTAMP, 1);
}

Dial dial(int fd, const SocketAddress& address) noexcept {
    if (::connect(fd, address.get(), address.length()) == 0) return {Dial::State::connected};
    switch (errno) {
        case EINPROGRESS:  // TCP: the handshake is under way
        case EINTR:        // connect(2): it goes on asynchronously all the same
            return {Dial::State::under_way};
        case EAGAIN:
            // unix: the listener's queue is full. TCP: no free local port (connect(2)), which waiting may
            // also cure, but the caller must hear of it now.
            if (address.family() == AF_UNIX) return {Dial::State::busy, EAGAIN};
            return {Dial::State::failed, EAGAIN};
        default: return {Dial::State::failed, errno};
    }
}

int take_error(int fd) noexcept {
    int error = 0;
    socklen_t length = sizeof(error);
    if (::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0) return errno;
    return error;
}

SocketAddress peer_of(int fd) noexcept {
    sockaddr_storage storage;
    socklen_t length = sizeof(storage);
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return {};
    return SocketAddress::from(reinterpret_cast<const sockaddr*>(&storage), length);
}

SocketAddress local_address_of(int fd) noexcept {
    sockaddr_storage storage;
    socklen_t length = sizeof(storage);
    if (::getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &length) != 0) return {};
    return SocketAddress::from(reinterpret_cast<const sockaddr*>(&storage), length);
}

std::size_t unacknowledged(int fd) noexcept {
    int bytes = 0;
    if (::ioctl(fd, SIOCOUTQ, &bytes) != 0 || bytes < 0) return 0;
    return static_cast<std::size_t>(bytes);
}

void reset_on_close(int fd) noexcept {
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
}

std::expected<OwnedFd, SystemError> open_listening_socket(const SocketAddress& address, int type,
                                                          const SocketOptions& options) noexcept {
    auto fd = open_socket(address, type, options);
    if (!fd) return fd;
    const int number = fd->get();
    if (address.family() != AF_UNIX) {
        if (!set(number, SOL_SOCKET, SO_REUSEPORT, 1))
            return std::unexpected(SystemError{"SO_REUSEPORT", errno});
        if (options.fastopen)
            set(number, IPPROTO_TCP, TCP_FASTOPEN, options.backlog);  // a wish: the system may not do it
    }
    if (address.family() == AF_INET6) {
        // Said by us and not by net.ipv6.bindv6only: "[::]" takes both families, any other address its own.
        const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.get());
        const bool every_interface = IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
        if (!set(number, IPPROTO_IPV6, IPV6_V6ONLY, every_interface ? 0 : 1))
            return std::unexpected(SystemError{"IPV6_V6ONLY", errno});
    }
    if (::bind(number, address.get(), address.length()) != 0)
        return std::unexpected(SystemError{"bind", errno});
    if (::listen(number, options.backlog) != 0) return std::unexpected(SystemError{"listen", errno});
    return fd;
}

int probe_listening_address(const SocketAddress& address, int type) noexcept {
    // The file of a unix socket is asked with a datagram socket, whatever kind its owner is of: connecting
    // that costs a living datagram socket nothing, and every other kind answers EPROTOTYPE before its queue
    // sees a client. Refused: a path that its owner left behind. Nothing else proves that nobody is there
    // (EACCES: a socket that we may not even try).
    if (address.family() == AF_UNIX && !is_abstract(address)) {
        const OwnedFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        if (!fd.valid()) return errno;
        if (::connect(fd.get(), address.get(), address.length()) == 0) return EADDRINUSE;
        if (errno == ECONNREFUSED || errno == ENOENT) return 0;
        return errno == EPROTOTYPE ? EADDRINUSE : errno;
    }
    const OwnedFd fd(::socket(address.family(), type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd.valid()) return errno;
    // Without SO_REUSEPORT, so that another relay's shared listener is noticed instead of joined: half of the
    // clients would go to each.
    if (address.family() != AF_UNIX) set(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (address.family() == AF_INET6) {
        const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.get());
        set(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr) ? 0 : 1);
    }
    return ::bind(fd.get(), address.get(), address.length()) == 0 ? 0 : errno;
}

}  // namespace sluice

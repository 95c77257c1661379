#include "tests/support/sockets.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <ostream>
#include <stdexcept>

namespace sluice::test {
namespace {

[[noreturn]] void fail(const std::string& what, int error) {
    throw std::runtime_error(what + ": " + std::strerror(error));
}

struct SocketAddress {
    union {
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
        sockaddr_un local;
        sockaddr_storage storage;
    };
    socklen_t size = 0;
    int type = SOCK_STREAM;
    SocketAddress() { std::memset(&storage, 0, sizeof storage); }
};

std::uint16_t parse_port(const std::string& text) {
    const int port = std::stoi(text);
    if (port < 0 || port > 65'535) throw std::runtime_error("no port: " + text);
    return static_cast<std::uint16_t>(port);
}

SocketAddress parse(const std::string& address) {
    SocketAddress result;
    if (address.starts_with("unix-seqpacket:")) {
        result = parse("unix:" + address.substr(15));
        result.type = SOCK_SEQPACKET;
        return result;
    }
    if (address.starts_with("unix:")) {
        const std::string path = address.substr(5);
        if (path.size() >= sizeof result.local.sun_path) throw std::runtime_error("path too long: " + path);
        result.local.sun_family = AF_UNIX;
        std::memcpy(result.local.sun_path, path.data(), path.size());
        const bool abstract = path.starts_with('@');
        if (abstract) result.local.sun_path[0] = '\0';
        // The name of an abstract socket is as long as the address says; that of a file ends with a zero.
        result.size =
            static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
        return result;
    }
    const std::size_t colon = address.rfind(':');
    if (colon == std::string::npos) throw std::runtime_error("no address: " + address);
    std::string host = address.substr(0, colon);
    const std::uint16_t port = parse_port(address.substr(colon + 1));
    if (host.starts_with('[')) {
        host = host.substr(1, host.size() - 2);
        result.v6.sin6_family = AF_INET6;
        result.v6.sin6_port = htons(port);
        if (::inet_pton(AF_INET6, host.c_str(), &result.v6.sin6_addr) != 1)
            throw std::runtime_error("no IPv6 address: " + host);
        result.size = sizeof result.v6;
    } else {
        result.v4.sin_family = AF_INET;
        result.v4.sin_port = htons(port);
        if (::inet_pton(AF_INET, host.c_str(), &result.v4.sin_addr) != 1)
            throw std::runtime_error("no IPv4 address: " + host);
        result.size = sizeof result.v4;
    }
    return result;
}

std::string format(const SocketAddress& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    switch (address.any.sa_family) {
        case AF_INET:
            ::inet_ntop(AF_INET, &address.v4.sin_addr, text.data(), text.size());
            return std::string(text.data()) + ":" + std::to_string(ntohs(address.v4.sin_port));
        case AF_INET6:
            ::inet_ntop(AF_INET6, &address.v6.sin6_addr, text.data(), text.size());
            return "[" + std::string(text.data()) + "]:" + std::to_string(ntohs(address.v6.sin6_port));
        case AF_UNIX: {
            const std::size_t offset = offsetof(sockaddr_un, sun_path);
            if (address.size <= offset) return "unix:";
            std::string path(address.local.sun_path, address.size - offset);
            if (path.front() == '\0')
                path.front() = '@';
            else
                path.resize(std::strlen(path.c_str()));
            return "unix:" + path;
        }
        default: return "unknown";
    }
}

Socket new_socket(const SocketAddress& address, Buffers buffers) {
    Socket socket(::socket(address.any.sa_family, address.type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.open()) fail("socket", errno);
    socket.set_buffers(buffers);
    // A test's small writes are to arrive as it made them.
    const int on = 1;
    if (address.any.sa_family != AF_UNIX)
        ::setsockopt(socket.descriptor(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return socket;
}

// True when one of the events is there before the deadline.
bool poll_for(int descriptor, short events, Milliseconds deadline) {
    const auto end = TestClock::now() + deadline;
    for (;;) {
        pollfd entry{descriptor, events, 0};
        const auto left = std::chrono::ceil<Milliseconds>(end - TestClock::now());
        const int ready = ::poll(&entry, 1, static_cast<int>(std::max(left, Milliseconds(0)).count()));
        if (ready > 0) return true;
        if (ready == 0) return false;
        if (errno != EINTR) fail("poll", errno);
    }
}

int error_of(int descriptor) {
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

// The connected socket, or none and the errno.
std::pair<Socket, int> dial(const std::string& address, Buffers buffers, Milliseconds deadline) {
    const SocketAddress target = parse(address);
    const auto end = TestClock::now() + deadline;
    for (;;) {
        Socket socket = new_socket(target, buffers);
        if (::connect(socket.descriptor(), &target.any, target.size) == 0) return {std::move(socket), 0};
        const int error = errno;
        if (error == EAGAIN && TestClock::now() < end) {
            // A unix listener whose backlog is full; there is nothing to poll for.
            std::this_thread::sleep_for(Milliseconds(1));
            continue;
        }
        if (error != EINPROGRESS) return {Socket(), error};
        if (!poll_for(socket.descriptor(), POLLOUT, deadline)) return {Socket(), ETIMEDOUT};
        const int outcome = error_of(socket.descriptor());
        return outcome == 0 ? std::pair{std::move(socket), 0} : std::pair{Socket(), outcome};
    }
}

}  // namespace

const char* to_string(Ending ending) {
    switch (ending) {
        case Ending::fin: return "fin";
        case Ending::reset: return "reset";
        case Ending::timeout: return "timeout";
    }
    return "?";
}

std::ostream& operator<<(std::ostream& stream, Ending ending) {
    return stream << to_string(ending);
}

Socket& Socket::operator=(Socket&& other) noexcept {
    if (this != &other) {
        close();
        descriptor_ = std::exchange(other.descriptor_, -1);
    }
    return *this;
}

void Socket::send_all(std::string_view bytes, Milliseconds deadline) {
    const auto end = TestClock::now() + deadline;
    while (!bytes.empty()) {
        const std::size_t sent = send_some(bytes);
        bytes.remove_prefix(sent);
        if (sent > 0) continue;
        if (!poll_for(descriptor_, POLLOUT, std::chrono::ceil<Milliseconds>(end - TestClock::now())))
            throw std::runtime_error("send_all: the deadline came with " + std::to_string(bytes.size()) +
                                     " bytes left");
    }
}

std::size_t Socket::send_some(std::string_view bytes) {
    for (;;) {
        const ssize_t sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent >= 0) return static_cast<std::size_t>(sent);
        if (errno == EAGAIN) return 0;
        if (errno != EINTR) fail("send", errno);
    }
}

std::size_t Socket::send_until_full(std::size_t limit) {
    const std::string bytes = pattern(limit, 0);
    std::size_t sent = 0;
    while (sent < limit && poll_for(descriptor_, POLLOUT, glance))
        sent += send_some(std::string_view(bytes).substr(sent));
    return sent;
}

std::string Socket::receive_exactly(std::size_t size, Milliseconds deadline) {
    std::string bytes(size, '\0');
    std::size_t got = 0;
    const auto end = TestClock::now() + deadline;
    const auto so_far = [&] {
        return " after " + std::to_string(got) + " of " + std::to_string(size) + " bytes";
    };
    while (got < size) {
        const ssize_t received = ::recv(descriptor_, bytes.data() + got, size - got, 0);
        if (received > 0) {
            got += static_cast<std::size_t>(received);
        } else if (received == 0) {
            throw std::runtime_error("receive_exactly: the stream ended" + so_far());
        } else if (errno == EAGAIN) {
            if (!poll_for(descriptor_, POLLIN, std::chrono::ceil<Milliseconds>(end - TestClock::now())))
                throw std::runtime_error("receive_exactly: the deadline came" + so_far());
        } else if (errno != EINTR) {
            fail("receive_exactly: recv" + so_far(), errno);
        }
    }
    return bytes;
}

std::string Socket::receive_some(std::size_t limit, Milliseconds deadline) {
    std::string bytes(limit, '\0');
    for (;;) {
        const ssize_t received = ::recv(descriptor_, bytes.data(), limit, 0);
        if (received >= 0) {
            bytes.resize(static_cast<std::size_t>(received));
            return bytes;
        }
        if (errno == EAGAIN) {
            if (!poll_for(descriptor_, POLLIN, deadline))
                throw std::runtime_error("receive_some: nothing came before the deadline");
        } else if (errno != EINTR) {
            fail("receive_some: recv", errno);
        }
    }
}

Received Socket::receive_to_end(Milliseconds deadline) {
    Received result;
    std::string buffer(256 * 1024, '\0');
    for (;;) {
        const ssize_t received = ::recv(descriptor_, buffer.data(), buffer.size(), 0);
        if (received > 0) {
            result.bytes.append(buffer.data(), static_cast<std::size_t>(received));
        } else if (received == 0) {
            result.ending = Ending::fin;
            return result;
        } else if (errno == ECONNRESET) {
            result.ending = Ending::reset;
            return result;
        } else if (errno == EAGAIN) {
            if (poll_for(descriptor_, POLLIN, deadline)) continue;
            result.ending = Ending::timeout;
            return result;
        } else if (errno != EINTR) {
            fail("receive_to_end: recv", errno);
        }
    }
}

bool Socket::silent(Milliseconds duration) const {
    return !poll_for(descriptor_, POLLIN | POLLRDHUP, duration);
}

void Socket::shutdown_write() {
    if (::shutdown(descriptor_, SHUT_WR) != 0) fail("shutdown", errno);
}

void Socket::reset() {
    const linger at_once{1, 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close();
}

void Socket::close() {
    if (open()) ::close(std::exchange(descriptor_, -1));
}

void Socket::set_buffers(Buffers buffers) {
    if (buffers.receive > 0)
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &buffers.receive, sizeof buffers.receive);
    if (buffers.send > 0)
        ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDBUF, &buffers.send, sizeof buffers.send);
}

std::string Socket::local_address() const {
    SocketAddress address;
    address.size = sizeof address.storage;
    if (::getsockname(descriptor_, &address.any, &address.size) != 0) fail("getsockname", errno);
    return format(address);
}

std::string Socket::peer_address() const {
    SocketAddress address;
    address.size = sizeof address.storage;
    if (::getpeername(descriptor_, &address.any, &address.size) != 0) fail("getpeername", errno);
    return format(address);
}

Listener::Listener(const std::string& address, Buffers buffers, int backlog) {
    const SocketAddress bound = parse(address);
    socket_ = new_socket(bound, buffers);
    const int on = 1;
    ::setsockopt(socket_.descriptor(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (::bind(socket_.descriptor(), &bound.any, bound.size) != 0) fail("bind " + address, errno);
    if (::listen(socket_.descriptor(), backlog) != 0) fail("listen " + address, errno);
    address_ = bound.type == SOCK_STREAM ? socket_.local_address() : address;
    if (bound.any.sa_family != AF_UNIX) port_ = parse_port(address_.substr(address_.rfind(':') + 1));
}

Socket Listener::accept(Milliseconds deadline) {
    const auto end = TestClock::now() + deadline;
    for (;;) {
        Socket socket(::accept4(descriptor(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (socket.open()) {
            const int on = 1;
            ::setsockopt(socket.descriptor(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            return socket;
        }
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) fail("accept on " + address_, errno);
        if (!poll_for(descriptor(), POLLIN, std::chrono::ceil<Milliseconds>(end - TestClock::now())))
            throw std::runtime_error("accept: nobody came to " + address_);
    }
}

bool Listener::waiting(Milliseconds deadline) const {
    return poll_for(descriptor(), POLLIN, deadline);
}

Socket connect_to(const std::string& address, Buffers buffers, Milliseconds deadline) {
    auto [socket, error] = dial(address, buffers, deadline);
    if (error != 0) fail("connect to " + address, error);
    return std::move(socket);
}

int try_connect(const std::string& address, Milliseconds deadline) {
    return dial(address, {}, deadline).second;
}

std::pair<Socket, Socket> tcp_pair(Buffers buffers) {
    Listener listener("127.0.0.1:0", buffers, 1);
    Socket one = connect_to(listener.address(), buffers);
    Socket other = listener.accept();
    return {std::move(one), std::move(other)};
}

std::pair<Socket, Socket> unix_pair(int type) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) != 0)
        fail("socketpair", errno);
    return {Socket(ends[0]), Socket(ends[1])};
}

std::uint16_t free_port() {
    for (int attempt = 0; attempt < 100; ++attempt) {
        const Listener listener("127.0.0.1:0");
        if (!ipv6_available()) return listener.port();
        try {
            const Listener other("[::1]:" + std::to_string(listener.port()));
            return listener.port();
        } catch (const std::runtime_error&) {
            continue;  // taken there: another one
        }
    }
    throw std::runtime_error("free_port: a hundred ports were taken");
}

bool ipv6_available() {
    static const bool available = [] {
        try {
            const Listener listener("[::1]:0");
            return true;
        } catch (const std::runtime_error&) {
            return false;
        }
    }();
    return available;
}

std::string pattern(std::size_t size, std::uint64_t seed) {
    std::string bytes(size, '\0');
    // splitmix64: each word depends on its place only, so a shorter pattern is the beginning of a longer one.
    std::uint64_t state = seed * 0xD1342543DE82EF95u + 1;
    for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
        state += 0x9E3779B97F4A7C15u;
        std::uint64_t word = state;
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9u;
        word = (word ^ (word >> 27)) * 0x94D049BB133111EBu;
        word ^= word >> 31;
        std::memcpy(bytes.data() + at, &word, std::min(sizeof word, size - at));
    }
    return bytes;
}

}  // namespace sluice::test

#include "tests/support/datagrams.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::string_view unix_scheme = "unix-dgram:";

[[noreturn]] void fail(const std::string& what) {
    throw std::runtime_error(what + ": " + std::strerror(errno));
}

struct Address {
    sockaddr_storage storage{};
    socklen_t length = sizeof(sockaddr_storage);
    sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

Address parse(const std::string& text) {
    Address address;
    if (text.starts_with(unix_scheme)) {
        auto* local = reinterpret_cast<sockaddr_un*>(&address.storage);
        local->sun_family = AF_UNIX;
        const std::string path = text.substr(unix_scheme.size());
        if (path.size() >= sizeof(local->sun_path)) throw std::runtime_error("too long: " + text);
        std::memcpy(local->sun_path, path.data(), path.size());
        if (path.starts_with('@')) local->sun_path[0] = '\0';
        address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() +
                                                (path.starts_with('/') ? 1 : 0));
        return address;
    }
    const std::size_t colon = text.rfind(':');
    const auto port = htons(static_cast<std::uint16_t>(std::atoi(text.c_str() + colon + 1)));
    if (text.starts_with('[')) {
        auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
        v6->sin6_family = AF_INET6;
        v6->sin6_port = port;
        if (::inet_pton(AF_INET6, text.substr(1, colon - 2).c_str(), &v6->sin6_addr) != 1)
            throw std::runtime_error("no address: " + text);
        address.length = sizeof(sockaddr_in6);
        return address;
    }
    auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
    v4->sin_family = AF_INET;
    v4->sin_port = port;
    if (::inet_pton(AF_INET, text.substr(0, colon).c_str(), &v4->sin_addr) != 1)
        throw std::runtime_error("no address: " + text);
    address.length = sizeof(sockaddr_in);
    return address;
}

std::string format(Address& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (address.storage.ss_family == AF_INET) {
        const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
        ::inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
        return std::string(text.data()) + ":" + std::to_string(ntohs(v4->sin_port));
    }
    if (address.storage.ss_family == AF_INET6) {
        const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
        ::inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size());
        return "[" + std::string(text.data()) + "]:" + std::to_string(ntohs(v6->sin6_port));
    }
    if (address.length <= offsetof(sockaddr_un, sun_path)) return "";
    const auto* local = reinterpret_cast<const sockaddr_un*>(&address.storage);
    const std::size_t size = address.length - offsetof(sockaddr_un, sun_path);
    if (local->sun_path[0] == '\0')
        return std::string(unix_scheme) + "@" + std::string(local->sun_path + 1, size - 1);
    return std::string(unix_scheme) + std::string(local->sun_path, ::strnlen(local->sun_path, size));
}

bool wait_for(int descriptor, short events, Milliseconds deadline) {
    pollfd wanted{descriptor, events, 0};
    return ::poll(&wanted, 1, static_cast<int>(deadline.count())) > 0;
}

}  // namespace

DatagramSocket::DatagramSocket(const std::string& address, int receive_buffer) {
    Address wanted = parse(address);
    descriptor_ = ::socket(wanted.storage.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor_ < 0) fail("socket");
    if (receive_buffer > 0 &&
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUFFORCE, &receive_buffer, sizeof(receive_buffer)) != 0)
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    const int send_buffer = 1 << 20;
    ::setsockopt(descriptor_, SOL_SOCKET, SO_SNDBUF, &send_buffer, sizeof(send_buffer));
    if (address != unix_scheme && ::bind(descriptor_, wanted.get(), wanted.length) != 0)
        fail("bind " + address);
    Address bound;
    if (::getsockname(descriptor_, bound.get(), &bound.length) != 0) fail("getsockname");
    address_ = format(bound);
}

DatagramSocket::~DatagramSocket() {
    close();
}

void DatagramSocket::close() {
    if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
}

void DatagramSocket::connect(const std::string& peer) {
    Address target = parse(peer);
    if (::connect(descriptor_, target.get(), target.length) != 0) fail("connect to " + peer);
}

void DatagramSocket::send(std::string_view bytes, Milliseconds deadline) {
    const auto end = TestClock::now() + deadline;
    while (::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) {
        if (errno != EAGAIN || TestClock::now() >= end) fail("send");
        wait_for(descriptor_, POLLOUT, Milliseconds(10));
    }
}

void DatagramSocket::send_to(const std::string& target, std::string_view bytes, Milliseconds deadline) {
    const auto end = TestClock::now() + deadline;
    while (const int error = try_send_to(target, bytes)) {
        errno = error;
        if (error != EAGAIN || TestClock::now() >= end) fail("send to " + target);
        std::this_thread::sleep_for(Milliseconds(1));
    }
}

int DatagramSocket::try_send_to(const std::string& target, std::string_view bytes) {
    Address address = parse(target);
    const ssize_t sent =
        ::sendto(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL, address.get(), address.length);
    return sent < 0 ? errno : 0;
}

std::optional<Datagram> DatagramSocket::receive(Milliseconds deadline) {
    if (!wait_for(descriptor_, POLLIN, deadline)) return std::nullopt;
    thread_local std::vector<char> memory(1 << 20);
    Address sender;
    const ssize_t size =
        ::recvfrom(descriptor_, memory.data(), memory.size(), 0, sender.get(), &sender.length);
    if (size < 0) fail("recvfrom");
    return Datagram{std::string(memory.data(), static_cast<std::size_t>(size)), format(sender)};
}

Datagram DatagramSocket::expect(Milliseconds deadline) {
    auto datagram = receive(deadline);
    if (!datagram) throw std::runtime_error("no datagram came to " + address_);
    return std::move(*datagram);
}

bool DatagramSocket::silent(Milliseconds duration) {
    return !wait_for(descriptor_, POLLIN, duration);
}

std::uint16_t free_udp_port() {
    const DatagramSocket socket("[::]:0");
    return static_cast<std::uint16_t>(std::atoi(socket.address().c_str() + socket.address().rfind(':') + 1));
}

std::uint16_t free_port_of_both() {
    for (int tries = 0; tries < 100; ++tries) {
        const std::uint16_t port = free_udp_port();
        sockaddr_in6 every{};
        every.sin6_family = AF_INET6;
        every.sin6_port = htons(port);
        const int descriptor = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const bool free = ::bind(descriptor, reinterpret_cast<const sockaddr*>(&every), sizeof(every)) == 0;
        ::close(descriptor);
        if (free) return port;
    }
    throw std::runtime_error("no port is free for UDP and TCP");
}

}  // namespace sluice::test

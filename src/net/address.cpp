#include "sluice/net/address.hpp"

#include "sluice/base/check.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <net/if.h>
#include <netdb.h>

#include <algorithm>
#include <cstring>
#include <memory>

namespace sluice {

SocketAddress::SocketAddress() noexcept : length_(sizeof(sa_family_t)) {
    std::memset(&storage_, 0, sizeof(storage_));
    storage_.any.sa_family = AF_UNSPEC;
}

SocketAddress SocketAddress::from(const sockaddr* address, socklen_t length) noexcept {
    SocketAddress result;
    result.length_ = std::min<socklen_t>(length, sizeof(result.storage_));
    std::memcpy(&result.storage_, address, result.length_);
    return result;
}

std::optional<SocketAddress> SocketAddress::from_literal(const std::string& host, std::uint16_t port) {
    // getaddrinfo and not inet_pton: it understands scopes ("fe80::1%eth0"). AI_NUMERICHOST never asks DNS.
    addrinfo hints{};
    hints.ai_flags = AI_NUMERICHOST;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    if (::getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return std::nullopt;
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
    SocketAddress result = from(found->ai_addr, found->ai_addrlen);
    result.set_port(port);
    return result;
}

SocketAddress SocketAddress::from_unix_path(std::string_view path) noexcept {
    SocketAddress result;
    sockaddr_un& local = result.storage_.local;
    SLUICE_CHECK(path.size() < sizeof(local.sun_path));
    local.sun_family = AF_UNIX;
    std::memcpy(local.sun_path, path.data(), path.size());
    const bool abstract = path.starts_with('@');
    if (abstract) local.sun_path[0] = '\0';
    // An abstract name ends where the length says so, a path with its zero byte (unix(7)).
    result.length_ =
        static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + (abstract ? 0 : 1));
    return result;
}

std::uint16_t SocketAddress::port() const noexcept {
    if (family() == AF_INET) return ntohs(storage_.v4.sin_port);
    if (family() == AF_INET6) return ntohs(storage_.v6.sin6_port);
    return 0;
}

void SocketAddress::set_port(std::uint16_t port) noexcept {
    if (family() == AF_INET) storage_.v4.sin_port = htons(port);
    if (family() == AF_INET6) storage_.v6.sin6_port = htons(port);
}

bool SocketAddress::operator==(const SocketAddress& other) const noexcept {
    return length_ == other.length_ && std::memcmp(&storage_, &other.storage_, length_) == 0;
}

namespace {

std::string unix_to_string(const SocketAddress& address) {
    const auto* local = reinterpret_cast<const sockaddr_un*>(address.get());
    if (address.length() <= offsetof(sockaddr_un, sun_path)) return "unix";
    const std::size_t length = address.length() - offsetof(sockaddr_un, sun_path);
    if (local->sun_path[0] == '\0')
        return fmt::format("unix:@{}", std::string_view(local->sun_path + 1, length - 1));
    return fmt::format("unix:{}", std::string_view(local->sun_path, ::strnlen(local->sun_path, length)));
}

}  // namespace

std::string to_string(const SocketAddress& address) {
    char text[INET6_ADDRSTRLEN] = {};
    switch (address.family()) {
        case AF_INET: {
            const auto* v4 = reinterpret_cast<const sockaddr_in*>(address.get());
            ::inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
            return fmt::format("{}:{}", text, address.port());
        }
        case AF_INET6: {
            const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.get());
            if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
                ::inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], text, sizeof(text));
                return fmt::format("{}:{}", text, address.port());
            }
            ::inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
            if (v6->sin6_scope_id != 0)
                return fmt::format("[{}%{}]:{}", text, v6->sin6_scope_id, address.port());
            return fmt::format("[{}]:{}", text, address.port());
        }
        case AF_UNIX: return unix_to_string(address);
        default: return "unknown";
    }
}

PeerAddress::PeerAddress(const SocketAddress& address) noexcept
    : port_(address.port()), family_(static_cast<std::uint16_t>(address.family())) {
    if (family_ == AF_INET) {
        std::memcpy(host_.data(), &reinterpret_cast<const sockaddr_in*>(address.get())->sin_addr, 4);
    } else if (family_ == AF_INET6) {
        const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.get());
        std::memcpy(host_.data(), &v6->sin6_addr, 16);
        scope_ = v6->sin6_scope_id;
    }
}

SocketAddress PeerAddress::address() const noexcept {
    if (family_ == AF_INET) {
        sockaddr_in v4{};
        v4.sin_family = AF_INET;
        v4.sin_port = htons(port_);
        std::memcpy(&v4.sin_addr, host_.data(), 4);
        return SocketAddress::from(reinterpret_cast<const sockaddr*>(&v4), sizeof(v4));
    }
    if (family_ == AF_INET6) {
        sockaddr_in6 v6{};
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(port_);
        v6.sin6_scope_id = scope_;
        std::memcpy(&v6.sin6_addr, host_.data(), 16);
        return SocketAddress::from(reinterpret_cast<const sockaddr*>(&v6), sizeof(v6));
    }
    sockaddr nameless{};
    nameless.sa_family = family_;
    return SocketAddress::from(&nameless, sizeof(sa_family_t));
}

}  // namespace sluice

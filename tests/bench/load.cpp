#include "tests/bench/load.hpp"

#include "sluice/base/check.hpp"
#include "sluice/base/errors.hpp"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace sluice::bench {

void Load::timed_turn(Time now) {
    if (!turn()) tally_.idle += Clock::now() - now;
}

void Load::fail(const char* what, int error) {
    ++tally_.failures;
    if (!failure_.empty()) return;
    failure_ = error == 0 ? what : fmt::format("{}: {}", what, explain_errno(error));
}

void Load::count_operation(Time asked, Time answered) noexcept {
    ++tally_.operations;
    if (asked >= latencies_from_) latencies_.add(answered - asked);
}

namespace {

void set(int socket, int level, int option) noexcept {
    const int on = 1;
    ::setsockopt(socket, level, option, &on, sizeof(on));
}

}  // namespace

OwnedFd listen_on(const SocketAddress& address) {
    OwnedFd socket(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.valid()) return socket;
    set(socket.get(), SOL_SOCKET, SO_REUSEADDR);
    set(socket.get(), IPPROTO_TCP, TCP_NODELAY);  // accepted sockets inherit it
    if (::bind(socket.get(), address.get(), address.length()) != 0 || ::listen(socket.get(), SOMAXCONN) != 0)
        socket.close();
    return socket;
}

OwnedFd accept_from(int listening) {
    return OwnedFd(::accept4(listening, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

OwnedFd connect_to(const SocketAddress& address, const SocketAddress& source) {
    OwnedFd socket(::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.valid()) return socket;
    set(socket.get(), IPPROTO_TCP, TCP_NODELAY);
    if (source.family() == address.family()) {
        set(socket.get(), IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT);
        if (::bind(socket.get(), source.get(), source.length()) != 0) return OwnedFd();
    }
    if (::connect(socket.get(), address.get(), address.length()) != 0 && errno != EINPROGRESS)
        return OwnedFd();
    return socket;
}

Material::Material() : file_(::memfd_create("material", MFD_CLOEXEC)) {
    SLUICE_CHECK(file_.valid());
    const std::string pattern(size(), 'b');
    SLUICE_CHECK(::write(file_.get(), pattern.data(), pattern.size()) == static_cast<ssize_t>(size()));
}

ssize_t Material::send(int socket, std::uint64_t position, std::size_t count) const noexcept {
    auto offset = static_cast<off_t>(position % size());
    return ::sendfile(socket, file_.get(), &offset,
                      std::min(count, size() - static_cast<std::size_t>(offset)));
}

ssize_t discard(int socket, std::size_t count) noexcept {
    return ::recv(socket, nullptr, count, MSG_TRUNC | MSG_DONTWAIT);
}

}  // namespace sluice::bench

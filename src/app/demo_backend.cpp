#include "sluice/app/demo_backend.hpp"

#include "sluice/base/errors.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/socket.hpp"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace sluice {

void set_demo_patience(int socket) noexcept {
    const timeval patience{demo_patience_s, 0};
    ::setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    ::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    const int on = 1;
    ::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

bool receive_exactly(int socket, void* bytes, std::size_t count) noexcept {
    errno = 0;
    return ::recv(socket, bytes, count, MSG_WAITALL) == static_cast<ssize_t>(count);
}

std::expected<std::unique_ptr<DemoBackend>, std::string> DemoBackend::start(const DemoPayload& payload) {
    std::unique_ptr<DemoBackend> backend(new DemoBackend(payload));
    if (const std::string failure = backend->listen(); !failure.empty()) return std::unexpected(failure);
    for (Service& service : backend->services_)
        service.thread = std::thread([&backend = *backend, &service] { backend.accept(service); });
    return backend;
}

std::string DemoBackend::listen() {
    const auto address = SocketAddress::from_literal("127.0.0.1", 0);
    for (const Serve serve :
         {&DemoBackend::serve_source, &DemoBackend::serve_sink, &DemoBackend::serve_echo}) {
        Service service;
        service.serve = serve;
        service.listening = OwnedFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (!address || !service.listening.valid() ||
            ::bind(service.listening.get(), address->get(), address->length()) != 0 ||
            ::listen(service.listening.get(), 64) != 0)
            return fmt::format("the demo's backend cannot listen on 127.0.0.1: {}", explain_errno(errno));
        service.port = local_address_of(service.listening.get()).port();
        services_.push_back(std::move(service));
    }
    return "";
}

DemoBackend::~DemoBackend() {
    for (Service& service : services_) {
        ::shutdown(service.listening.get(), SHUT_RDWR);  // wakes accept()
        if (service.thread.joinable()) service.thread.join();
    }
    for (std::thread& session : sessions_) session.join();
}

void DemoBackend::accept(Service& service) {
    while (true) {
        OwnedFd socket(::accept4(service.listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!socket.valid()) return;
        set_demo_patience(socket.get());
        const std::lock_guard lock(mutex_);
        try {
            sessions_.emplace_back(
                [this, serve = service.serve, owned = std::move(socket)] { (this->*serve)(owned.get()); });
        } catch (const std::system_error&) {
            continue;  // no thread to be had (a limit of processes): the socket is closed, and its client
                       // tells
        }
    }
}

void DemoBackend::serve_source(int socket) {
    std::uint64_t position = 0;
    char byte = 0;
    // 0: the client said FIN. Until then it says nothing.
    while (::recv(socket, &byte, 1, MSG_DONTWAIT) != 0) {
        const ssize_t sent = payload_.send(socket, position);
        if (sent <= 0) break;
        position += static_cast<std::uint64_t>(sent);
    }
    sent_ += position;
}

void DemoBackend::serve_sink(int socket) {
    DemoReader reader(payload_);
    ssize_t received = 0;
    while ((received = reader.receive(socket)) > 0) received_ += static_cast<std::uint64_t>(received);
    if (!reader.intact()) intact_ = false;
    const std::uint64_t count = reader.position();
    if (received == 0) (void)::send(socket, &count, sizeof(count), MSG_NOSIGNAL);
}

void DemoBackend::serve_echo(int socket) {
    std::array<char, demo_message_bytes> message;
    while (receive_exactly(socket, message.data(), message.size()))
        if (::send(socket, message.data(), message.size(), MSG_NOSIGNAL) < 0) return;
}

}  // namespace sluice

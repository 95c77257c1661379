#include "tests/bench/churn.hpp"

#include "sluice/base/check.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace sluice::bench {
namespace {

// Events are named by a kind in the upper half and a slot in the lower.
constexpr std::uint64_t client_kind = 0;
constexpr std::uint64_t server_kind = std::uint64_t{1} << 32;
constexpr std::uint64_t listening_kind = std::uint64_t{2} << 32;
constexpr int events_at_once_max = 64;

// A closed connection keeps its port for a minute (TIME_WAIT): many addresses, so that none runs out.
constexpr int source_addresses = 200;

}  // namespace

Churn::Churn(const Options& options)
    : options_(options),
      epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      clients_(options.connections),
      scratch_(options.message_bytes, 'm') {
    SLUICE_CHECK(epoll_.valid());
    for (int host = 2; host < 2 + source_addresses; ++host) {
        const auto source = SocketAddress::from_literal(fmt::format("127.0.0.{}", host), 0);
        SLUICE_CHECK(source.has_value());
        sources_.push_back(*source);
    }
}

bool Churn::open() {
    listening_ = listen_on(options_.backend);
    if (!listening_.valid()) {
        fail("cannot listen as the backend", errno);
        return false;
    }
    watch(EPOLL_CTL_ADD, listening_.get(), listening_kind, EPOLLIN);
    return true;
}

void Churn::start() {
    for (std::uint32_t slot = 0; slot < clients_.size(); ++slot) dial(slot);
}

bool Churn::turn() {
    // Those that could not connect; each try is a failure, so they do not try for ever unnoticed.
    const std::vector<std::uint32_t> again = std::exchange(idle_clients_, {});
    for (const std::uint32_t slot : again) dial(slot);

    std::array<epoll_event, events_at_once_max> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), events_at_once_max, 0);
    for (int number = 0; number < count; ++number) {
        const epoll_event& event = events[static_cast<std::size_t>(number)];
        const auto slot = static_cast<std::uint32_t>(event.data.u64);
        const std::uint64_t kind = event.data.u64 & ~std::uint64_t{UINT32_MAX};
        if (kind == client_kind) {
            handle_client(slot, event.events);
        } else if (kind == server_kind) {
            handle_server(slot);
        } else {
            accept_all();
        }
    }
    return count > 0;
}

void Churn::dial(std::uint32_t slot) {
    if (stopped_) return;
    Client& client = clients_[slot];
    client.asked = Clock::now();
    client.serial = ++dialled_;
    client.arrived_bytes = 0;
    client.asking = true;
    client.socket = connect_to(options_.relay, sources_[dialled_ % sources_.size()]);
    if (!client.socket.valid()) return end_client(slot, "cannot connect to the relay", errno);
    watch(EPOLL_CTL_ADD, client.socket.get(), client_kind | slot, EPOLLIN | EPOLLOUT);
    // On loopback the handshake is usually over when connect() returns.
    send_question(client, slot);
}

void Churn::send_question(Client& client, std::uint32_t slot) {
    std::memcpy(scratch_.data(), &client.serial, head_bytes);
    const ssize_t sent = ::send(client.socket.get(), scratch_.data(), scratch_.size(), MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == ENOTCONN)) return;  // not connected yet
    if (sent != static_cast<ssize_t>(scratch_.size()))
        return end_client(slot, "a question could not be sent", sent < 0 ? errno : 0);
    client.asking = false;
    watch(EPOLL_CTL_MOD, client.socket.get(), client_kind | slot, EPOLLIN);
}

void Churn::handle_client(std::uint32_t slot, std::uint32_t events) {
    Client& client = clients_[slot];
    if (!client.socket.valid()) return;
    if (client.asking && (events & EPOLLOUT) != 0) return send_question(client, slot);
    const ssize_t taken =
        ::recv(client.socket.get(), scratch_.data(), scratch_.size() - client.arrived_bytes, 0);
    if (taken < 0 && errno == EAGAIN) return;
    if (taken <= 0) return end_client(slot, "a connection ended without its answer", taken < 0 ? errno : 0);
    if (client.arrived_bytes == 0 && taken >= static_cast<ssize_t>(head_bytes) &&
        std::memcmp(scratch_.data(), &client.serial, head_bytes) != 0)
        return end_client(slot, "an answer to somebody else came", 0);
    client.arrived_bytes += static_cast<std::size_t>(taken);
    if (client.arrived_bytes < scratch_.size()) return;
    const Time answered = Clock::now();
    client.socket.close();
    count_operation(client.asked, answered);
    dial(slot);
}

void Churn::accept_all() {
    while (true) {
        OwnedFd socket = accept_from(listening_.get());
        if (!socket.valid()) return;
        if (free_servers_.empty()) {
            free_servers_.push_back(static_cast<std::uint32_t>(servers_.size()));
            servers_.emplace_back();
        }
        const std::uint32_t slot = free_servers_.back();
        free_servers_.pop_back();
        servers_[slot] = Server{std::move(socket), 0, false};
        watch(EPOLL_CTL_ADD, servers_[slot].socket.get(), server_kind | slot, EPOLLIN);
    }
}

void Churn::handle_server(std::uint32_t slot) {
    Server& server = servers_[slot];
    if (!server.socket.valid()) return;
    const ssize_t taken = ::recv(server.socket.get(), scratch_.data(), scratch_.size(), 0);
    if (taken < 0 && errno == EAGAIN) return;
    if (taken <= 0) {
        // The client goes after its answer; before it, the client itself counts the failure.
        if (taken < 0 && server.answered)
            fail("an answered connection ended with an error at the backend", errno);
        return end_server(slot);
    }
    server.arrived_bytes += static_cast<std::size_t>(taken);
    if (server.arrived_bytes < scratch_.size()) return;
    // What arrived is still in the scratch buffer, with the serial at its front if it came in one piece.
    if (::send(server.socket.get(), scratch_.data(), scratch_.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(scratch_.size())) {
        fail("an answer could not be sent", errno);
        return end_server(slot);
    }
    server.arrived_bytes = 0;
    server.answered = true;
}

void Churn::stop() {
    stopped_ = true;
}

bool Churn::settled() const {
    for (const Client& client : clients_)
        if (client.socket.valid()) return false;
    return free_servers_.size() == servers_.size();
}

void Churn::watch(int operation, int socket, std::uint64_t name, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = name;
    SLUICE_CHECK(::epoll_ctl(epoll_.get(), operation, socket, &event) == 0);
}

void Churn::end_client(std::uint32_t slot, const char* what, int error) {
    fail(what, error);
    clients_[slot].socket.close();
    idle_clients_.push_back(slot);
}

void Churn::end_server(std::uint32_t slot) {
    servers_[slot].socket.close();
    free_servers_.push_back(slot);
}

}  // namespace sluice::bench

#include "sluice/app/demo_traffic.hpp"

#include "sluice/app/demo_backend.hpp"
#include "sluice/base/clock.hpp"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

namespace sluice {

namespace {

// Why a call on a socket of the demo fell short.
std::string why(int error) {
    if (error == 0) return "the other end closed it";
    if (error == EAGAIN) return fmt::format("nothing moved for {} s", demo_patience_s);
    return strerrordesc_np(error);
}

}  // namespace

void DemoTraffic::start_downloads(const SocketAddress& source, std::size_t count) {
    start(count, source, &DemoTraffic::download);
}
void DemoTraffic::start_uploads(const SocketAddress& sink, std::size_t count) {
    start(count, sink, &DemoTraffic::upload);
}
void DemoTraffic::start_round_trips(const SocketAddress& echo, std::size_t count) {
    start(count, echo, &DemoTraffic::exchange);
}

void DemoTraffic::start(std::size_t count, const SocketAddress& address,
                        void (DemoTraffic::*work)(int socket)) {
    for (std::size_t index = 0; index < count; ++index)
        threads_.emplace_back([this, address, work] {
            const OwnedFd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
            if (!socket.valid()) return fail(fmt::format("no socket for a client: {}", why(errno)));
            set_demo_patience(socket.get());
            if (::connect(socket.get(), address.get(), address.length()) != 0)
                fail(fmt::format("cannot connect to the relay: {}", why(errno)));
            else
                (this->*work)(socket.get());
        });
}

void DemoTraffic::stop() {
    stopping_ = true;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
}

void DemoTraffic::fail(std::string what) {
    const std::lock_guard lock(mutex_);
    failures_.push_back(std::move(what));
}

void DemoTraffic::download(int socket) {
    DemoReader reader(payload_);
    bool asked_to_end = false;
    while (true) {
        if (stopping_ && !std::exchange(asked_to_end, true)) ::shutdown(socket, SHUT_WR);
        const ssize_t received = reader.receive(socket);
        if (received > 0) {
            downloaded_ += static_cast<std::uint64_t>(received);
            continue;
        }
        if (received < 0) fail(fmt::format("a download broke: {}", why(errno)));
        if (received == 0 && !asked_to_end) fail("a download ended before its client asked for it");
        break;
    }
    if (!reader.intact()) fail("a download brought other bytes than were sent");
}

void DemoTraffic::upload(int socket) {
    std::uint64_t sent = 0;
    while (!stopping_) {
        const ssize_t result = payload_.send(socket, sent);
        if (result <= 0) return fail(fmt::format("an upload broke: {}", why(errno)));
        sent += static_cast<std::uint64_t>(result);
    }
    ::shutdown(socket, SHUT_WR);
    std::uint64_t arrived = 0;
    if (!receive_exactly(socket, &arrived, sizeof(arrived)))
        fail("an upload was not answered");
    else if (arrived != sent)
        fail(fmt::format("an upload of {} bytes arrived as {}", sent, arrived));
    uploaded_ += sent;
}

void DemoTraffic::exchange(int socket) {
    const auto latencies = std::make_unique<Latencies>();  // too large for a small stack
    std::array<std::uint8_t, demo_message_bytes> question{};
    std::array<std::uint8_t, demo_message_bytes> answer{};
    for (std::uint64_t number = 0; !stopping_; ++number) {
        std::memcpy(question.data(), &number, sizeof(number));
        const Time asked = Clock::now();
        if (::send(socket, question.data(), question.size(), MSG_NOSIGNAL) != std::ssize(question) ||
            !receive_exactly(socket, answer.data(), answer.size()))
            return fail(fmt::format("a round trip broke: {}", why(errno)));
        latencies->add(Clock::now() - asked);
        if (answer != question) return fail("a round trip brought other bytes than were sent");
        ++round_trips_;
    }
    ::shutdown(socket, SHUT_WR);
    if (::recv(socket, answer.data(), answer.size(), 0) != 0)
        fail("a session of round trips did not end with FIN");
    const std::lock_guard lock(mutex_);
    latencies_.add(*latencies);
}

}  // namespace sluice

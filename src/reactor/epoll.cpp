#include "sluice/base/errors.hpp"
#include "sluice/net/owned_fd.hpp"
#include "sluice/reactor/reactor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

namespace sluice {

namespace {

// Poll events and epoll events share their bits (include/uapi/linux/eventpoll.h), so nothing is translated.
// PRI costs no wake-up of its own: the kernel's word of new data names it, too.
constexpr std::uint32_t watched_events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET;
constexpr std::uint32_t readable_events = EPOLLIN | EPOLLET;

class EpollReactor final : public Reactor {
  public:
    EpollReactor(OwnedFd epoll, std::uint32_t sockets_max) : epoll_(std::move(epoll)) {
        // Room for every question to end in one turn: from here on nothing allocates, so nothing can fail to.
        last_answers_.reserve(std::size_t{sockets_max} + 1024);
    }

    void accept(int listening_fd, Token token) override {
        listeners_.push_back({listening_fd, token, false});
        // EXCLUSIVE: a unix listener is shared by all workers, and one client need wake only one of them.
        add(listening_fd, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE, token);
    }

    void watch(int fd, Token token) override { add(fd, watched_events, token); }

    void watch_readable(int fd, Token token) override { add(fd, readable_events, token); }

    bool carry(std::span<const Send>) noexcept override { return false; }

    void cancel(int fd, Token token) override {
        // A question that has just had its last answer is no longer in the set; then there is nothing to end.
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr) != 0) return;
        forget_listener(token);
        // After the events that epoll has still to tell: the same order as io_uring's.
        last_answers_.push_back({token, -ECANCELED, false});
    }

    std::size_t wait(std::span<Completion> answers, Time deadline) override {
        std::size_t count = 0;
        // Clients left over from last time must not wait for a socket's event.
        const bool hurry = !last_answers_.empty() || std::ranges::any_of(listeners_, &Listener::ready);
        const std::size_t room =
            std::min(answers.size() - std::min(answers.size(), last_answers_.size()), events_.size());
        const int ready = room == 0 ? 0 : wait_for_events(room, hurry ? Time::min() : deadline);
        for (int index = 0; index < ready; ++index) {
            const epoll_event& event = events_[static_cast<std::size_t>(index)];
            const Token token(event.data.u64);
            if (token.question() == Question::accept)
                mark_ready(token);
            else
                answers[count++] = {token, static_cast<int>(event.events), true};
        }
        const std::size_t last = std::min(answers.size() - count, last_answers_.size());
        std::copy_n(last_answers_.begin(), last, answers.begin() + static_cast<std::ptrdiff_t>(count));
        last_answers_.erase(last_answers_.begin(), last_answers_.begin() + static_cast<std::ptrdiff_t>(last));
        count += last;
        return accept_clients(answers, count);
    }

    const char* name() const noexcept override { return "epoll"; }

  private:
    struct Listener {
        int fd;
        Token token;
        bool ready;  // accept(2) has not answered EAGAIN since the last event
    };

    void add(int fd, std::uint32_t events, Token token) {
        epoll_event event{};
        event.events = events;
        event.data.u64 = token.raw();
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return;
        // ENOMEM, or ENOSPC by fs.epoll.max_user_watches: the question's last answer.
        const int error = errno;
        forget_listener(token);
        last_answers_.push_back({token, -error, false});
    }

    int wait_for_events(std::size_t room, Time deadline) noexcept {
        timespec timeout{};
        if (deadline != Time::min() && deadline != time_never) {
            const auto left = std::max(deadline - Clock::now(), Clock::duration::zero());
            const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
            timeout = {seconds.count(), (left - seconds).count()};
        }
        // pwait2 and not wait: its milliseconds would either fire early and spin, or late.
        const int ready = ::epoll_pwait2(epoll_.get(), events_.data(), static_cast<int>(room),
                                         deadline == time_never ? nullptr : &timeout, nullptr);
        return std::max(ready, 0);  // EINTR: none, early
    }

    void mark_ready(Token token) noexcept {
        const auto found = std::ranges::find(listeners_, token, &Listener::token);
        if (found != listeners_.end()) found->ready = true;
    }

    void forget_listener(Token token) noexcept {
        std::erase_if(listeners_, [token](const Listener& listener) { return listener.token == token; });
    }

    // Accepts while there is room for answers; each listener in turn, so that a busy one starves no other.
    std::size_t accept_clients(std::span<Completion> answers, std::size_t count) {
        bool more = true;
        while (more) {
            more = false;
            for (std::size_t index = 0; index < listeners_.size();) {
                Listener& listener = listeners_[index];
                if (!listener.ready || count == answers.size()) {
                    ++index;
                    continue;
                }
                const int fd = ::accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd >= 0) {
                    answers[count++] = {listener.token, fd, true};
                    more = true;
                    ++index;
                } else if (errno == EAGAIN) {
                    listener.ready = false;
                    ++index;
                } else if (is_passing(errno)) {
                    more = true;
                    ++index;
                } else {
                    answers[count++] = {listener.token, -errno, false};
                    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener.fd, nullptr);
                    listeners_.erase(listeners_.begin() + static_cast<std::ptrdiff_t>(index));
                }
            }
        }
        return count;
    }

    // Errors of the one connection that was about to be accepted, which is gone (accept(2), "Error
    // handling").
    static bool is_passing(int error) noexcept {
        return error == ECONNABORTED || error == EINTR || error == EPROTO || error == ENETDOWN ||
               error == ENETUNREACH || error == EHOSTUNREACH || error == EHOSTDOWN || error == ENOPROTOOPT;
    }

    OwnedFd epoll_;
    std::array<epoll_event, 512> events_;
    std::vector<Listener> listeners_;
    std::vector<Completion> last_answers_;  // of cancelled questions, for the next wait()
};

}  // namespace

std::expected<std::unique_ptr<Reactor>, std::string> open_epoll_reactor(std::uint32_t sockets_max) {
    OwnedFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll.valid()) return std::unexpected(fmt::format("epoll_create1: {}", explain_errno(errno)));
    return std::make_unique<EpollReactor>(std::move(epoll), sockets_max);
}

}  // namespace sluice

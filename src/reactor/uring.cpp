#include "sluice/base/errors.hpp"
#include "sluice/net/owned_fd.hpp"
#include "sluice/reactor/reactor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

namespace sluice {

namespace {

constexpr unsigned watched_events = POLLIN | POLLOUT | POLLRDHUP;
constexpr unsigned submissions = 1024;

// Completions of cancel requests themselves carry this; only their target's matter.
constexpr std::uint64_t nobody = 0;

// Flags by number where liburing 2.3 may be built against older headers than the kernel it meets.
constexpr unsigned ring_flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SINGLE_ISSUER |
                                IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL;

class UringReactor final : public Reactor {
  public:
    UringReactor() = default;
    ~UringReactor() override {
        if (open_) ::io_uring_queue_exit(&ring_);
    }
    // The kernel maps the ring at its address.
    UringReactor(const UringReactor&) = delete;
    UringReactor& operator=(const UringReactor&) = delete;

    // 0 or -errno.
    int open(unsigned completions) noexcept {
        io_uring_params parameters{};
        parameters.flags = ring_flags;
        parameters.cq_entries = completions;
        const int result = ::io_uring_queue_init_params(submissions, &ring_, &parameters);
        open_ = result == 0;
        // Saves looking its descriptor up at each call; a wish.
        if (open_) ::io_uring_register_ring_fd(&ring_);
        return result;
    }

    void accept(int listening_fd, Token token) override {
        // The one blocking descriptor: on a non-blocking one the ring answers EAGAIN instead of waiting.
        const int flags = ::fcntl(listening_fd, F_GETFL);
        ::fcntl(listening_fd, F_SETFL, flags & ~O_NONBLOCK);
        io_uring_sqe* entry = next_entry();
        ::io_uring_prep_multishot_accept(entry, listening_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        entry->user_data = token.raw();
    }

    void watch(int fd, Token token) override { poll(fd, watched_events, token); }

    void watch_readable(int fd, Token token) override { poll(fd, POLLIN, token); }

    // A request with MSG_DONTWAIT completes while it is submitted: before the waiting begins. MSG_WAITALL
    // makes a send that took less than all a failed one, and failed ones are answered in spite of
    // CQE_SKIP_SUCCESS (which matters: an answer for each would end every wait at once). probe_uring() has
    // seen that this is so.
    bool carry(std::span<const Send> sends) noexcept override {
        // With answers left over from last time, or with other questions to be passed on that may be answered
        // at once, theirs might not be among the next.
        if (::io_uring_cq_ready(&ring_) != 0 || ::io_uring_sq_ready(&ring_) != 0) return false;
        SLUICE_CHECK(sends.size() <= submissions);
        for (const Send& send : sends) {
            io_uring_sqe* entry = next_entry();
            ::io_uring_prep_send(entry, send.fd, send.bytes.data(), send.bytes.size(),
                                 MSG_DONTWAIT | MSG_NOSIGNAL | MSG_WAITALL);
            entry->user_data = send.token.raw();
            entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
        }
        carries_ = true;
        return true;
    }

    void cancel(int, Token token) override {
        io_uring_sqe* entry = next_entry();
        ::io_uring_prep_cancel64(entry, token.raw(), 0);
        entry->user_data = nobody;
        // Only failures would be told (ENOENT: the target's last answer is on its way), and those say
        // nothing.
        entry->flags |= IOSQE_CQE_SKIP_SUCCESS;
    }

    std::size_t wait(std::span<Completion> answers, Time deadline) override {
        submit_and_wait(deadline);
        // What the kernel was too short of memory to take must not go later, when its bytes and its
        // descriptor are somebody else's.
        while (carries_ && ::io_uring_sq_ready(&ring_) != 0) ::io_uring_submit(&ring_);
        carries_ = false;
        std::size_t count = 0;
        while (count < answers.size()) {
            std::array<io_uring_cqe*, 64> batch;
            const auto room = static_cast<unsigned>(std::min(batch.size(), answers.size() - count));
            const unsigned found = ::io_uring_peek_batch_cqe(&ring_, batch.data(), room);
            if (found == 0) break;
            for (unsigned index = 0; index < found; ++index) {
                const io_uring_cqe& entry = *batch[index];
                if (entry.user_data == nobody) continue;
                answers[count++] = {Token(entry.user_data), entry.res,
                                    (entry.flags & IORING_CQE_F_MORE) != 0};
            }
            ::io_uring_cq_advance(&ring_, found);
        }
        return count;
    }

    const char* name() const noexcept override { return "io_uring"; }

  private:
    void poll(int fd, unsigned events, Token token) noexcept {
        io_uring_sqe* entry = next_entry();
        ::io_uring_prep_poll_multishot(entry, fd, events);
        entry->user_data = token.raw();
    }

    io_uring_sqe* next_entry() noexcept {
        io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
        while (entry == nullptr) {
            // Full: the kernel takes them all now (SUBMIT_ALL), or says EBUSY/EAGAIN and takes them next
            // time.
            ::io_uring_submit(&ring_);
            entry = ::io_uring_get_sqe(&ring_);
        }
        return entry;
    }

    // One system call both passes the questions on and waits. Without anything to wait for it still enters:
    // with DEFER_TASKRUN answers appear only while the thread is inside.
    void submit_and_wait(Time deadline) noexcept {
        io_uring_cqe* first = nullptr;
        if (deadline == time_never) {
            ::io_uring_submit_and_wait(&ring_, 1);
            return;
        }
        const Nanoseconds left = deadline == Time::min() ? Nanoseconds(0) : deadline - Clock::now();
        if (left <= Nanoseconds(0)) {
            ::io_uring_submit_and_get_events(&ring_);
            return;
        }
        const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
        __kernel_timespec timeout{seconds.count(), (left - seconds).count()};
        ::io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr);
    }

    io_uring ring_{};
    bool open_ = false;
    bool carries_ = false;  // sends go with the next wait
};

std::string explain(int error) {
    switch (error) {
        case ENOSYS: return "io_uring_setup: not implemented by this kernel (or gVisor, or an old kernel)";
        case EPERM:
            return "io_uring_setup: not permitted (a seccomp filter such as Docker's or Kubernetes' default, "
                   "or "
                   "sysctl kernel.io_uring_disabled)";
        case EINVAL: return "io_uring_setup: this kernel is older than 6.1 (no DEFER_TASKRUN)";
        case ENOMEM: return "io_uring_setup: not enough memory may be locked (ulimit -l)";
        default: return fmt::format("io_uring_setup: {}", explain_errno(error));
    }
}

}  // namespace

std::expected<std::unique_ptr<Reactor>, std::string> open_uring_reactor(std::uint32_t sockets_max) {
    auto reactor = std::make_unique<UringReactor>();
    // A full queue loses nothing, but ends the multishot questions, which must then be asked again.
    const unsigned completions = std::bit_ceil(std::clamp(sockets_max, 4096U, 32768U));
    if (const int result = reactor->open(completions); result < 0) return std::unexpected(explain(-result));
    return reactor;
}

namespace {

// A watch that tells, and that can be ended.
std::expected<void, std::string> probe_watch(Reactor& reactor) {
    OwnedFd ready(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!ready.valid()) return std::unexpected(fmt::format("eventfd: {}", explain_errno(errno)));
    const Token token(Question::doorbell, {0, 1});
    reactor.watch(ready.get(), token);
    bool watched = false;
    bool cancelled = false;
    const Time deadline = Clock::now() + std::chrono::seconds(2);
    while (!cancelled && Clock::now() < deadline) {
        std::array<Completion, 4> answers;
        const std::size_t count = reactor.wait(answers, deadline);
        for (const Completion& answer : std::span(answers).first(count)) {
            if (answer.result < 0 && !watched)
                return std::unexpected(fmt::format("io_uring poll: {}", explain_errno(-answer.result)));
            if (!answer.more && !watched)
                return std::unexpected("io_uring: this kernel has no multishot poll");
            if (answer.more && !watched) reactor.cancel(ready.get(), token);
            watched = true;
            cancelled = !answer.more;
        }
    }
    if (!cancelled) return std::unexpected("io_uring: a poll was not answered within 2 s");
    return {};
}

// A send that goes along: silent when all was taken, and else with how much.
std::expected<void, std::string> probe_carry(Reactor& reactor) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0)
        return std::unexpected(fmt::format("socketpair: {}", explain_errno(errno)));
    const OwnedFd one(ends[0]);
    const OwnedFd other(ends[1]);
    const std::vector<std::byte> bytes(std::size_t{8} * 1024 * 1024);  // more than any send buffer
    const Token token(Question::carry, {0, 1});
    std::array<Completion, 4> answers;
    const Send whole{one.get(), std::span(bytes).first(1), token};
    if (!reactor.carry({&whole, 1})) return std::unexpected("io_uring: no room for a send");
    if (reactor.wait(answers, Time::min()) != 0)
        return std::unexpected("io_uring: a whole send was answered");
    const Send too_much{one.get(), bytes, token};
    if (!reactor.carry({&too_much, 1})) return std::unexpected("io_uring: no room for a send");
    const bool told = reactor.wait(answers, Time::min()) == 1 && answers[0].token == token;
    if (!told || answers[0].result <= 0 || std::cmp_greater_equal(answers[0].result, bytes.size()))
        return std::unexpected("io_uring: a send that took less than all was not told of");
    return {};
}

}  // namespace

std::expected<void, std::string> probe_uring() {
    auto reactor = open_uring_reactor(0);
    if (!reactor) return std::unexpected(reactor.error());
    // Creating a ring proves little where a filter looks at operations: ask one real question of each kind.
    if (auto watched = probe_watch(**reactor); !watched) return watched;
    return probe_carry(**reactor);
}

}  // namespace sluice

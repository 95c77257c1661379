#include "sluice/flow/calls.hpp"

#include "sluice/base/check.hpp"
#include "sluice/base/errors.hpp"

#include <fmt/format.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>

namespace sluice {

Transfer verdict_of(const SocketCall& call, std::ptrdiff_t result) noexcept {
    const bool receives = call.kind == SocketCall::Kind::receive;
    if (result > 0) {
        const auto bytes = static_cast<std::size_t>(result);
        return {Transfer::Outcome::moved, bytes, 0, receives && bytes < call.size};
    }
    if (result < 0) return Transfer::failed(static_cast<int>(-result));
    return {receives ? Transfer::Outcome::ended : Transfer::Outcome::blocked};
}

namespace {

constexpr int flags_of(SocketCall::Kind kind) noexcept {
    return kind == SocketCall::Kind::receive ? MSG_DONTWAIT : MSG_DONTWAIT | MSG_NOSIGNAL;
}

void make_one(SocketCall& call) noexcept {
    const int flags = flags_of(call.kind);
    ssize_t result;
    do {
        // Without room for control messages: descriptors that a unix peer sends unasked are dropped by the
        // kernel.
        result = call.kind == SocketCall::Kind::receive ? ::recv(call.fd, call.memory, call.size, flags)
                                                        : ::send(call.fd, call.memory, call.size, flags);
    } while (result < 0 && errno == EINTR);  // a debugger that attaches
    call.transfer = verdict_of(call, result < 0 ? -errno : result);
}

class SingleCalls final : public Calls {
  public:
    std::size_t make(std::span<SocketCall> calls) noexcept override {
        for (SocketCall& call : calls) make_one(call);
        return calls.size();
    }
    const char* name() const noexcept override { return "one by one"; }
};

// --- io_uring ---

// MSG_DONTWAIT makes each request complete while it is submitted: one that would have to wait is answered
// EAGAIN, and none goes to a kernel thread. So submitting is all there is to it.
class UringCalls final : public Calls {
  public:
    UringCalls() = default;
    ~UringCalls() override {
        if (open_) ::io_uring_queue_exit(&ring_);
    }
    // The kernel maps the ring at its address.
    UringCalls(const UringCalls&) = delete;
    UringCalls& operator=(const UringCalls&) = delete;

    // 0 or -errno.
    int open() noexcept {
        io_uring_params parameters{};
        parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SUBMIT_ALL;
        const int result = ::io_uring_queue_init_params(calls_max, &ring_, &parameters);
        open_ = result == 0;
        // Saves looking its descriptor up at each call; a wish.
        if (open_) ::io_uring_register_ring_fd(&ring_);
        return result;
    }

    std::size_t make(std::span<SocketCall> calls) noexcept override {
        SLUICE_CHECK(calls.size() <= calls_max);
        // A lone send is cheaper by its own system call; a lone receive would not learn what is left.
        if (calls.size() == 1 && calls.front().kind == SocketCall::Kind::send) {
            make_one(calls.front());
            return 1;
        }
        if (::io_uring_sq_ready(&ring_) != 0) return make_without_ring(calls);
        std::array<io_uring_sqe*, calls_max> entries;
        for (std::size_t index = 0; index < calls.size(); ++index) {
            SocketCall& call = calls[index];
            io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
            SLUICE_CHECK(entry != nullptr);
            if (call.kind == SocketCall::Kind::receive)
                ::io_uring_prep_recv(entry, call.fd, call.memory, call.size, flags_of(call.kind));
            else
                ::io_uring_prep_send(entry, call.fd, call.memory, call.size, flags_of(call.kind));
            entry->user_data = index;
            entries[index] = entry;
        }
        ::io_uring_submit(&ring_);
        take_answers(calls);
        // Short of memory for requests. What it did not take cannot be taken back, but made to mean nothing.
        const std::size_t left = ::io_uring_sq_ready(&ring_);
        if (left == 0) return 1;
        for (io_uring_sqe* entry : std::span(entries).subspan(calls.size() - left, left)) {
            ::io_uring_prep_nop(entry);
            entry->user_data = nobody;
        }
        return 1 + make_without_ring(calls.last(left));
    }
    const char* name() const noexcept override { return "io_uring"; }

  private:
    static constexpr std::uint64_t nobody = UINT64_MAX;

    void take_answers(std::span<SocketCall> calls) noexcept {
        unsigned head;
        unsigned count = 0;
        io_uring_cqe* entry;
        io_uring_for_each_cqe(&ring_, head, entry) {
            ++count;
            if (entry->user_data == nobody) continue;
            SocketCall& call = calls[entry->user_data];
            call.transfer = verdict_of(call, entry->res);
            // The kernel's word (TCP_INQ's), which no urgent mark and no FIN can make wrong. It is silent of
            // sockets that do not know (a BPF sockmap's), so a read that filled its memory proves nothing.
            if ((entry->flags & IORING_CQE_F_SOCK_NONEMPTY) != 0) call.transfer.emptied = false;
        }
        ::io_uring_cq_advance(&ring_, count);
    }

    std::size_t make_without_ring(std::span<SocketCall> calls) noexcept {
        ::io_uring_submit(&ring_);  // perhaps it takes by now what means nothing
        take_answers({});
        for (SocketCall& call : calls) {
            make_one(call);
            call.transfer.emptied = false;  // who uses this does not ask for urgent marks
        }
        return calls.size();
    }

    io_uring ring_{};
    bool open_ = false;
};

// --- Linux AIO ---

// The ring of answers that io_setup(2) maps into the process (fs/aio.c). Reading it saves io_getevents(2).
struct AioRing {
    std::uint32_t id;
    std::uint32_t size;
    std::uint32_t head;
    std::uint32_t tail;
    std::uint32_t magic;
    std::uint32_t compatible_features;
    std::uint32_t incompatible_features;
    std::uint32_t header_bytes;
    static constexpr std::uint32_t magic_expected = 0xa10a10a1;

    io_event& event(std::uint32_t index) noexcept {
        return reinterpret_cast<io_event*>(reinterpret_cast<std::byte*>(this) + header_bytes)[index];
    }
};

// A read or write of a non-blocking socket is over when io_submit(2) returns: would it have to wait, it is
// answered EAGAIN. (SIGPIPE, which a write knows no flag against, is ignored process-wide.)
class AioCalls final : public Calls {
  public:
    AioCalls() = default;
    ~AioCalls() override {
        if (context_ != 0) ::syscall(SYS_io_destroy, context_);
    }
    AioCalls(const AioCalls&) = delete;
    AioCalls& operator=(const AioCalls&) = delete;

    bool open() noexcept {
        if (::syscall(SYS_io_setup, calls_max, &context_) != 0) {
            context_ = 0;
            return false;
        }
        const AioRing& answers = ring();
        return answers.magic == AioRing::magic_expected && answers.incompatible_features == 0;
    }

    std::size_t make(std::span<SocketCall> calls) noexcept override {
        SLUICE_CHECK(calls.size() <= calls_max);
        if (calls.size() == 1) {
            make_one(calls.front());
            return 1;
        }
        std::array<iocb*, calls_max> pointers;
        for (std::size_t index = 0; index < calls.size(); ++index) {
            const SocketCall& call = calls[index];
            iocb& block = blocks_[index];
            block = {};
            block.aio_data = index;
            block.aio_lio_opcode = call.kind == SocketCall::Kind::receive ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
            block.aio_fildes = static_cast<std::uint32_t>(call.fd);
            block.aio_buf = reinterpret_cast<std::uint64_t>(call.memory);
            block.aio_nbytes = call.size;
            pointers[index] = &block;
        }
        const long taken =
            ::syscall(SYS_io_submit, context_, static_cast<long>(calls.size()), pointers.data());
        const auto begun = static_cast<std::size_t>(std::max(taken, 0L));
        take_answers(calls, begun);
        // Short of memory.
        for (SocketCall& call : calls.subspan(begun)) make_one(call);
        return 1 + calls.size() - begun;
    }
    const char* name() const noexcept override { return "aio"; }

  private:
    AioRing& ring() noexcept { return *reinterpret_cast<AioRing*>(context_); }

    void take_answers(std::span<SocketCall> calls, std::size_t count) noexcept {
        AioRing& answers = ring();
        std::uint32_t head = answers.head;
        for (std::size_t taken = 0; taken < count; ++taken) {
            SLUICE_CHECK(head != std::atomic_ref(answers.tail).load(std::memory_order_acquire));
            const io_event& event = answers.event(head);
            SocketCall& call = calls[event.data];
            call.transfer = verdict_of(call, event.res);
            head = (head + 1) % answers.size;
        }
        std::atomic_ref(answers.head).store(head, std::memory_order_release);
    }

    aio_context_t context_ = 0;
    std::array<iocb, calls_max> blocks_;
};

}  // namespace

std::expected<std::unique_ptr<Calls>, std::string> open_uring_calls() {
    auto calls = std::make_unique<UringCalls>();
    if (const int result = calls->open(); result < 0)
        return std::unexpected(fmt::format("io_uring_setup: {}", explain_errno(-result)));
    return calls;
}

std::unique_ptr<Calls> open_aio_calls() {
    auto calls = std::make_unique<AioCalls>();
    if (!calls->open()) return open_single_calls();
    return calls;
}

std::unique_ptr<Calls> open_single_calls() {
    return std::make_unique<SingleCalls>();
}

}  // namespace sluice

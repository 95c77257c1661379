#include "sluice/flow/channel.hpp"

#include "sluice/base/check.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>

namespace sluice {

namespace {

// No signal handler runs on a worker, but a debugger that attaches interrupts calls all the same.
template <class Call>
ssize_t uninterrupted(Call call) noexcept {
    ssize_t result;
    do {
        result = call();
    } while (result < 0 && errno == EINTR);
    return result;
}

constexpr unsigned splice_flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;

}  // namespace

Transfer read_file(int source, std::span<std::byte> memory) noexcept {
    const ssize_t result = uninterrupted([&] { return ::read(source, memory.data(), memory.size()); });
    if (result == 0) return {Transfer::Outcome::ended};
    if (result < 0) return Transfer::failed(errno);
    return {Transfer::Outcome::moved, static_cast<std::size_t>(result)};
}

Transfer write_file(int target, std::span<const std::byte> bytes) noexcept {
    const ssize_t result = uninterrupted([&] { return ::write(target, bytes.data(), bytes.size()); });
    // Nothing would tell when a file that takes nothing takes something.
    if (result <= 0) return Transfer::failed(result < 0 ? errno : EIO);
    return {Transfer::Outcome::moved, static_cast<std::size_t>(result)};
}

Transfer receive_message(int source, std::span<std::byte> memory) noexcept {
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(timeval))];
    iovec vector{.iov_base = memory.data(), .iov_len = memory.size()};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t result = uninterrupted([&] { return ::recvmsg(source, &message, MSG_DONTWAIT); });
    if (result < 0) return Transfer::failed(errno);
    // Both an empty message and the end are answered 0, but only a message has a time.
    if (result == 0 && message.msg_controllen == 0) return {Transfer::Outcome::ended};
    if ((message.msg_flags & MSG_TRUNC) != 0) return {Transfer::Outcome::broken, 0, EMSGSIZE};
    return {Transfer::Outcome::moved, static_cast<std::size_t>(result)};
}

Transfer send_message(int target, std::span<const std::byte> message) noexcept {
    const ssize_t result = uninterrupted(
        [&] { return ::send(target, message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL); });
    if (result < 0) return Transfer::failed(errno);
    return {Transfer::Outcome::moved, static_cast<std::size_t>(result)};
}

namespace {

bool ready_now(int fd, short events) noexcept {
    pollfd polled{.fd = fd, .events = events, .revents = 0};
    return ::poll(&polled, 1, 0) > 0;
}

}  // namespace

bool readable_now(int source) noexcept {
    return ready_now(source, POLLIN);
}
bool writable_now(int target) noexcept {
    return ready_now(target, POLLOUT);
}

Transfer peek(int source) noexcept {
    std::byte one;
    const ssize_t result = uninterrupted([&] { return ::recv(source, &one, 1, MSG_DONTWAIT | MSG_PEEK); });
    if (result > 0) return {Transfer::Outcome::moved, 1};
    if (result == 0) return {Transfer::Outcome::ended};
    return Transfer::failed(errno);
}

Transfer SpliceChannel::fill(int source, std::size_t bytes_max) noexcept {
    SLUICE_CHECK(empty());
    const ssize_t result = uninterrupted(
        [&] { return ::splice(source, nullptr, pipe_.write_end(), nullptr, bytes_max, splice_flags); });
    if (result > 0) {
        held_ = static_cast<std::size_t>(result);
        return {Transfer::Outcome::moved, held_};
    }
    if (result == 0) return {Transfer::Outcome::ended};
    if (errno == EINVAL) return {Transfer::Outcome::unsuitable};
    return Transfer::failed(errno);
}

Transfer SpliceChannel::drain(int target) noexcept {
    SLUICE_CHECK(!empty());
    // Exactly what is there: asking for more makes the kernel wait about 200 ms for it before it sends the
    // tail (it sets MSG_MORE when the pipe held a multiple of 16 buffers). SPLICE_F_MORE never, for the same
    // reason.
    const ssize_t result = uninterrupted(
        [&] { return ::splice(pipe_.read_end(), nullptr, target, nullptr, held_, splice_flags); });
    if (result > 0) {
        held_ -= static_cast<std::size_t>(result);
        return {Transfer::Outcome::moved, static_cast<std::size_t>(result)};
    }
    if (result == 0)
        return {Transfer::Outcome::blocked};  // the pipe is not empty, so this is the target's doing
    if (errno == EINVAL) return {Transfer::Outcome::unsuitable};
    // The kernel sends 16 fragments at a time. When a reset comes in between, splice answers what went before
    // and swallows the error; the next call is answered EPIPE, which then does not speak of a FIN. That
    // passed for a whole stream in 2 of 80,000 transfers.
    return Transfer::failed(errno == EPIPE ? ECONNRESET : errno);
}

BlockPool::BlockPool() {
    for (std::size_t index = 0; index < sizes.size(); ++index) idle_[index].reserve(idle_max[index]);
}

BlockPool::Block BlockPool::take(std::size_t bytes) noexcept {
    std::size_t index = 0;
    while (sizes[index] < bytes) {
        ++index;
        SLUICE_CHECK(index < sizes.size());
    }
    Block block;
    if (!idle_[index].empty()) {
        block = std::move(idle_[index].back());
        idle_[index].pop_back();
    } else {
        block.memory.reset(new (std::nothrow) std::byte[sizes[index]]);
        if (block.memory == nullptr) return block;
        block.size = static_cast<std::uint32_t>(sizes[index]);
    }
    taken_ += block.size;
    return block;
}

void BlockPool::give_back(Block block) noexcept {
    SLUICE_CHECK(taken_ >= block.size);
    taken_ -= block.size;
    for (std::size_t index = 0; index < sizes.size(); ++index)
        if (block.size == sizes[index] && idle_[index].size() < idle_max[index])
            return idle_[index].push_back(std::move(block));
}

SocketCall CopyChannel::receive_call(int source, std::span<std::byte> scratch) noexcept {
    return {SocketCall::Kind::receive, source, scratch.data(), static_cast<std::uint32_t>(scratch.size())};
}

void CopyChannel::received(const SocketCall& call) noexcept {
    adopt(call.transfer, {call.memory, call.size});
}

Transfer CopyChannel::fill(Calls& calls, int source, std::span<std::byte> scratch) noexcept {
    SocketCall call = receive_call(source, scratch);
    calls.make({&call, 1});
    received(call);
    return call.transfer;
}

Transfer CopyChannel::fill_from_file(int source, std::span<std::byte> scratch) noexcept {
    return adopt(read_file(source, scratch), scratch);
}

Transfer CopyChannel::fill_from_pipe(int read_end, std::span<std::byte> scratch) noexcept {
    const ssize_t result = uninterrupted([&] { return ::read(read_end, scratch.data(), scratch.size()); });
    SLUICE_CHECK(result > 0);  // the caller knows that the pipe holds bytes
    return adopt({Transfer::Outcome::moved, static_cast<std::size_t>(result)}, scratch);
}

Transfer MemoryChannel::adopt(Transfer transfer, std::span<std::byte> scratch) noexcept {
    SLUICE_CHECK(held() == 0 && block_.memory == nullptr);
    bytes_ = scratch.data();
    begin_ = 0;
    end_ = static_cast<std::uint32_t>(transfer.bytes);
    return transfer;
}

SocketCall CopyChannel::send_call(int target) const noexcept {
    SLUICE_CHECK(!empty());
    // A send only reads.
    return {SocketCall::Kind::send, target, const_cast<std::byte*>(bytes().data()),
            static_cast<std::uint32_t>(held()), Transfer{Transfer::Outcome::moved, held()}};
}

void CopyChannel::sent(const SocketCall& call) noexcept {
    begin_ += static_cast<std::uint32_t>(call.transfer.bytes);
}

Transfer CopyChannel::drain(Calls& calls, int target) noexcept {
    SocketCall call = send_call(target);
    calls.make({&call, 1});
    sent(call);
    return call.transfer;
}

Transfer CopyChannel::drain_to_file(int target) noexcept {
    SLUICE_CHECK(!empty());
    const Transfer transfer = write_file(target, bytes());
    begin_ += static_cast<std::uint32_t>(transfer.bytes);
    return transfer;
}

bool MemoryChannel::settle(BlockPool& blocks) noexcept {
    if (held() == 0) clear(blocks);
    if (held() == 0 || block_.memory != nullptr) return true;  // nothing to keep, or kept in an earlier turn
    block_ = blocks.take(held());
    if (block_.memory == nullptr) return false;
    std::memcpy(block_.memory.get(), bytes_ + begin_, held());
    end_ = static_cast<std::uint32_t>(held());
    begin_ = 0;
    bytes_ = block_.memory.get();
    return true;
}

void MemoryChannel::clear(BlockPool& blocks) noexcept {
    begin_ = end_ = 0;
    bytes_ = nullptr;
    if (block_.memory != nullptr) blocks.give_back(std::exchange(block_, {}));
}

Transfer MessageChannel::fill(int source, std::span<std::byte> scratch) noexcept {
    SLUICE_CHECK(empty() && scratch.size() >= message_bytes_max);
    const Transfer transfer = adopt(receive_message(source, scratch), scratch);
    holds_message_ = transfer.outcome == Transfer::Outcome::moved;
    return transfer;
}

Transfer MessageChannel::drain(int target) noexcept {
    SLUICE_CHECK(!empty());
    const Transfer transfer = send_message(target, bytes());
    if (transfer.outcome != Transfer::Outcome::moved) return transfer;
    SLUICE_CHECK(transfer.bytes == held());  // the kernel takes a message as a whole
    begin_ = end_;
    holds_message_ = false;
    return transfer;
}

void MessageChannel::clear(BlockPool& blocks) noexcept {
    MemoryChannel::clear(blocks);
    holds_message_ = false;
}

}  // namespace sluice

#pragma once

#include "sluice/base/check.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/base/slab.hpp"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>

namespace sluice {

// What a worker may ask. Each names who will handle the answer.
enum class Question : std::uint8_t {
    accept = 1,       // a client? (a listener)
    watch_client,     // readable, writable, closed? (a session's client socket)
    watch_upstream,   // the same of its upstream socket; its first answer also tells whether it is connected
    doorbell,         // does another thread want something? (the worker)
    watch_datagrams,  // readable? (a listener of datagrams)
    watch_datagram_upstream,  // readable, writable? (a datagram session's upstream socket)
    carry,  // a send that went along with a wait: did the kernel not take everything? (the worker)
};

// The 64-bit name of one outstanding question: operation, generation, slot. The kernel gets it instead of an
// address, so an answer that comes late finds nobody rather than somebody else.
class Token {
  public:
    static constexpr std::uint32_t slots_max = 1U << 24;

    // REQUIRES: name.slot < slots_max
    Token(Question question, SlotName name) noexcept
        : raw_(std::uint64_t{name.generation} << 32 | std::uint64_t{name.slot} << 8 |
               static_cast<std::uint64_t>(question)) {
        SLUICE_CHECK(name.slot < slots_max);
    }
    explicit Token(std::uint64_t raw) noexcept : raw_(raw) {}

    Question question() const noexcept { return static_cast<Question>(raw_ & 0xff); }
    SlotName name() const noexcept {
        return {static_cast<std::uint32_t>(raw_ >> 8 & (slots_max - 1)),
                static_cast<std::uint32_t>(raw_ >> 32)};
    }
    std::uint64_t raw() const noexcept { return raw_; }
    bool operator==(const Token&) const = default;

  private:
    std::uint64_t raw_;
};

// One answer.
struct Completion {
    Token token{0};
    // accept: a descriptor, which now belongs to the receiver, or -errno.
    // watch: events that came or hold (POLLIN, POLLOUT, POLLRDHUP, POLLERR, POLLHUP), or -errno. Not all that
    // hold: io_uring passes on what the wake-up was about, so a missing bit means nothing.
    // carry: how many bytes were taken, or -errno.
    // A cancelled question is answered -ECANCELED.
    int result = 0;
    // The question stands and will be answered again. False: this was the last answer, and the token is free.
    bool more = false;
};

// A send for carry().
struct Send {
    int fd = -1;
    std::span<const std::byte> bytes;
    Token token{0};
};

// Takes questions and returns answers; knows no session and touches no byte (it may take some along). One
// thread uses it.
//
// Every question is answered a last time (`more` false), be it because it was cancelled: only then may the
// descriptor it names be closed. Destroying a reactor drops the questions that are still out.
class Reactor {
  public:
    virtual ~Reactor() = default;

    // Accept clients on a listening socket until cancelled or until it fails (EMFILE and its like): then the
    // backlog is kept, and asking again at once would spin. Accepted descriptors are non-blocking and
    // close-on-exec.
    virtual void accept(int listening_fd, Token token) = 0;

    // Tell of events, edge-triggered: what holds now once, then each change. A partial read brings no new
    // event.
    virtual void watch(int fd, Token token) = 0;

    // The same of readability and errors only. Of a datagram socket that sends, whose kernel calls it
    // writable anew with each datagram that has left.
    virtual void watch_readable(int fd, Token token) = 0;

    // Takes sends along when it enters the kernel to wait the next time, which saves them a system call. They
    // do not wait, and are over when wait() returns: neither bytes nor descriptors are lent for longer. Only
    // if the kernel did not take everything is there an answer, and then among those of that same wait(). All
    // or none; false: this reactor cannot, or not now.
    virtual bool carry(std::span<const Send> sends) noexcept = 0;

    // Wish that a question ends. Its own last answer says that it did.
    virtual void cancel(int fd, Token token) = 0;

    // Passes the questions on and returns the answers there are, waiting for the first until `deadline`
    // (time_never: as long as it takes; a time that has passed: not at all). May return none early.
    virtual std::size_t wait(std::span<Completion> answers, Time deadline) = 0;

    virtual const char* name() const noexcept = 0;  // "io_uring", "epoll"
};

// An io_uring of the calling thread, which must be the one to use it. The error says what the system answered
// and what could be done about it. `sockets_max` sizes the completion queue.
std::expected<std::unique_ptr<Reactor>, std::string> open_uring_reactor(std::uint32_t sockets_max);

std::expected<std::unique_ptr<Reactor>, std::string> open_epoll_reactor(std::uint32_t sockets_max);

// Whether io_uring works here: creates a ring and runs one operation of each kind that the reactor needs.
// The error is the reason in a sentence.
std::expected<void, std::string> probe_uring();

}  // namespace sluice

#pragma once

#include "sluice/flow/calls.hpp"
#include "sluice/flow/flow.hpp"

#include <array>
#include <cstddef>
#include <memory>
#include <span>

namespace sluice {

// What many flows do together at the beginning of a turn: one system call reads from all their sources, and
// one sends to all their targets what was read. 64 round trips that take 256 system calls one by one take
// four.
//
// A round only begins: what it leaves (a source with more, a target that took less than all, an end) is each
// flow's own to go on with, by advance(), before anybody runs the next round. One per worker.
class Round {
  public:
    static constexpr std::size_t flows_max = Calls::calls_max;
    // What one read of a round takes. Flows with larger reads gain nothing by sharing a system call.
    static constexpr std::size_t read_bytes_max = 16 * 1024;

    // Throws std::bad_alloc. Pages that no read has reached cost nothing.
    Round();

    bool full() const noexcept { return count_ == flows_max; }

    // REQUIRES: !full(), and flow.joins_round(source, target). They stay where they are until run().
    void add(Flow& flow, Socket& source, Socket& target) noexcept;

    // Reads for all that were added. True: nothing is left to read, so nobody has anything to do before
    // somebody has news, and the sends may go to the kernel with the wait for that.
    bool read(Lane& lane) noexcept;

    // Sends what was read.
    void send(Lane& lane) noexcept;

    // Or: who sends what instead, ...
    std::span<const SocketCall> sends() const noexcept { return std::span(calls_).first(senders_); }
    // ... what the index-th send was answered if it did not take everything (a count, or -errno), ...
    void answer(std::size_t index, std::ptrdiff_t result) noexcept;
    // ... and that all are over.
    void sent(Lane& lane) noexcept;

  private:
    struct Member {
        Flow* flow;
        Socket* source;
        Socket* target;
    };
    // Not a multiple of the page: the beginnings of all reads would share a few cache lines (sets).
    static constexpr std::size_t stride = read_bytes_max + 576;

    std::unique_ptr<std::byte[]> memory_;
    std::array<Member, flows_max> members_;
    std::array<SocketCall, flows_max> calls_;
    std::size_t count_ = 0;    // members that were added
    std::size_t senders_ = 0;  // after read(): those with something to send, at the front
};

}  // namespace sluice

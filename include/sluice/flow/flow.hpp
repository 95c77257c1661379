#pragma once

#include "sluice/flow/channel.hpp"
#include "sluice/net/owned_fd.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

namespace sluice {

// What stands on the upstream's side of a session.
enum class FileRole : std::uint8_t {
    none,    // no file: a socket
    served,  // a file that is read to its end; what is sent to it is thrown away
    taking,  // a file that is written; it ends when what is sent to it has
};

// One socket (or file) of a session as its two flows see it: it is the source of one and the target of the
// other.
//
// The flags are what the reactor told last (each socket is watched once, edge-triggered) corrected by what
// the calls answered since. True means "worth trying", false means "the reactor will tell".
struct Socket {
    OwnedFd fd;
    bool stream_of_tcp = false;  // may be spliced; knows RST
    bool readable = false;
    bool writable = false;
    // The reactor told of its FIN while the connection was whole: its stream is whole whatever breaks later.
    // (EPIPE says the same, but the kernel answers a reset that comes after both FINs with ECONNRESET.)
    bool fin_came = false;
    FileRole file = FileRole::none;
    // Of a file that is served: its size when it was opened, which is owed at least.
    std::uint64_t owed = 0;
    // The errno of its broken connection, 0 while whole. Kept here because the kernel tells it only once:
    // a send that was answered ECONNRESET makes the next recv answer 0, which must not pass for a FIN. EPIPE
    // as the first error (of a socket; SpliceChannel::drain() never says it) does speak of a FIN: the reset
    // came after it (TCP in CLOSE_WAIT), or the unix peer has closed in good order; its stream is whole, and
    // only what we send has nowhere to go.
    int error = 0;
};

// What the flows of one worker share for the length of a turn.
struct Lane {
    std::span<std::byte> scratch;  // message_bytes_max
    BlockPool& blocks;
    PipePool& pipes;
    std::uint64_t system_calls = 0;  // that the flows made to move bytes, so far
};

enum class FlowState : std::uint8_t {
    open,      // the source may bring more
    draining,  // the source has ended; the channel still holds bytes for the target
    finished,  // the target was told FIN after the last byte
    broken,    // source or target is gone; what the target has not taken is thrown away
};

// One direction of a session. Moves bytes and never waits.
class Flow {
  public:
    // Why advance() returned.
    enum class Progress : std::uint8_t {
        waiting,  // the source has nothing or the target takes nothing: the reactor will tell
        spent,    // the turn's budget is used up and there may be more: call again soon
        done,     // state() is finished or broken
    };

    // Whether this flow may use pipes at all: decided once, when the session is built.
    void allow_splice(bool allowed) noexcept { splice_allowed_ = allowed; }

    // Bulk is expected: splices from the first read on. REQUIRES: it is allowed to
    void begin_bulky() noexcept { path_ = Path::splice; }

    // The sockets keep the boundaries of messages, so the flow does: decided once, likewise.
    void keep_messages() noexcept { channel_.emplace<MessageChannel>(); }

    // Moves bytes from source to target until one of them would block or about `budget` bytes were moved.
    // The same two sockets each time. Sets their flags from what the calls answer.
    Progress advance(Socket& source, Socket& target, Lane& lane, std::size_t budget) noexcept;

    // Ends the flow without an orderly end and gives back what it holds. Idempotent.
    void abandon(Lane& lane) noexcept;

    FlowState state() const noexcept { return state_; }
    bool done() const noexcept { return state_ == FlowState::finished || state_ == FlowState::broken; }
    bool holds_bytes() const noexcept;
    bool holds_pipe() const noexcept { return std::holds_alternative<SpliceChannel>(channel_); }

    // Whether splicing was given up: the sockets refused it, or urgent data stood in its way.
    bool splice_refused() const noexcept { return splice_refused_; }
    // Whether a bulky read was copied because no pipe was to be had.
    bool pipe_missed() const noexcept { return pipe_missed_; }

    // Bytes that the target's kernel took, by the way they went.
    std::uint64_t bytes_spliced() const noexcept { return bytes_spliced_; }
    std::uint64_t bytes_copied() const noexcept { return bytes_copied_; }
    std::uint64_t bytes() const noexcept { return bytes_spliced_ + bytes_copied_; }
    // Grows with all that the target took, be it an empty message.
    std::uint64_t progress() const noexcept { return bytes() + empty_messages_; }

  private:
    enum class Path : std::uint8_t { copy, splice };

    Transfer fill(Socket& source, Lane& lane, std::size_t bytes_max) noexcept;
    Transfer drain(Socket& target, Lane& lane) noexcept;
    Transfer copy_from(Socket& source, Lane& lane) noexcept;
    Transfer take_message(MessageChannel& message, Socket& source, Lane& lane) noexcept;
    Transfer splice_from(Socket& source, Lane& lane, std::size_t bytes_max) noexcept;
    bool enter_pipe(Lane& lane) noexcept;
    void leave_pipe(Lane& lane) noexcept;
    void give_up_splice(Lane& lane) noexcept;
    void choose_path(std::size_t bytes_read) noexcept;
    void finish(Socket& target, Lane& lane) noexcept;
    Progress rest(Progress why, Socket& target, Lane& lane) noexcept;

    // Where the bytes rest. Exchanged exactly when empty.
    std::variant<CopyChannel, SpliceChannel, MessageChannel> channel_;
    std::uint64_t bytes_spliced_ = 0;
    std::uint64_t bytes_copied_ = 0;
    std::uint32_t empty_messages_ = 0;
    FlowState state_ = FlowState::open;
    Path path_ = Path::copy;  // the one to fill by next time
    bool splice_allowed_ = false;
    bool splice_proven_ = false;  // the target has taken bytes from a pipe before
    bool splice_refused_ = false;
    bool pipe_missed_ = false;
    std::uint8_t streak_ = 0;  // reads in a row that spoke for the other path
};

}  // namespace sluice

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
    // The reactor told of an urgent mark, where every read stops. (One that cannot tell is used with Calls
    // that can: io_uring's.)
    bool urgent_came = false;
    // What came from it was passed on to the end. When the other direction ends, too, the session closes it
    // at once, and that says FIN like a shutdown.
    bool heard_out = false;
    FileRole file = FileRole::none;
    // Of a file that is served: its size when it was opened, which is owed at least.
    std::uint64_t owed = 0;
    // The errno of its broken connection, 0 while whole. Kept here because the kernel tells it only once:
    // a send that was answered ECONNRESET makes the next recv answer 0, which must not pass for a FIN. EPIPE
    // as the first error (of a socket; SpliceChannel::drain() never says it) does speak of a FIN: the reset
    // came after it (TCP in CLOSE_WAIT), or the unix peer has closed in good order; its stream is whole, and
    // only what we send has nowhere to go.
    int error = 0;

    // Whether a receive took the last byte. A read stops early where the queue is empty, at an urgent mark
    // and at a FIN. What came before the read and stops it was told of, or will be told by an event that
    // makes the socket readable anew; so an early stop proves the queue empty as long as nothing was told.
    // (On a broken connection the event has come already, and what follows the last byte is known.)
    bool emptied_by(const Transfer& receive) const noexcept {
        return receive.emptied && stream_of_tcp && error == 0 && !fin_came && !urgent_came;
    }
};

// What the flows of one worker share for the length of a turn.
struct Lane {
    std::span<std::byte> scratch;  // message_bytes_max
    BlockPool& blocks;
    PipePool& pipes;
    Calls& calls;
    std::uint64_t system_calls = 0;  // that the flows made to move bytes, so far
    std::uint64_t bytes = 0;         // that targets took, so far
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

    // The beginning of a turn that many flows have together (Round): one read of the source, one send of what
    // it brought. advance() does the rest. Whether this flow is one for it: its reads are small and copied,
    // and nothing stands in their way.
    bool joins_round(const Socket& source, const Socket& target) const noexcept;
    // Or whether it has nothing to do before an event tells of something.
    bool waits(const Socket& source, const Socket& target) const noexcept;
    // The read that was made for it into memory that is lent until the turn's advance(). True: send_call() is
    // next.
    bool received(const SocketCall& call, Socket& source, Lane& lane) noexcept;
    SocketCall send_call(const Socket& target) const noexcept;
    void sent(const SocketCall& call, Socket& target, Lane& lane) noexcept;

    // Whether splicing is how it goes on: the others go first.
    bool bulky() const noexcept { return path_ == Path::splice; }

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
    void note_fill(const Transfer& filled, Socket& source, Lane& lane) noexcept;
    bool note_drain(const Transfer& drained, Socket& target, Lane& lane) noexcept;
    void note_copied(const Transfer& sent, Socket& target, Lane& lane) noexcept;
    Transfer copy_from(Socket& source, Lane& lane) noexcept;
    Transfer take_message(MessageChannel& message, Socket& source, Lane& lane) noexcept;
    Transfer splice_from(Socket& source, Lane& lane, std::size_t bytes_max) noexcept;
    bool enter_pipe(Lane& lane) noexcept;
    void leave_pipe(Lane& lane) noexcept;
    void give_up_splice(Lane& lane) noexcept;
    void choose_path(std::size_t bytes_read) noexcept;
    void finish(Socket& source, Socket& target, Lane& lane) noexcept;
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
    bool reads_small_ = true;  // the last read fitted into a Round's memory
    bool sent_ = false;        // something, in this turn
    std::uint16_t begun_ = 0;  // what a round read of a source that held more: one read with the next
    std::uint8_t streak_ = 0;  // reads in a row that spoke for the other path
};

}  // namespace sluice

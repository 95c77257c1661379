#include "sluice/flow/flow.hpp"

#include "sluice/base/check.hpp"
#include "sluice/flow/round.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace sluice {

namespace {

// When a flow changes its path. Copy wins below 16 KiB a read, splice above 64 KiB, and between them neither
// wins much (KERNEL.md), so both thresholds stand well inside their own side and a few reads in a row decide.
constexpr std::size_t bulky_read_bytes = 32 * 1024;
constexpr std::size_t chatty_read_bytes = 8 * 1024;
constexpr std::uint8_t bulky_reads_to_promote = 2;
constexpr std::uint8_t chatty_reads_to_demote = 8;

// What a read costs of a turn's budget at least, however little it brings.
constexpr std::size_t read_cost = 256;

// One splice moves at most this much, whatever the pipe would hold.
constexpr std::size_t splice_bytes_max = 1024 * 1024;

}  // namespace

Flow::Progress Flow::advance(Socket& source, Socket& target, Lane& lane, std::size_t budget) noexcept {
    while (!done()) {
        while (holds_bytes()) {
            if (!target.writable) return rest(Progress::waiting, target, lane);
            if (!note_drain(drain(target, lane), target, lane)) return Progress::done;
        }
        if (state_ == FlowState::draining) {
            finish(source, target, lane);
            return Progress::done;
        }
        // A target that takes nothing is not worth reading for: the bytes wait better in the source's socket,
        // where they hold the sender back.
        if (!source.readable || !target.writable) return rest(Progress::waiting, target, lane);
        if (budget == 0) return rest(Progress::spent, target, lane);

        const Transfer filled = fill(source, lane, budget);
        if (filled.outcome == Transfer::Outcome::moved)
            budget -= std::min(budget, std::max(filled.bytes, read_cost));
        note_fill(filled, source, lane);
    }
    return Progress::done;
}

void Flow::note_fill(const Transfer& filled, Socket& source, Lane& lane) noexcept {
    switch (filled.outcome) {
        case Transfer::Outcome::moved: return;
        case Transfer::Outcome::blocked:
            source.readable = false;
            begun_ = 0;  // that read was all
            return;
        case Transfer::Outcome::unsuitable: return give_up_splice(lane);
        case Transfer::Outcome::ended:
            if (source.error != 0 && source.error != EPIPE && !source.fin_came)
                abandon(lane);
            else
                state_ = FlowState::draining;
            return;
        case Transfer::Outcome::broken:
            if (source.error == 0) source.error = filled.error;
            return abandon(lane);
    }
}

// False: the flow is over.
bool Flow::note_drain(const Transfer& drained, Socket& target, Lane& lane) noexcept {
    switch (drained.outcome) {
        case Transfer::Outcome::moved: return true;
        case Transfer::Outcome::blocked: target.writable = false; return true;
        case Transfer::Outcome::unsuitable: give_up_splice(lane); return true;
        case Transfer::Outcome::ended:  // no call that writes says so
        case Transfer::Outcome::broken: break;
    }
    // A unix peer that stopped reading may still be sending: this flow is over, not the socket.
    const bool only_deaf = !target.stream_of_tcp && drained.error == EPIPE;
    if (target.error == 0 && !only_deaf) target.error = drained.error;
    abandon(lane);
    return false;
}

bool Flow::joins_round(const Socket& source, const Socket& target) const noexcept {
    const auto* copy = std::get_if<CopyChannel>(&channel_);
    return copy != nullptr && copy->empty() && state_ == FlowState::open && path_ == Path::copy &&
           reads_small_ && source.readable && target.writable && source.file == FileRole::none &&
           target.file == FileRole::none;
}

bool Flow::waits(const Socket& source, const Socket& target) const noexcept {
    if (done() || !target.writable) return state_ != FlowState::draining || holds_bytes();
    return state_ == FlowState::open && !holds_bytes() && !source.readable;
}

bool Flow::received(const SocketCall& call, Socket& source, Lane& lane) noexcept {
    const Transfer& transfer = call.transfer;
    std::get<CopyChannel>(channel_).received(call);
    if (source.emptied_by(transfer)) source.readable = false;
    reads_small_ = transfer.bytes < call.size;
    if (!reads_small_)
        begun_ = static_cast<std::uint16_t>(transfer.bytes);
    else if (transfer.outcome == Transfer::Outcome::moved)
        choose_path(transfer.bytes);
    note_fill(transfer, source, lane);
    return holds_bytes();
}

SocketCall Flow::send_call(const Socket& target) const noexcept {
    return std::get<CopyChannel>(channel_).send_call(target.fd.get());
}

void Flow::sent(const SocketCall& call, Socket& target, Lane& lane) noexcept {
    std::get<CopyChannel>(channel_).sent(call);
    note_copied(call.transfer, target, lane);
    note_drain(call.transfer, target, lane);
}

void Flow::abandon(Lane& lane) noexcept {
    if (state_ != FlowState::finished) state_ = FlowState::broken;
    if (auto* copy = std::get_if<CopyChannel>(&channel_)) copy->clear(lane.blocks);
    if (auto* message = std::get_if<MessageChannel>(&channel_)) message->clear(lane.blocks);
    leave_pipe(lane);
}

bool Flow::holds_bytes() const noexcept {
    return !std::visit([](const auto& channel) { return channel.empty(); }, channel_);
}

// Reads by the path of the day; what the source says and what the path says of itself are told apart here.
Transfer Flow::fill(Socket& source, Lane& lane, std::size_t bytes_max) noexcept {
    // It has nothing to say but that it has taken everything.
    if (source.file == FileRole::taking) return {Transfer::Outcome::ended};
    if (auto* message = std::get_if<MessageChannel>(&channel_)) return take_message(*message, source, lane);
    const bool by_pipe = path_ == Path::splice && splice_allowed_ && enter_pipe(lane);
    const Transfer transfer = by_pipe ? splice_from(source, lane, bytes_max) : copy_from(source, lane);
    // Somebody cut the file short while it was read: that must not look like all of it. (All that was read
    // has been taken, as only an empty channel is filled.)
    if (transfer.outcome == Transfer::Outcome::ended && source.file == FileRole::served &&
        bytes() < source.owed)
        return {Transfer::Outcome::broken, 0, ENODATA};
    if (transfer.outcome == Transfer::Outcome::moved) choose_path(transfer.bytes);
    return transfer;
}

Transfer Flow::copy_from(Socket& source, Lane& lane) noexcept {
    leave_pipe(lane);
    ++lane.system_calls;
    auto& copy = std::get<CopyChannel>(channel_);
    const auto scratch = lane.scratch.first(copy_bytes_max);
    if (source.file == FileRole::served) return copy.fill_from_file(source.fd.get(), scratch);
    const Transfer transfer = copy.fill(lane.calls, source.fd.get(), scratch);
    if (source.emptied_by(transfer)) source.readable = false;
    return transfer;
}

Transfer Flow::take_message(MessageChannel& message, Socket& source, Lane& lane) noexcept {
    ++lane.system_calls;
    const Transfer first = message.fill(source.fd.get(), lane.scratch);
    // The kernel tells the error of a seqpacket socket before the messages that came ahead of it (once), and
    // of a stream after them. Noted, so that the end that follows them does not pass for a FIN.
    if (first.outcome != Transfer::Outcome::broken || first.error == EMSGSIZE || source.error != 0)
        return first;
    source.error = first.error;
    ++lane.system_calls;
    return message.fill(source.fd.get(), lane.scratch);
}

// Splices; and before it believes that there is nothing, asks again. Splice does not see what waits behind an
// urgent mark or in the queue of a BPF sockmap, and answers EAGAIN or a false end. One poll for each wake-up
// of a bulky flow: one more system call beside the splices of a few hundred KiB.
Transfer Flow::splice_from(Socket& source, Lane& lane, std::size_t bytes_max) noexcept {
    // The first fill is a trial: should the target not take splices, this much can still be copied on.
    const std::size_t most =
        splice_proven_ ? std::clamp(bytes_max, copy_bytes_max, splice_bytes_max) : copy_bytes_max;
    auto& pipe = std::get<SpliceChannel>(channel_);
    const auto sees_nothing = [](const Transfer& answer) {
        return answer.outcome == Transfer::Outcome::blocked || answer.outcome == Transfer::Outcome::ended;
    };
    ++lane.system_calls;
    const Transfer first = pipe.fill(source.fd.get(), most);
    if (!sees_nothing(first) || source.file != FileRole::none) return first;
    ++lane.system_calls;
    if (first.outcome == Transfer::Outcome::blocked && !readable_now(source.fd.get())) return first;
    // Something is there now, but it may have come since: only who still does not see it cannot see it.
    ++lane.system_calls;
    const Transfer second = pipe.fill(source.fd.get(), most);
    if (!sees_nothing(second)) return second;
    ++lane.system_calls;
    const Transfer truth = peek(source.fd.get());
    return truth.outcome == Transfer::Outcome::moved ? Transfer{Transfer::Outcome::unsuitable} : truth;
}

Transfer Flow::drain(Socket& target, Lane& lane) noexcept {
    ++lane.system_calls;
    if (auto* pipe = std::get_if<SpliceChannel>(&channel_)) {
        const Transfer transfer = pipe->drain(target.fd.get());
        bytes_spliced_ += transfer.bytes;
        lane.bytes += transfer.bytes;
        sent_ = true;
        if (transfer.outcome == Transfer::Outcome::moved) splice_proven_ = true;
        // A target that changed its mind with more in the pipe than can be copied on: its session is lost.
        if (transfer.outcome == Transfer::Outcome::unsuitable && splice_proven_)
            return {Transfer::Outcome::broken, 0, EINVAL};
        // Nothing would tell when a file that takes nothing takes something.
        if (transfer.outcome == Transfer::Outcome::blocked && target.file != FileRole::none)
            return {Transfer::Outcome::broken, 0, EIO};
        return transfer;
    }
    if (auto* message = std::get_if<MessageChannel>(&channel_)) {
        const Transfer transfer = message->drain(target.fd.get());
        bytes_copied_ += transfer.bytes;
        lane.bytes += transfer.bytes;
        sent_ = true;
        if (message->empty()) {
            message->clear(lane.blocks);
            if (transfer.bytes == 0) ++empty_messages_;
        }
        return transfer;
    }
    auto& copy = std::get<CopyChannel>(channel_);
    if (target.file == FileRole::served) {
        // Nobody wants to hear it; left unread, it would make our end a reset.
        const std::size_t bytes = copy.held();
        copy.clear(lane.blocks);
        return {Transfer::Outcome::moved, bytes};
    }
    const Transfer transfer = target.file == FileRole::taking ? copy.drain_to_file(target.fd.get())
                                                              : copy.drain(lane.calls, target.fd.get());
    note_copied(transfer, target, lane);
    return transfer;
}

void Flow::note_copied(const Transfer& sent, Socket& target, Lane& lane) noexcept {
    auto& copy = std::get<CopyChannel>(channel_);
    bytes_copied_ += sent.bytes;
    lane.bytes += sent.bytes;
    sent_ = true;
    if (copy.empty())
        copy.clear(lane.blocks);
    else if (target.stream_of_tcp && sent.outcome == Transfer::Outcome::moved)
        target.writable =
            false;  // a short send of TCP: its buffer is full, and an event will say when it is not
}

// REQUIRES: !holds_bytes()
bool Flow::enter_pipe(Lane& lane) noexcept {
    if (holds_pipe()) return true;
    std::optional<Pipe> pipe = lane.pipes.lease();
    if (!pipe) {
        pipe_missed_ = true;
        return false;
    }
    channel_.emplace<SpliceChannel>(std::move(*pipe));
    return true;
}

// An empty pipe goes back to the pool; one with bytes in it is destroyed, and they with it.
void Flow::leave_pipe(Lane& lane) noexcept {
    auto* channel = std::get_if<SpliceChannel>(&channel_);
    if (channel == nullptr) return;
    const bool clean = channel->empty();
    Pipe pipe = std::move(*channel).take_pipe();
    channel_.emplace<CopyChannel>();
    if (clean)
        lane.pipes.give_back(std::move(pipe));
    else
        lane.pipes.forfeit(std::move(pipe));
}

// This pair of sockets is copied from now on; what a pipe holds is copied on.
void Flow::give_up_splice(Lane& lane) noexcept {
    splice_allowed_ = false;
    splice_refused_ = true;
    path_ = Path::copy;
    auto* channel = std::get_if<SpliceChannel>(&channel_);
    if (channel == nullptr) return;
    const std::size_t held = channel->held();
    SLUICE_CHECK(held <= lane.scratch.size());  // an unproven pipe was filled with no more
    if (held == 0) return leave_pipe(lane);
    Pipe pipe = std::move(*channel).take_pipe();
    const Transfer taken =
        channel_.emplace<CopyChannel>().fill_from_pipe(pipe.read_end(), lane.scratch.first(held));
    SLUICE_CHECK(taken.bytes == held);
    lane.pipes.give_back(std::move(pipe));
}

void Flow::choose_path(std::size_t bytes_read) noexcept {
    bytes_read += std::exchange(begun_, 0);
    reads_small_ = bytes_read < Round::read_bytes_max;
    const bool speaks_for_the_other =
        path_ == Path::copy ? bytes_read >= bulky_read_bytes : bytes_read < chatty_read_bytes;
    if (!speaks_for_the_other) {
        streak_ = 0;
        return;
    }
    const std::uint8_t enough = path_ == Path::copy ? bulky_reads_to_promote : chatty_reads_to_demote;
    if (++streak_ < enough) return;
    streak_ = 0;
    path_ = path_ == Path::copy && splice_allowed_ ? Path::splice : Path::copy;
}

void Flow::finish(Socket& source, Socket& target, Lane& lane) noexcept {
    leave_pipe(lane);
    // Not with bytes just sent: the target may have answered them with a reset, which only shutdown would
    // notice.
    const bool closed_next = target.heard_out && !sent_ && source.error == 0 && target.error == 0;
    if (target.file == FileRole::none && !closed_next) {
        ++lane.system_calls;
        if (::shutdown(target.fd.get(), SHUT_WR) != 0) {
            // ENOTCONN: the target was reset after it had taken the last byte. It will not learn of the end.
            if (target.error == 0) target.error = errno;
            state_ = FlowState::broken;
            return;
        }
    }
    source.heard_out = true;
    state_ = FlowState::finished;
}

// Before a turn ends: an empty pipe goes back, and bytes leave the scratch memory.
Flow::Progress Flow::rest(Progress why, Socket& target, Lane& lane) noexcept {
    sent_ = false;
    if (holds_pipe()) {
        if (!holds_bytes()) leave_pipe(lane);
        return why;
    }
    auto* copy = std::get_if<CopyChannel>(&channel_);
    auto& memory = copy != nullptr ? static_cast<MemoryChannel&>(*copy) : std::get<MessageChannel>(channel_);
    if (memory.settle(lane.blocks)) return why;
    target.error = ENOMEM;
    abandon(lane);
    return Progress::done;
}

}  // namespace sluice

#include "sluice/session/session.hpp"

#include "sluice/base/check.hpp"
#include "sluice/net/file.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace sluice {

namespace {

// What one flow may move in a turn before the others have theirs.
constexpr std::size_t turn_bytes = 512 * 1024;

bool unanswered(int error) noexcept {
    return error == ETIMEDOUT || error == EHOSTUNREACH || error == ENETUNREACH || error == ENETDOWN;
}

// Takes over what the reactor saw of the socket.
void note_events(Socket& socket, int events) noexcept {
    if ((events & (POLLIN | POLLRDHUP | POLLHUP | POLLERR)) != 0) socket.readable = true;
    if ((events & (POLLOUT | POLLHUP | POLLERR)) != 0) socket.writable = true;
    if ((events & POLLPRI) != 0) socket.urgent_came = true;
    // Taken out now: the other side must not wait for it until this one's turn to be read has come, and the
    // kernel tells it once only, perhaps to a send.
    if ((events & POLLERR) != 0 && socket.error == 0) socket.error = take_error(socket.fd.get());
    // TCP marks an error before it marks the end, so an end without an error is a FIN. Unix sockets do it the
    // other way round.
    if ((events & POLLRDHUP) != 0 && socket.error == 0 && socket.stream_of_tcp) socket.fin_came = true;
}

}  // namespace

Session::Session(SlotName name, OwnedFd client, const SessionKind& kind, Seat seat, Time now) noexcept
    : name_(name), kind_(&kind), started_(now), seat_(std::move(seat)) {
    if (kind.recorded) peer_ = PeerAddress(peer_of(client.get()));
    client_.fd = std::move(client);
    client_.stream_of_tcp = !kind.local;
    // TCP sockets have it from their listener; unix sockets do not inherit it.
    if (!client_.stream_of_tcp) keep_urgent_bytes_in_place(client_.fd.get());
    if (kind.socket_type == SOCK_SEQPACKET) prepare_for_messages(client_.fd.get(), message_bytes_max);
    attempt_.port_offset = kind.port_offset;
}

void Session::start(Services& services) noexcept {
    services.ages.start(*this, kind_->settling, services.now);
    if (services.events.accept) record(SessionRecord::Event::accept, services);
    watch(client_, Question::watch_client, services);
    dial_next(services);
}

void Session::answer(Question question, const Completion& completion, Services& services) noexcept {
    bool& outstanding = watched(question);
    SLUICE_CHECK(outstanding);
    outstanding = completion.more;
    if (state_ == SessionState::closing) return;

    const bool of_client = question == Question::watch_client;
    if (state_ == SessionState::redialing && !of_client) {
        // The socket of the failed dial: only now that nothing names its descriptor may it be closed.
        if (!completion.more) {
            upstream_ = Socket();
            dial_next(services);
        }
        return;
    }
    if (completion.result < 0) {
        error_ = -completion.result;  // the reactor could not watch: no memory, or fs.epoll.max_user_watches
        return close(End::exhausted, services);
    }
    Socket& socket = of_client ? client_ : upstream_;
    note_events(socket, completion.result);
    // The reactor had to drop the question (a full queue): asked anew, it tells what holds by then.
    if (!completion.more) watch(socket, question, services);
    if (of_client)
        client_changed(services);
    else
        upstream_changed(services);
}

bool Session::join(Round& round) noexcept {
    if (state_ != SessionState::relaying) return false;
    const auto joins = [&round](Flow& flow, Socket& source, Socket& target) {
        if (!flow.joins_round(source, target)) return flow.waits(source, target);
        round.add(flow, source, target);
        return true;
    };
    const bool up = joins(upload_, client_, upstream_);
    const bool down = joins(download_, upstream_, client_);
    return up && down && client_.error == 0 && upstream_.error == 0 && !(upload_.done() && download_.done());
}

void Session::enqueue(Services& services) noexcept {
    if (ListNode<RunTag>::linked()) return;
    (upload_.bulky() || download_.bulky() ? services.run_queue : services.ready).push_back(*this);
}

void Session::run(Services& services) noexcept {
    if (state_ == SessionState::redialing) return dial_again(services);
    if (state_ == SessionState::relaying) relay(services);
    if (state_ == SessionState::flushing) flush(services);
}

void Session::age_over(Services& services) noexcept {
    if (settled_ || kind_->settling == kind_->max_age) return end(End::max_age, services);
    settled_ = true;
    if (state_ == SessionState::relaying) keep_upstream_alive();
    // They settle in the order in which they began, which is the order that the list wants.
    services.ages.start(*this, kind_->max_age, started_);
}

void Session::keep_upstream_alive() noexcept {
    if (upstream_.stream_of_tcp) keep_alive(upstream_.fd.get(), kind_->upstream_keepalive);
}

void Session::patience_over(Services& services) noexcept {
    switch (state_) {
        case SessionState::awaiting_address: return close(End::no_backend, services);
        case SessionState::dialing: return abort_dial(End::connect_timeout, ETIMEDOUT, services);
        case SessionState::redialing: return dial_again(services);
        case SessionState::relaying:
            if (slow_reader_moves(services)) return;
            return close(
                half_closed_ && !kind_->idle_when_half_closed ? End::half_closed_timeout : End::idle_timeout,
                services);
        case SessionState::flushing: return flush(services);
        case SessionState::closing: return;
    }
}

// Half-closed, with nothing left to do for us, because the last bytes lie in the kernel for a reader that is
// slow: as long as it takes some in each such time, it is none that has gone away.
bool Session::slow_reader_moves(Services& services) noexcept {
    if (!half_closed_) return false;
    const bool down = download_.state() == FlowState::finished;
    const Socket& reader = down ? client_ : upstream_;
    const std::size_t underway = reader.stream_of_tcp ? unacknowledged(reader.fd.get()) : 0;
    const std::uint64_t sent = down ? download_.bytes() : upload_.bytes();
    const std::uint64_t delivered = sent - std::min<std::uint64_t>(sent, underway);
    if (underway == 0 || delivered <= flush_delivered_) return false;
    flush_delivered_ = delivered;
    services.patience.start(*this, kind_->half_closed, services.now);
    return true;
}

void Session::address_news(Services& services) noexcept {
    SLUICE_CHECK(state_ == SessionState::awaiting_address);
    dial_next(services);
}

void Session::end(End reason, Services& services) noexcept {
    if (state_ == SessionState::closing) return;
    close(reason, services);
}

void Session::report(Services& services) const noexcept {
    if (state_ != SessionState::closing) record(SessionRecord::Event::periodic, services);
}

void Session::connected(Services& services) noexcept {
    state_ = SessionState::relaying;
    connect_took_ = services.now - started_;
    error_ = 0;
    services.patience.start(*this, kind_->idle, services.now);
    choose_paths();
    if (settled_) keep_upstream_alive();
    if (services.events.connect) record(SessionRecord::Event::connect, services);
    enqueue(services);
}

// Which pairs splice, and which are copied, is decided here and nowhere else.
//
//     from \ to        tcp      unix   seqpacket   file
//     tcp              splice   copy               splice (by copy once the file refuses: O_APPEND)
//     unix             copy     copy               copy
//     seqpacket                        message
//     file             splice   copy
//
// Unix sockets could be spliced on 6.18, but some 6.17 and 6.18 kernels panic at it (CVE-2026-22983).
void Session::choose_paths() noexcept {
    if (kind_->socket_type == SOCK_SEQPACKET) {
        upload_.keep_messages();
        download_.keep_messages();
        return;
    }
    const bool of_file = upstream_.file != FileRole::none;
    const bool splice = client_.stream_of_tcp && (upstream_.stream_of_tcp || of_file);
    upload_.allow_splice(splice && upstream_.file != FileRole::served);
    download_.allow_splice(splice && upstream_.file != FileRole::taking);
    if (!of_file) return;
    // Files are bulk from the first byte on.
    upload_.begin_bulky();
    download_.begin_bulky();
}

// --- what the reactor told ---

void Session::client_changed(Services& services) noexcept {
    switch (state_) {
        case SessionState::dialing:
            // The connection may be there already, and only its event not: then what the client sent is owed.
            if (client_.error != 0 && writable_now(upstream_.fd.get()) &&
                (upstream_.error = take_error(upstream_.fd.get())) == 0) {
                upstream_.writable = true;
                return connected(services);
            }
            [[fallthrough]];
        case SessionState::awaiting_address:
        case SessionState::redialing:
            // A FIN may wait in the socket like any byte: half-closing early is normal life. A reset may not.
            if (client_.error == 0) {
                const bool has_news = upstream_.file == FileRole::taking && client_.readable;
                if (has_news && !ListNode<AwaitTag>::linked()) dial_again(services);
                return;
            }
            error_ = client_.error;
            return close(unanswered(error_) ? End::client_lost : End::client_reset, services);
        case SessionState::relaying: return enqueue(services);
        case SessionState::flushing: return flush(services);
        case SessionState::closing: return;
    }
}

void Session::upstream_changed(Services& services) noexcept {
    switch (state_) {
        case SessionState::dialing:
            // A refused handshake says ECONNREFUSED or worse. ECONNRESET and EPIPE speak of a connection that
            // was there, perhaps with bytes in it: that is the relay's business, not the dial's.
            if (upstream_.error != 0 && upstream_.error != ECONNRESET && upstream_.error != EPIPE)
                return abort_dial(upstream_.error == ETIMEDOUT ? End::connect_timeout : End::connect_failed,
                                  upstream_.error, services);
            if (upstream_.writable) connected(services);
            return;
        case SessionState::relaying: return enqueue(services);
        case SessionState::flushing: return flush(services);
        case SessionState::awaiting_address:
        case SessionState::redialing:
        case SessionState::closing: check_failed("an answer about an upstream that is not there");
    }
}

// --- relaying ---

void Session::relay(Services& services) noexcept {
    const Flow::Progress uploaded = upload_.advance(client_, upstream_, services.lane, turn_bytes);
    note_half_close(services);
    // A file that has taken everything says so.
    if (upstream_.file == FileRole::taking && upload_.state() == FlowState::finished)
        upstream_.readable = true;
    const Flow::Progress downloaded = download_.advance(upstream_, client_, services.lane, turn_bytes);
    note_half_close(services);

    if (client_.error != 0 || upstream_.error != 0) return break_off(services);
    if (upload_.done() && download_.done()) return close_done(services);

    const std::uint64_t progress = upload_.progress() + download_.progress();
    if (std::exchange(progress_seen_, progress) != progress) services.patience.touch(*this, services.now);
    if ((uploaded == Flow::Progress::spent || downloaded == Flow::Progress::spent) &&
        !ListNode<RunTag>::linked())
        services.run_queue.push_back(*this);
}

// The first flow that finishes makes the session half-closed; whose FIN it was, is how an orderly end is
// named.
void Session::note_half_close(Services& services) noexcept {
    if (half_closed_) return;
    const bool by_client = upload_.state() == FlowState::finished;
    if (!by_client && download_.state() != FlowState::finished) return;
    half_closed_ = true;
    end_ = by_client ? End::client_fin : End::upstream_fin;
    services.patience.start(*this, kind_->half_closed, services.now);
    // From now on what the reader has taken of it counts.
    const Socket& reader = by_client ? upstream_ : client_;
    const std::uint64_t sent = by_client ? upload_.bytes() : download_.bytes();
    flush_delivered_ =
        sent - std::min<std::uint64_t>(sent, reader.stream_of_tcp ? unacknowledged(reader.fd.get()) : 0);
}

// Both flows are over, and no socket broke. A flow can still be broken: its unix target had stopped reading.
void Session::close_done(Services& services) noexcept {
    if (upload_.state() == FlowState::finished && download_.state() == FlowState::finished)
        return close(end_, services);
    error_ = EPIPE;
    close(upload_.state() == FlowState::broken ? End::upstream_reset : End::client_reset, services);
}

// One side is gone. What it sent before is still owed to the other; what the other sends has nowhere to go.
void Session::break_off(Services& services) noexcept {
    // Our own want of memory, or a socket that no longer takes splices with more in the pipe than can be
    // copied on: nobody is gone, but bytes are, and both sides must see it.
    for (const int error : {client_.error, upstream_.error}) {
        if (error != ENOMEM && error != ENOBUFS && error != EINVAL && error != EMSGSIZE) continue;
        error_ = error;
        return close(error == EMSGSIZE ? End::oversized : End::exhausted, services);
    }
    const bool client_broke = client_.error != 0;
    error_ = client_broke ? client_.error : upstream_.error;
    if (client_broke)
        end_ = unanswered(error_) ? End::client_lost : End::client_reset;
    else if (upstream_.file != FileRole::none)
        end_ = End::file_failed;
    else
        end_ = unanswered(error_) ? End::upstream_lost : End::upstream_reset;
    state_ = SessionState::flushing;
    give_up_at_ = services.now + flush_max;
    flush_delivered_ = 0;
    Socket& broken = client_broke ? client_ : upstream_;
    // Its event may not have come yet: a send may have been the first to know.
    broken.readable = true;
    flush(services);
}

// Delivers the rest, waits (bounded) until the target's kernel has it, and only then passes the reset on: a
// reset throws away what is still queued.
void Session::flush(Services& services) noexcept {
    const bool client_broke = client_.error != 0;
    if (client_broke && upstream_.error != 0) return close(end_, services);
    Socket& broken = client_broke ? client_ : upstream_;
    Socket& target = client_broke ? upstream_ : client_;
    Flow& rest = client_broke ? upload_ : download_;
    Flow& moot = client_broke ? download_ : upload_;
    moot.abandon(services.lane);

    const Flow::Progress progress = rest.advance(broken, target, services.lane, turn_bytes);
    if (target.error != 0) return close(end_, services);
    const std::size_t underway = target.stream_of_tcp ? unacknowledged(target.fd.get()) : 0;
    if (rest.done() && underway == 0) return close(end_, services);

    // A slow reader gets it all; one that takes nothing for flush_max does not.
    const std::uint64_t delivered = rest.bytes() - std::min<std::uint64_t>(rest.bytes(), underway);
    const bool moving = delivered > flush_delivered_;
    if (moving) {
        flush_delivered_ = delivered;
        give_up_at_ = services.now + flush_max;
    }
    if (services.now >= give_up_at_) return close(end_, services);
    if (progress == Flow::Progress::spent && !ListNode<RunTag>::linked()) services.run_queue.push_back(*this);
    services.patience.start(*this, moving ? services.flush_class : services.flush_stalled_class,
                            services.now);
}

// --- the end ---

// The one way into `closing`. The descriptors stay until the session is retired: a question may still name
// them.
void Session::close(End reason, Services& services) noexcept {
    SLUICE_CHECK(state_ != SessionState::closing);
    state_ = SessionState::closing;
    end_ = reason;
    services.patience.stop(*this);
    services.ages.stop(*this);
    ListNode<RunTag>::unlink();
    ListNode<AwaitTag>::unlink();
    if (upstream_.file == FileRole::taking) pass_on_file(services);
    upload_.abandon(services.lane);
    download_.abandon(services.lane);
    // What did not end in good order must not look as if it had. On a connection that is dead already it is
    // moot.
    if (!orderly(reason)) {
        if (client_.stream_of_tcp) reset_on_close(client_.fd.get());
        if (upstream_.fd.valid() && upstream_.stream_of_tcp) reset_on_close(upstream_.fd.get());
    }
    if (client_watched_) services.reactor.cancel(client_.fd.get(), Token(Question::watch_client, name_));
    if (upstream_watched_)
        services.reactor.cancel(upstream_.fd.get(), Token(Question::watch_upstream, name_));

    services.counters.ends[static_cast<std::size_t>(reason)].add(1);
    services.counters.spliced_bytes.add(upload_.bytes_spliced() + download_.bytes_spliced());
    services.counters.copied_bytes.add(upload_.bytes_copied() + download_.bytes_copied());
    if (services.events.close) record(SessionRecord::Event::close, services);
}

void Session::watch(Socket& socket, Question question, Services& services) noexcept {
    bool& outstanding = watched(question);
    SLUICE_CHECK(!outstanding);
    outstanding = true;
    services.reactor.watch(socket.fd.get(), Token(question, name_));
}

bool& Session::watched(Question question) noexcept {
    SLUICE_CHECK(question == Question::watch_client || question == Question::watch_upstream);
    return question == Question::watch_client ? client_watched_ : upstream_watched_;
}

void Session::record(SessionRecord::Event event, Services& services) const noexcept {
    SessionRecord record;
    record.event = event;
    record.end = end_;
    record.path_reason = path_reason();
    record.error = orderly(end_) ? 0 : error_;
    record.time = std::chrono::system_clock::now();
    record.listener = kind_->listener;
    record.pool = &kind_->pool->settings();
    if (attempt_.backend != Pool::Attempt::none)
        record.backend = kind_->pool->backend(attempt_.backend).settings;
    record.client = peer_;
    record.reached = PeerAddress(local_address_of(client_.fd.get()));
    record.bind = kind_->bind;
    record.upload_bytes = upload_.bytes();
    record.download_bytes = download_.bytes();
    record.spliced_bytes = upload_.bytes_spliced() + download_.bytes_spliced();
    record.duration = services.now - started_;
    record.connect = connect_took_;
    services.records.push(services.worker, record);
}

PathReason Session::path_reason() const noexcept {
    if (upload_.bytes_spliced() + download_.bytes_spliced() > 0) return PathReason::bulk;
    if (kind_->socket_type == SOCK_SEQPACKET) return PathReason::messages;
    const bool of_file = upstream_.file != FileRole::none;
    if (!client_.stream_of_tcp || (upstream_.fd.valid() && !of_file && !upstream_.stream_of_tcp))
        return PathReason::unix_socket;
    if (upload_.splice_refused() || download_.splice_refused()) return PathReason::not_spliceable;
    if (upload_.pipe_missed() || download_.pipe_missed()) return PathReason::no_pipe;
    return PathReason::small_reads;
}

}  // namespace sluice

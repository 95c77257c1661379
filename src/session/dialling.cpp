#include "sluice/base/check.hpp"
#include "sluice/net/file.hpp"
#include "sluice/session/session.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

// How a session comes to its upstream: Session's dial_next() and what it stands on.

namespace sluice {

// Dials the next address of the pool, until one is under way or nothing is left.
void Session::dial_next(Services& services) noexcept {
    ListNode<AwaitTag>::unlink();
    while (true) {
        const Pool::Choice choice = kind_->pool->choose(attempt_);
        switch (choice.next) {
            case Pool::Next::none: return close(end_, services);
            case Pool::Next::pending:
                state_ = SessionState::awaiting_address;
                // Asked again at every news, but with one patience for the whole wait.
                if (!DeadlineNode<PatienceTag>::linked())
                    services.patience.start(*this, kind_->connect, services.now);
                services.awaiting.push_back(*this);
                return;
            case Pool::Next::address: break;
        }
        give_up_at_ = kind_->listener->timeouts.connect > Milliseconds(0)
                          ? services.now + kind_->listener->timeouts.connect
                          : time_never;
        state_ = SessionState::dialing;
        if (dial_target(choice.target, services) != Dialled::failed) return;
        upstream_ = Socket();
    }
}

Session::Dialled Session::dial_target(const SocketAddress& target, Services& services) noexcept {
    const Endpoint& endpoint = kind_->pool->chosen(attempt_).address;
    if (endpoint.kind == Endpoint::Kind::file) return open_upstream_file(endpoint, services);
    auto fd = open_socket(target, kind_->socket_type, kind_->upstream_options);
    if (!fd) {
        if (no_descriptor_or_memory(fd.error().number)) return starve(fd.error().number, services);
        error_ = fd.error().number;
        end_ = End::connect_failed;
        return Dialled::failed;
    }
    upstream_.fd = std::move(*fd);
    if (kind_->socket_type == SOCK_SEQPACKET) prepare_for_messages(upstream_.fd.get(), message_bytes_max);
    upstream_.stream_of_tcp = target.family() != AF_UNIX;
    return dial_upstream(target, services);
}

// A file takes the bytes of one session at a time, so that each stands there whole; the others wait.
Session::Dialled Session::open_upstream_file(const Endpoint& file, Services& services) noexcept {
    const auto failed = [this](int error) {
        end_ = End::file_failed;
        error_ = error;
        return Dialled::failed;
    };
    if (!upstream_.fd.valid()) {
        auto fd = open_file(file);
        const int error = fd ? 0 : fd.error().number;
        if (no_descriptor_or_memory(error)) return starve(error, services);
        if (error != 0 && error != EWOULDBLOCK) return failed(error);
        if (upstream_.file == FileRole::none) {
            upstream_.file = file.is_sink() ? FileRole::taking : FileRole::served;
            // As long as a session may be idle: nothing is wrong, it is another one's turn.
            const Milliseconds idle = kind_->listener->timeouts.idle;
            give_up_at_ = idle > Milliseconds(0) ? services.now + idle : time_never;
        }
        if (error == EWOULDBLOCK) {
            // Somebody has a lease on it (F_SETLEASE; Samba and NFS servers do), and was told just now to
            // give it up; the kernel takes it away after fs.lease-break-time. Nothing tells when.
            state_ = SessionState::redialing;
            services.patience.start(*this, services.flush_stalled_class, services.now);
            return Dialled::under_way;
        }
        upstream_.fd = std::move(*fd);
        if (!file.is_sink()) upstream_.owed = size_of_file(upstream_.fd.get());
    }
    // It has nothing to write yet: a silent client keeps no file from the others.
    if (upstream_.file == FileRole::taking && !client_.readable) {
        state_ = SessionState::redialing;
        services.patience.start(*this, kind_->idle, services.now);
        return Dialled::under_way;
    }
    if (upstream_.file == FileRole::taking) {
        const int error = claim_file(upstream_.fd.get());
        if (error == EWOULDBLOCK) {
            state_ = SessionState::redialing;
            if (!ListNode<AwaitTag>::linked()) services.awaiting_file.push_back(*this);
            // A session of this worker passes the file on; only of the others nothing tells. Many who look
            // often are a busy worker.
            const bool first = &services.awaiting_file.front() == this;
            services.patience.start(*this, first ? services.flush_class : services.flush_stalled_class,
                                    services.now);
            return Dialled::under_way;
        }
        if (error != 0) return failed(error);
        // While it waited (or between open and flock), somebody may have put another file there: what is
        // written to the old one would be lost.
        if (!still_named(upstream_.fd.get(), file)) {
            upstream_ = Socket();
            state_ = SessionState::redialing;
            services.patience.start(*this, services.flush_class, services.now);
            return Dialled::under_way;
        }
        ListNode<AwaitTag>::unlink();
    }
    // Nothing ever tells of a file: it is always ready. One that takes says nothing until it has taken all.
    upstream_.writable = true;
    upstream_.readable = upstream_.file == FileRole::served;
    connected(services);
    return Dialled::under_way;
}

bool Session::shares_file_with(const Session& other) const noexcept {
    return kind_->pool == other.kind_->pool && attempt_.backend == other.attempt_.backend;
}

// The file is the next one's, who need not find out by looking again.
void Session::pass_on_file(Services& services) noexcept {
    release_file(upstream_.fd.get());
    Session* next =
        services.awaiting_file.find([this](const Session& each) { return each.shares_file_with(*this); });
    if (next != nullptr && !next->ListNode<RunTag>::linked()) services.run_queue.push_back(*next);
}

// REQUIRES: the upstream socket is new, or was found busy
Session::Dialled Session::dial_upstream(const SocketAddress& target, Services& services) noexcept {
    const Dial dialled = dial(upstream_.fd.get(), target);
    switch (dialled.state) {
        case Dial::State::connected:
        case Dial::State::under_way:
            state_ = SessionState::dialing;
            watch(upstream_, Question::watch_upstream, services);
            services.patience.start(*this, kind_->connect, services.now);
            return Dialled::under_way;
        case Dial::State::busy:
            state_ = SessionState::redialing;
            services.patience.start(*this, services.flush_class, services.now);
            return Dialled::under_way;
        case Dial::State::failed:
            if (no_descriptor_or_memory(dialled.error)) {
                upstream_ = Socket();
                return starve(dialled.error, services);
            }
            end_ = End::connect_failed;
            error_ = dialled.error;
            return Dialled::failed;
    }
    check_failed("a Dial::State nobody handles");
}

// No descriptor (or memory) for the upstream socket. Others may end and free some, so the session waits as
// long as a dial may take. But where clients have taken all there is, nobody would ever dial: of several that
// starve in one turn, one gives up what it has, and the next one dials with it.
Session::Dialled Session::starve(int error, Services& services) noexcept {
    services.lane.pipes.drop_idle();
    const bool among_others = std::exchange(services.starved, true);
    const bool shed = among_others && state_ == SessionState::redialing && services.shed_at != services.now;
    if (shed || services.now >= give_up_at_) {
        services.shed_at = services.now;
        error_ = error;
        close(End::exhausted, services);
        return Dialled::ended;
    }
    state_ = SessionState::redialing;
    services.patience.start(*this, services.flush_class, services.now);
    return Dialled::under_way;
}

// A dial that had to wait: for a unix socket whose queue was full, for another's turn at a file, or for a
// descriptor.
void Session::dial_again(Services& services) noexcept {
    const bool of_file = upstream_.file != FileRole::none;
    const bool busy = upstream_.fd.valid() || of_file;  // a leased file has no descriptor yet
    if (busy && services.now >= give_up_at_) {
        if (of_file) return close(End::idle_timeout, services);
        return abort_dial(End::connect_timeout, EAGAIN, services);
    }
    // One has found out already in this turn that there is still none, and one has given up what it had.
    if (!busy && services.starved && services.shed_at == services.now && services.now < give_up_at_)
        return services.patience.start(*this, services.flush_class, services.now);
    const SocketAddress target = kind_->pool->current(attempt_);
    const Dialled dialled =
        busy && !of_file ? dial_upstream(target, services) : dial_target(target, services);
    if (dialled == Dialled::failed) abort_dial(end_, error_, services);
}

// This dial is over without success: on to the next, as soon as nothing names the socket any more.
void Session::abort_dial(End reason, int error, Services& services) noexcept {
    end_ = reason;
    error_ = error;
    services.patience.stop(*this);
    if (upstream_watched_) {
        state_ = SessionState::redialing;
        services.reactor.cancel(upstream_.fd.get(), Token(Question::watch_upstream, name_));
        return;
    }
    upstream_ = Socket();
    dial_next(services);
}

}  // namespace sluice

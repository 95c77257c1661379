#include "sluice/relay/worker.hpp"

#include "sluice/base/check.hpp"
#include "sluice/base/errors.hpp"
#include "sluice/config/socket_options.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace sluice {

namespace {

// After accept ran out of descriptors or memory. The clients wait in the queue meanwhile.
constexpr Nanoseconds accept_pause = std::chrono::milliseconds(100);
constexpr Nanoseconds warning_interval = std::chrono::seconds(10);
constexpr std::uint64_t bulk_bytes_of_a_turn = 512 * 1024;
constexpr std::uint32_t reports_of_a_turn = 1024;  // slots looked at for periodic lines

constexpr SlotName the_doorbell{0, 1};

// Listeners are not in the slab; they never change places, and one generation does.
Token listener_token(std::size_t index) noexcept {
    return Token(Question::accept, {static_cast<std::uint32_t>(index), 1});
}

void run_on_cpu(int cpu) noexcept {
    if (cpu < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu), &set);
    // A wish: a container may have lost the CPU since it was counted.
    ::pthread_setaffinity_np(::pthread_self(), sizeof(set), &set);
}

}  // namespace

std::expected<std::unique_ptr<Worker>, std::string> Worker::open(Plan plan) {
    OwnedFd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!doorbell.valid()) return std::unexpected(fmt::format("eventfd: {}", explain_errno(errno)));
    try {
        return std::unique_ptr<Worker>(new Worker(std::move(plan), std::move(doorbell)));
    } catch (const std::bad_alloc&) {
        return std::unexpected("no memory for the table of sessions; lower sessions_max");
    }
}

Worker::Worker(Plan plan, OwnedFd doorbell)
    : plan_(std::move(plan)),
      doorbell_(std::move(doorbell)),
      scratch_(std::make_unique_for_overwrite<std::byte[]>(message_bytes_max)),
      pipes_(plan_.pipe_budget),
      sessions_(std::make_unique<Slab<Session>>(plan_.sessions_max)) {
    for (const config::Pool& pool : plan_.config->pools) pools_.emplace_back(pool);
}

Worker::~Worker() {
    services_.reset();
    reactor_.reset();
}

void Worker::run(std::promise<std::expected<void, std::string>> started) {
    ::pthread_setname_np(::pthread_self(), fmt::format("sluice-{}{}", plan_.name, plan_.index).c_str());
    run_on_cpu(plan_.cpu);
    auto reactor = plan_.open_reactor();
    if (!reactor) return started.set_value(std::unexpected(reactor.error()));
    reactor_ = std::move(*reactor);
    auto calls = plan_.open_calls();
    if (!calls) return started.set_value(std::unexpected(calls.error()));
    calls_ = std::move(*calls);
    services_.reset(new Services{.reactor = *reactor_,
                                 .lane = {{scratch_.get(), message_bytes_max}, blocks_, pipes_, *calls_},
                                 .patience = {},
                                 .ages = {},
                                 .ready = {},
                                 .run_queue = {},
                                 .awaiting = {},
                                 .awaiting_file = {},
                                 .counters = counters_,
                                 .records = *plan_.records,
                                 .worker = plan_.index,
                                 .events = plan_.config->access_log.enabled
                                               ? plan_.config->access_log.events
                                               : config::AccessEvents{.close = false},
                                 .flush_class = 0,
                                 .flush_stalled_class = 0,
                                 .now = Clock::now()});
    services_->flush_class = services_->patience.class_of(flush_interval);
    services_->flush_stalled_class = services_->patience.class_of(flush_stalled_interval);
    for (Listening& listening : plan_.listening) {
        const config::Timeouts& timeouts = listening.listener->timeouts;
        Pool& pool = pools_[listening.pool];
        const bool idle_is_shorter =
            timeouts.idle > Milliseconds(0) &&
            (timeouts.half_closed == Milliseconds(0) || timeouts.idle < timeouts.half_closed);
        SessionKind kind{.listener = listening.listener,
                         .pool = &pool,
                         .socket_type = listening.socket_type,
                         .port_offset = listening.port_offset,
                         .bind = listening.bind,
                         .local = local_address_of(listening.socket.get()).family() == AF_UNIX,
                         .recorded = services_->events.any(),
                         .upstream_options = config::socket_options(pool.settings().tcp),
                         .upstream_keepalive = config::socket_options(pool.settings().tcp),
                         .connect = services_->patience.class_of(timeouts.connect),
                         .idle = services_->patience.class_of(timeouts.idle),
                         .half_closed = services_->patience.class_of(idle_is_shorter ? timeouts.idle
                                                                                     : timeouts.half_closed),
                         .settling = services_->ages.class_of(settling_time),
                         .max_age = services_->ages.class_of(timeouts.max_age),
                         .idle_when_half_closed = idle_is_shorter};
        kind.upstream_options.keepalive_idle_s = 0;
        kind.upstream_options.reuse_address = plan_.listens_on_ephemeral_ports;
        // Nobody that old will ever settle.
        if (timeouts.max_age > Milliseconds(0) && timeouts.max_age <= settling_time)
            kind.settling = kind.max_age;
        listeners_.push_back({std::move(listening), kind});
    }
    for (std::size_t index = 0; index < listeners_.size(); ++index) arm(index);
    watch_doorbell();
    try {
        open_datagrams();
    } catch (const std::bad_alloc&) {
        return started.set_value(
            std::unexpected("no memory for the table of datagram sessions; lower sessions_max"));
    }
    started.set_value({});

    if (services_->events.periodic) report_at_ = services_->now + plan_.config->access_log.interval;

    // From here on nothing allocates but control work.
    while (!finished()) turn();
}

void Worker::open_datagrams() {
    if (plan_.datagrams.empty()) return;
    std::vector<DatagramTable::Listening> listening;
    for (auto& each : plan_.datagrams) {
        Pool& pool = pools_[each.pool];
        const bool local = local_address_of(each.socket.get()).family() == AF_UNIX;
        listening.push_back({std::move(each.socket), each.listener, &pool, each.sessions, each.wanted,
                             config::socket_options(pool.settings().tcp), local, each.port_offset,
                             each.bind});
    }
    datagrams_ = std::make_unique<DatagramTable>(
        DatagramServices{*reactor_, counters_, *plan_.records, plan_.index, services_->events,
                         *plan_.sessions, plan_.sessions_max, *plan_.wishes, plan_.workers},
        std::move(listening));
    datagrams_->start(services_->now);
}

void Worker::turn() {
    const std::size_t count = reactor_->wait(answers_, next_deadline());
    ++services_->lane.system_calls;
    services_->now = Clock::now();
    const auto answers = std::span(answers_).first(count);
    end_round(answers);
    for (const Completion& completion : answers) dispatch(completion);
    if (datagrams_ != nullptr) datagrams_->run(services_->now);
    const bool calm = next_deadline() > services_->now;
    run_ready(calm);
    if (!calm) {
        run_queued();
        expire();
    }
    if (std::exchange(services_->starved, false)) pause_accepting();
    counters_.sessions_now.set(sessions_->size() + (datagrams_ != nullptr ? datagrams_->size() : 0));
    counters_.system_calls.set(services_->lane.system_calls +
                               (datagrams_ != nullptr ? datagrams_->system_calls() : 0));
    counters_.pipe_bytes.set(pipes_.leased_bytes());
    counters_.pipe_refusals.set(pipes_.refusals());
}

Time Worker::next_deadline() noexcept {
    if (!services_->run_queue.empty()) return Time::min();
    const Time datagrams = datagrams_ != nullptr ? datagrams_->next() : time_never;
    return std::min(
        {services_->patience.next(), services_->ages.next(), resume_at_, drain_at_, report_at_, datagrams});
}

void Worker::dispatch(const Completion& completion) noexcept {
    const Token token = completion.token;
    switch (token.question()) {
        case Question::accept: return on_accept(token.name().slot, completion);
        case Question::doorbell:
            doorbell_watched_ = completion.more;
            if (!completion.more && completion.result >= 0) watch_doorbell();
            // Where it cannot be watched (no memory, fs.epoll.max_user_watches), it is looked at now and
            // then.
            if (!doorbell_watched_) resume_at_ = std::min(resume_at_, services_->now + accept_pause);
            return answer_doorbell();
        case Question::watch_datagrams:
        case Question::watch_datagram_upstream:
            SLUICE_CHECK(datagrams_ != nullptr);
            return datagrams_->answer(completion, services_->now);
        case Question::carry: return;  // end_round() has heard it
        case Question::watch_client:
        case Question::watch_upstream: break;
    }
    Session* session = sessions_->find(token.name());
    if (session == nullptr) return counters_.stale_completions.add(1);
    session->answer(token.question(), completion, *services_);
    retire_if_quiet(*session);
}

// --- clients ---

void Worker::arm(std::size_t index) {
    Listener& listener = listeners_[index];
    listener.accepting = Accepting::armed;
    reactor_->accept(listener.listening.socket.get(), listener_token(index));
}

// After a pause. Sessions that wait for a descriptor come before clients who wait in the queue.
void Worker::resume(std::size_t index) {
    if (draining_) return close_listener(listeners_[index]);
    if (!services_->starved) return arm(index);
    resume_at_ = services_->now + accept_pause;
}

void Worker::on_accept(std::size_t index, const Completion& completion) {
    SLUICE_CHECK(index < listeners_.size());
    Listener& listener = listeners_[index];
    if (completion.result >= 0) {
        admit(listener, OwnedFd(completion.result));
        if (completion.more) return;
        return draining_ ? close_listener(listener) : arm(index);
    }
    if (!completion.more) on_accept_failed(listener, index, -completion.result);
}

void Worker::on_accept_failed(Listener& listener, std::size_t index, int error) {
    listener.accepting = Accepting::paused;
    if (draining_) return close_listener(listener);
    if (error == ECONNABORTED || error == EPROTO || error == EINTR)
        return arm(index);  // that client has gone
    // Everything else may go on failing: asked again at once, it would spin.
    resume_at_ = std::min(resume_at_, services_->now + accept_pause);
    counters_.accept_pauses.add(1);
    const bool hint = error == EMFILE || error == ENFILE;
    if (error == EAGAIN || error == ECANCELED || services_->now - warned_pause_at_ < warning_interval) return;
    warned_pause_at_ = services_->now;
    spdlog::warn("listener {}: accept: {}{}; clients wait in the queue, trying again every 100ms",
                 listener.kind.listener->name, std::strerror(error),
                 hint ? " (raise the limit of open files or lower sessions_max)" : "");
}

// Whom we accept now we could not dial for: they wait better in the queue.
void Worker::pause_accepting() {
    if (draining_) return;
    for (std::size_t index = 0; index < listeners_.size(); ++index)
        if (listeners_[index].accepting == Accepting::armed)
            reactor_->cancel(listeners_[index].listening.socket.get(), listener_token(index));
    if (services_->now - warned_pause_at_ < warning_interval) return;
    warned_pause_at_ = services_->now;
    spdlog::warn(
        "no file descriptor or memory for upstream sockets: accepting pauses; raise the limit of open files "
        "or lower sessions_max");
}

void Worker::admit(Listener& listener, OwnedFd client) noexcept {
    if (over_) return turn_away(listener, std::move(client), *over_);
    const std::uint32_t own_max = listener.kind.listener->sessions_max;
    Seat seat(*plan_.sessions, plan_.sessions_max, *listener.listening.sessions,
              own_max == 0 ? UINT32_MAX : own_max);
    if (!seat.taken()) {
        turn_away(listener, std::move(client), End::limit);
        return warn_of_limit(listener);
    }
    Session* session = sessions_->take(std::move(client), listener.kind, std::move(seat), services_->now);
    SLUICE_CHECK(session != nullptr);  // as many places as seats
    counters_.sessions.add(1);
    session->start(*services_);
    retire_if_quiet(*session);
}

// Load beyond a limit is shed at once: a client that is refused can go elsewhere, one that waits cannot.
void Worker::turn_away(Listener& listener, OwnedFd client, End reason) noexcept {
    const SocketAddress peer = peer_of(client.get());
    const PeerAddress reached(local_address_of(client.get()));
    if (!listener.kind.local) reset_on_close(client.get());
    client.close();
    counters_.ends[static_cast<std::size_t>(reason)].add(1);
    if (services_->events.close) {
        SessionRecord record;
        record.end = reason;
        record.path_reason = PathReason::small_reads;
        record.time = std::chrono::system_clock::now();
        record.listener = listener.kind.listener;
        record.pool = &listener.kind.pool->settings();
        record.client = PeerAddress(peer);
        record.reached = reached;
        record.bind = listener.listening.bind;
        plan_.records->push(plan_.index, record);
    }
}

void Worker::warn_of_limit(const Listener& listener) {
    ++turned_away_;
    if (services_->now - warned_limit_at_ < warning_interval) return;
    warned_limit_at_ = services_->now;
    spdlog::warn(
        "listener {}: {} client(s) refused: sessions_max is reached ({} of the process, {} of the listener)",
        listener.kind.listener->name, std::exchange(turned_away_, 0), plan_.sessions_max,
        listener.kind.listener->sessions_max == 0 ? "none"
                                                  : std::to_string(listener.kind.listener->sessions_max));
}

// --- what other threads want ---

void Worker::post(Command command) {
    {
        const std::lock_guard lock(mailbox_mutex_);
        mailbox_.push_back(std::move(command));
    }
    const std::uint64_t one = 1;
    // Refused only when the counter is full, and then it rings already.
    [[maybe_unused]] const ssize_t written = ::write(doorbell_.get(), &one, sizeof(one));
}

void Worker::watch_doorbell() {
    doorbell_watched_ = true;
    reactor_->watch(doorbell_.get(), Token(Question::doorbell, the_doorbell));
}

void Worker::answer_doorbell() {
    std::uint64_t rung = 0;
    if (::read(doorbell_.get(), &rung, sizeof(rung)) < 0) return;
    std::vector<Command> commands;
    {
        const std::lock_guard lock(mailbox_mutex_);
        commands.swap(mailbox_);
    }
    for (Command& command : commands) std::visit([this](auto& each) { obey(each); }, command);
}

void Worker::obey(LearnAddresses& command) noexcept {
    Pool& pool = pools_[command.pool];
    pool.learn(command.backend, std::move(command.addresses));
    if (services_->awaiting.empty()) return;
    // Those that still wait stand at the back again.
    Session* last = &services_->awaiting.back();
    while (!services_->awaiting.empty()) {
        Session& session = services_->awaiting.pop_front();
        const bool was_last = &session == last;
        session.address_news(*services_);
        retire_if_quiet(session);
        if (was_last) break;
    }
}

void Worker::obey(const Drain& command) {
    drain_at_ = std::min(drain_at_, command.deadline);
    stop_listening();
}

void Worker::obey(const Kill&) {
    over_ = End::killed;
    stop_listening();
    drain_at_ = time_never;
    end_all(End::killed);
}

void Worker::stop_listening() {
    if (std::exchange(draining_, true)) return;
    if (datagrams_ != nullptr) datagrams_->drain();
    for (std::size_t index = 0; index < listeners_.size(); ++index) {
        Listener& listener = listeners_[index];
        if (listener.accepting == Accepting::armed)
            reactor_->cancel(listener.listening.socket.get(), listener_token(index));
        else if (listener.accepting == Accepting::paused)
            close_listener(listener);
    }
}

// Closing a listening socket resets the clients in its queue, so they are taken first; where there is no
// descriptor for them, a little later.
void Worker::close_listener(Listener& listener) {
    OwnedFd& socket = listener.listening.socket;
    // io_uring wanted it blocking. A unix socket is shared with the other workers, one of which may want that
    // again at any moment: the time limit, of 1 us, then stands in for O_NONBLOCK.
    ::fcntl(socket.get(), F_SETFL, ::fcntl(socket.get(), F_GETFL) | O_NONBLOCK);
    const timeval at_once{.tv_sec = 0, .tv_usec = 1};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &at_once, sizeof(at_once));
    while (true) {
        OwnedFd client(::accept4(socket.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        if (client.valid())
            admit(listener, std::move(client));
        else if (no_descriptor_or_memory(errno) && !over_) {
            // Sessions that end give some back.
            listener.accepting = Accepting::paused;
            resume_at_ = std::min(resume_at_, services_->now + accept_pause);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR)
            break;
    }
    socket.close();
    listener.accepting = Accepting::closed;
}

void Worker::end_all(End reason) noexcept {
    sessions_->for_each([this, reason](Session& session) {
        session.end(reason, *services_);
        retire_if_quiet(session);
    });
    if (datagrams_ != nullptr) datagrams_->end_all(reason, services_->now);
}

// --- turns ---

// Everyone who has news, as many at a time as a round takes. Calm: nothing else is to be done before the
// wait.
void Worker::run_ready(bool calm) noexcept {
    auto& ready = services_->ready;
    while (!ready.empty()) {
        bool only_sends = calm;
        while (together_count_ < together_.size() && !ready.empty()) {
            Session& session = ready.pop_front();
            only_sends = session.join(round_) && only_sends;
            together_[together_count_++] = &session;
        }
        only_sends = round_.read(services_->lane) && only_sends;
        if (only_sends && ready.empty() && services_->run_queue.empty() && leave_sends_to_the_wait()) return;
        round_.send(services_->lane);
        run_together();
    }
}

// What a lone message costs is mostly system calls: this saves it one of three.
bool Worker::leave_sends_to_the_wait() noexcept {
    const auto calls = round_.sends();
    std::array<Send, Round::flows_max> sends{};
    for (std::uint32_t index = 0; index < calls.size(); ++index)
        sends[index] = {
            calls[index].fd, {calls[index].memory, calls[index].size}, Token(Question::carry, {index, 1})};
    return reactor_->carry(std::span(sends).first(calls.size()));
}

// The sends that went with the wait are over.
void Worker::end_round(std::span<const Completion> answers) noexcept {
    if (together_count_ == 0) return;
    for (const Completion& answer : answers)
        if (answer.token.question() == Question::carry)
            round_.answer(answer.token.name().slot, answer.result);
    round_.sent(services_->lane);
    run_together();
}

// What the round has left to each of its sessions. A session ends no other one, so all are still there.
void Worker::run_together() noexcept {
    for (Session* session : std::span(together_).first(std::exchange(together_count_, 0))) {
        session->run(*services_);
        retire_if_quiet(*session);
    }
}

// Bulk, until about so many bytes have moved. Then the reactor is asked for news, because small messages
// would wait for all the others' bulk. Who comes back waits for the next turn.
void Worker::run_queued() noexcept {
    auto& queue = services_->run_queue;
    if (queue.empty()) return;
    const Session* last = &queue.back();
    const std::uint64_t enough = services_->lane.bytes + bulk_bytes_of_a_turn;
    while (services_->lane.bytes < enough) {
        Session& session = queue.pop_front();
        const bool was_last = &session == last;
        session.run(*services_);
        retire_if_quiet(session);
        if (was_last) return;
    }
}

void Worker::expire() noexcept {
    const Time now = services_->now;
    if (datagrams_ != nullptr) datagrams_->expire(now);
    while (Session* session = services_->patience.expired(now)) {
        session->patience_over(*services_);
        retire_if_quiet(*session);
    }
    while (Session* session = services_->ages.expired(now)) {
        session->age_over(*services_);
        retire_if_quiet(*session);
    }
    if (drain_at_ <= now) {
        drain_at_ = time_never;
        over_ = End::drained;
        end_all(End::drained);
    }
    if (report_at_ <= now) report();
    if (resume_at_ <= now) {
        resume_at_ = time_never;
        if (!doorbell_watched_) watch_doorbell();
        for (std::size_t index = 0; index < listeners_.size(); ++index)
            if (listeners_[index].accepting == Accepting::paused) resume(index);
    }
}

// The periodic lines, so many sessions a turn that the others hardly notice.
void Worker::report() noexcept {
    const Time due = report_at_;
    const bool all = sessions_->visit_next(reported_, reports_of_a_turn,
                                           [this](Session& session) { session.report(*services_); });
    // Counted from when it was due, so that a long walk does not shift the next one; but never twice at once.
    if (all) report_at_ = std::max(due + plan_.config->access_log.interval, services_->now);
}

// The one place where a session's slot is taken back, and its descriptors are closed.
void Worker::retire_if_quiet(Session& session) noexcept {
    if (session.quiet()) sessions_->retire(session.name());
}

bool Worker::finished() const noexcept {
    return draining_ && sessions_->size() == 0 && (datagrams_ == nullptr || datagrams_->finished()) &&
           std::ranges::all_of(
               listeners_, [](const Listener& listener) { return listener.accepting == Accepting::closed; });
}

}  // namespace sluice

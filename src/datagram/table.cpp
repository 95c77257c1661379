#include "sluice/datagram/table.hpp"

#include "sluice/base/check.hpp"
#include "sluice/flow/channel.hpp"
#include "sluice/net/datagram_socket.hpp"

#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace sluice {

namespace {

// What one listener, and one session, may move in a turn before the others have theirs.
constexpr std::uint64_t listener_turn_datagrams = 512;
// Sessions that were ended for new ones, and whose sockets the reactor has not let go of yet: before more
// are, they go.
constexpr std::uint32_t passing_max = 64;
constexpr std::uint64_t session_turn_datagrams = 128;
// A unix client whose queue is full is tried again after this: no event tells when it is not.
constexpr Nanoseconds retry_interval = std::chrono::milliseconds(5);
// After the system could not watch or read a listener for want of memory.
constexpr Nanoseconds resume_pause = std::chrono::milliseconds(100);

std::uint64_t datagrams_in(std::span<const DatagramMessage> messages) noexcept {
    std::uint64_t count = 0;
    for (const DatagramMessage& message : messages) count += message.datagrams();
    return count;
}

DatagramMessage message_of(const HeldMessage& held) noexcept {
    DatagramMessage message;
    message.bytes = {held.memory.get(), held.bytes};
    message.segment = held.bytes;
    return message;
}

}  // namespace

DatagramTable::DatagramTable(const DatagramServices& services, std::vector<Listening> listening)
    : services_(services), sessions_(services_, listeners_), batch_(message_bytes_max) {
    retry_class_ = sessions_.retries.class_of(retry_interval);
    for (Listening& each : listening) {
        auto listener = std::make_unique<DatagramListener>();
        listener->socket = std::move(each.socket);
        listener->settings = each.settings;
        listener->pool = each.pool;
        listener->sessions = each.sessions;
        listener->wanted = each.wanted;
        listener->upstream_options = each.upstream_options;
        listener->index = static_cast<std::uint32_t>(listeners_.size());
        listener->idle_class = sessions_.idle.class_of(each.settings->timeouts.udp_idle);
        listener->local = each.local;
        listener->port_offset = each.port_offset;
        listener->bind = each.bind;
        listener->address = local_address_of(listener->socket.get());
        // Where they are counted, each is received by itself: the next one may be another session's.
        if (!each.local && each.settings->udp.requests == 0)
            receive_datagrams_together(listener->socket.get());
        // They come in the order of the configuration.
        const bool same = !listeners_.empty() && listeners_.back()->settings == each.settings;
        listener->first = same ? listeners_.back()->first : listener.get();
        listeners_.push_back(std::move(listener));
    }
}

void DatagramTable::start(Time now) noexcept {
    for (auto& listener : listeners_) {
        watch(*listener);
        // What came while the relay was starting: not every engine's first answer is sure to tell.
        listener->readable = true;
        sessions_.queue(*listener);
    }
    run(now);
}

// --- questions ---

void DatagramTable::watch(DatagramListener& listener) noexcept {
    listener.watched = true;
    services_.reactor.watch_readable(listener.socket.get(),
                                     Token(Question::watch_datagrams, {listener.index, 1}));
}

void DatagramTable::unwatch(DatagramListener& listener) noexcept {
    if (listener.watched)
        services_.reactor.cancel(listener.socket.get(),
                                 Token(Question::watch_datagrams, {listener.index, 1}));
}

void DatagramTable::answer(const Completion& completion, Time now) noexcept {
    const SlotName name = completion.token.name();
    if (completion.token.question() == Question::watch_datagrams) {
        SLUICE_CHECK(name.slot < listeners_.size());
        return listener_answered(*listeners_[name.slot], completion, now);
    }
    DatagramSession* session = sessions_.named(name);
    if (session == nullptr) return services_.counters.stale_completions.add(1);
    SLUICE_CHECK(session->watched);
    session->watched = completion.more;
    if (session->closing) return sessions_.retire_if_quiet(*session);
    if (completion.result < 0) {
        session->error = -completion.result;  // no memory, or fs.epoll.max_user_watches
        sessions_.end(*session, End::exhausted, now);
        return sessions_.retire_if_quiet(*session);
    }
    // The reactor had to drop the question (a full queue): asked anew, it tells what holds by then.
    if (!completion.more) sessions_.watch(*session);
    // Asked again: a send that found no room gives its memory back, which the kernel calls "writable"
    // (unix_write_space) and io_uring passes on as it is. Tried at each such word, it would never end.
    if (session->upload_held.held() && (completion.result & (POLLOUT | POLLERR | POLLHUP)) != 0 &&
        writable_now(session->upstream.get()))
        retry_upload(*session, now);
    if (!session->closing && (completion.result & (POLLIN | POLLERR | POLLHUP)) != 0) {
        session->readable = true;
        read_upstream(*session, now);
    }
    sessions_.retire_if_quiet(*session);
}

void DatagramTable::listener_answered(DatagramListener& listener, const Completion& completion,
                                      Time now) noexcept {
    listener.watched = completion.more;
    if (closing_ || listener.pace.by_clock()) return;
    // Taken back when a flood began, which is over already.
    if (completion.result == -ECANCELED) return watch(listener);
    if (completion.result < 0) {
        resume_at_ = std::min(resume_at_, now + resume_pause);
        return;
    }
    if (!completion.more) watch(listener);
    listener.readable = true;
    read_clients(listener, now);
}

void DatagramTable::close_listeners() noexcept {
    if (std::exchange(closing_, true)) return;
    for (auto& listener : listeners_) unwatch(*listener);
    clock_at_ = time_never;
}

bool DatagramTable::finished() const noexcept {
    return closing_ && sessions_.size() == 0 &&
           std::ranges::none_of(listeners_, [](const auto& listener) { return listener->watched; });
}

// --- turns ---

void DatagramTable::run(Time now) noexcept {
    sessions_.give_way(now);
    if (clock_at_ <= now) read_by_clock(now);
    run_listeners(now);
    if (!run_queue_.empty()) {
        // Everyone who stands in the queue now has one turn; who comes back waits for the next one.
        const DatagramSession* last = &run_queue_.back();
        while (true) {
            DatagramSession& session = run_queue_.pop_front();
            const bool was_last = &session == last;
            read_upstream(session, now);
            sessions_.retire_if_quiet(session);
            if (was_last) break;
        }
    }
    if (draining_ && sessions_.size() == 0) close_listeners();
}

// As the sessions: each that stands in the queue now has one turn.
void DatagramTable::run_listeners(Time now) noexcept {
    if (sessions_.ready_listeners.empty()) return;
    const DatagramListener* last = &sessions_.ready_listeners.back();
    while (true) {
        DatagramListener& listener = sessions_.ready_listeners.pop_front();
        const bool was_last = &listener == last;
        read_clients(listener, now);
        if (was_last) return;
    }
}

void DatagramTable::read_by_clock(Time now) noexcept {
    clock_at_ = now + DatagramPace::clock_interval;
    const DatagramListener* last = &by_clock_.back();
    while (true) {
        DatagramListener& listener = by_clock_.pop_front();
        by_clock_.push_back(listener);
        listener.readable = true;
        sessions_.queue(listener);
        if (&listener == last) return;
    }
}

// A flood has begun or is over.
void DatagramTable::change_pace(DatagramListener& listener, Time now) noexcept {
    if (listener.pace.by_clock()) {
        by_clock_.push_back(listener);
        clock_at_ = std::min(clock_at_, now + DatagramPace::clock_interval);
        return unwatch(listener);
    }
    static_cast<ListNode<DatagramClockTag>&>(listener).unlink();
    if (by_clock_.empty()) clock_at_ = time_never;
    // Else when the last answer has come. The first one tells what is there by then.
    if (!listener.watched) watch(listener);
}

void DatagramTable::queue(DatagramSession& session) noexcept {
    auto& node = static_cast<ListNode<DatagramRunTag>&>(session);
    if (!node.linked()) run_queue_.push_back(session);
}

Time DatagramTable::next() noexcept {
    if (!run_queue_.empty()) return Time::min();
    if (!sessions_.ready_listeners.empty() && resume_at_ == time_never) return Time::min();
    return std::min({sessions_.idle.next(), sessions_.retries.next(), resume_at_, clock_at_});
}

void DatagramTable::expire(Time now) noexcept {
    while (DatagramSession* session = sessions_.idle.expired(now)) {
        sessions_.end(*session, End::idle_timeout, now);
        sessions_.retire_if_quiet(*session);
    }
    while (DatagramSession* session = sessions_.retries.expired(now)) {
        retry_download(*session, now);
        sessions_.retire_if_quiet(*session);
    }
    if (resume_at_ <= now) {
        resume_at_ = time_never;
        for (auto& listener : listeners_)
            if (!listener->watched && !listener->pace.by_clock() && !closing_) watch(*listener);
    }
    if (draining_ && sessions_.size() == 0) close_listeners();
}

// --- from clients ---

void DatagramTable::read_clients(DatagramListener& listener, Time now) noexcept {
    std::uint64_t moved = 0;
    std::uint32_t messages = 0;
    while (listener.readable && listener.holding == 0 && !closing_ && moved < listener_turn_datagrams &&
           sessions_.in_passing() < passing_max) {
        // A unix message is longer, and may have to wait for its upstream; those behind it then wait in the
        // kernel.
        const auto room = listener.local ? DatagramBatch::Room::one : DatagramBatch::Room::many;
        ++system_calls_;
        const DatagramBatch::Received received = batch_.receive(listener.socket.get(), room, true);
        if (received.drained) listener.readable = false;
        if (received.error != 0) {
            // Nothing is told of a listener but a want of memory, and what waits there brings no event anew.
            resume_at_ = std::min(resume_at_, now + resume_pause);
            break;
        }
        const std::uint64_t datagrams = datagrams_in(received.messages);
        services_.counters.datagrams_received.add(datagrams);
        moved += datagrams;
        messages += static_cast<std::uint32_t>(received.messages.size());
        upload(listener, received.messages, now);
    }
    if (closing_) return;
    // Whoever holds a message of its clients queues it again.
    if (listener.readable && listener.holding == 0) sessions_.queue(listener);
    if (!listener.local && listener.pace.count(messages, now)) change_pace(listener, now);
}

// The datagrams of several clients come interleaved. Those of one client go on together, in their order: one
// call for each session, and runs that the kernel cuts up.
void DatagramTable::upload(DatagramListener& listener, std::span<const DatagramMessage> messages,
                           Time now) noexcept {
    for (std::size_t index = 0; index < messages.size(); ++index)
        hashes_[index] = sessions_.hash(DatagramSessions::key_of(listener, messages[index]));
    std::array<bool, DatagramBatch::messages_max> done{};
    for (std::size_t first = 0; first < messages.size(); ++first) {
        if (done[first]) continue;
        std::size_t run = 0;
        for (std::size_t index = first; index < messages.size(); ++index) {
            if (done[index] || hashes_[index] != hashes_[first] ||
                messages[index].reached != messages[first].reached ||
                !std::ranges::equal(messages[index].sender, messages[first].sender))
                continue;
            done[index] = true;
            if (messages[index].truncated)
                lose_truncated(listener, messages[index], hashes_[index], now);
            else
                run_[run++] = messages[index];
        }
        upload_run(listener, std::span(run_).first(run), hashes_[first], now);
    }
}

void DatagramTable::lose_truncated(DatagramListener& listener, const DatagramMessage& message,
                                   std::uint64_t hash, Time now) noexcept {
    DatagramSession* session = sessions_.find(DatagramSessions::key_of(listener, message), hash);
    if (session != nullptr) ++session->lost_datagrams;
    lose(Loss::truncated, 1);
    warn_of_long_messages(listener, 1, now);
}

// All are of one client, and so of one session, but where sessions take only so many each.
void DatagramTable::upload_run(DatagramListener& listener, std::span<const DatagramMessage> messages,
                               std::uint64_t hash, Time now) noexcept {
    while (!messages.empty()) {
        const DatagramKey key = DatagramSessions::key_of(listener, messages.front());
        DatagramSession* session = sessions_.find(key, hash);
        Loss why = Loss::draining;
        if (session == nullptr && !draining_)
            session = sessions_.open(listener, key, hash, datagrams_in(messages), now, why);
        if (session == nullptr) return lose(why, datagrams_in(messages));
        messages = messages.subspan(upload_of(*session, messages, now));
    }
}

// How many of them were the session's: all, but where requests are counted.
std::size_t DatagramTable::upload_of(DatagramSession& session, std::span<const DatagramMessage> messages,
                                     Time now) noexcept {
    const std::uint32_t requests_max = session.listener->settings->udp.requests;
    if (requests_max > 0)
        messages = messages.first(std::min<std::size_t>(messages.size(), requests_max - session.requests));
    session.requests += datagrams_in(messages);
    sessions_.used(session, now);
    const DatagramSender::Outcome outcome = send_upstream(session, messages);
    account(session, outcome, now);
    session.upload_bytes += outcome.sent_bytes;
    session.upload_datagrams += outcome.sent;
    if (outcome.messages_done < messages.size()) {
        // Only a unix listener's, whose messages come one by one.
        SLUICE_CHECK(messages.size() == 1);
        hold(session, session.upload_held, messages.front());
        if (session.upload_held.held()) ++session.listener->holding;
    }
    requests_taken(session, now);
    return messages.size();
}

// A session that counts and has all its requests takes no more, and may even be over.
void DatagramTable::requests_taken(DatagramSession& session, Time now) noexcept {
    const config::Udp& udp = session.listener->settings->udp;
    if (udp.requests == 0 || session.requests < udp.requests) return;
    sessions_.forget(session);
    if (session.download_datagrams >= udp.responses && !session.upload_held.held())
        sessions_.end(session, End::answered, now);
}

DatagramSender::Outcome DatagramTable::send_upstream(DatagramSession& session,
                                                     std::span<const DatagramMessage> messages) noexcept {
    using WhenFull = DatagramSender::WhenFull;
    const auto when_full = session.reliable() ? WhenFull::stop : WhenFull::lose;
    auto outcome = sender_.send(session.upstream.get(), messages, {}, when_full, session.upload_segment_max);
    if (!session.upstream_local) return outcome;
    outcome.refused = 0;  // here it is said of this one: there is no network in between
    // A backend that was started anew has a new socket under the old name.
    const bool gone = outcome.error == ECONNREFUSED || outcome.error == ENOTCONN;
    if (outcome.lost == 0 || !gone) return outcome;
    const SocketAddress target = session.listener->pool->current(session.attempt);
    if (::connect(session.upstream.get(), target.get(), target.length()) != 0) return outcome;
    if (messages.size() > 1) return outcome;  // which of them went on before it was gone is not known
    return sender_.send(session.upstream.get(), messages, {}, when_full, session.upload_segment_max);
}

// --- from upstreams ---

void DatagramTable::read_upstream(DatagramSession& session, Time now) noexcept {
    std::uint64_t moved = 0;
    while (session.readable && !session.closing && !session.download_held.held()) {
        if (moved >= session_turn_datagrams) return queue(session);
        const auto room = session.upstream_local ? DatagramBatch::Room::one : DatagramBatch::Room::many;
        ++system_calls_;
        const DatagramBatch::Received received = batch_.receive(session.upstream.get(), room, false);
        if (received.drained) session.readable = false;
        if (received.error != 0) {
            // An ICMP error about an earlier datagram, which is consumed by being told. Counted against the
            // budget: whatever else the kernel may repeat here must not hold the worker.
            session.error = received.error;
            ++session.lost_datagrams;
            lose(Loss::refused, 1);
            ++moved;
            continue;
        }
        if (received.messages.empty()) return;
        const std::uint64_t datagrams = datagrams_in(received.messages);
        services_.counters.datagrams_received.add(datagrams);
        moved += datagrams;
        download(session, received.messages, now);
    }
}

void DatagramTable::download(DatagramSession& session, std::span<const DatagramMessage> messages,
                             Time now) noexcept {
    sessions_.used(session, now);
    while (!messages.empty() && !session.closing) {
        const auto whole = std::ranges::find_if(messages, &DatagramMessage::truncated);
        const auto count = static_cast<std::size_t>(whole - messages.begin());
        if (count == 0) {
            ++session.lost_datagrams;
            lose(Loss::truncated, 1);
            warn_of_long_messages(*session.listener, 1, now);
            messages = messages.subspan(1);
            continue;
        }
        const DatagramSender::Outcome outcome = send_to_client(session, messages.first(count));
        if (outcome.messages_done < count) {
            SLUICE_CHECK(messages.size() == 1);
            hold(session, session.download_held, messages.front());
            if (session.download_held.held()) sessions_.retries.start(session, retry_class_, now);
        }
        downloaded(session, outcome, now);
        messages = messages.subspan(count);
    }
}

void DatagramTable::downloaded(DatagramSession& session, const DatagramSender::Outcome& outcome,
                               Time now) noexcept {
    account(session, outcome, now);
    session.download_bytes += outcome.sent_bytes;
    session.download_datagrams += outcome.sent;
    requests_taken(session, now);
}

DatagramSender::Outcome DatagramTable::send_to_client(DatagramSession& session,
                                                      std::span<const DatagramMessage> messages) noexcept {
    if (session.client.family() == AF_UNSPEC) {
        // A nameless one, who cannot be answered.
        DatagramSender::Outcome outcome;
        outcome.lost = static_cast<std::uint32_t>(datagrams_in(messages));
        outcome.messages_done = messages.size();
        return outcome;
    }
    using WhenFull = DatagramSender::WhenFull;
    const DatagramTarget target{session.client.get(), session.client.length(), session.reached};
    return sender_.send(session.listener->socket.get(), messages, target,
                        session.reliable() ? WhenFull::stop : WhenFull::lose, session.download_segment_max);
}

// --- what could not go on at once ---

void DatagramTable::hold(DatagramSession& session, HeldMessage& held,
                         const DatagramMessage& message) noexcept {
    SLUICE_CHECK(!held.held());
    // One byte more: an empty message is held, too.
    held.memory.reset(new (std::nothrow) std::byte[message.bytes.size() + 1]);
    if (!held.held()) {
        ++session.lost_datagrams;
        return lose(Loss::unsent, 1);
    }
    held.bytes = static_cast<std::uint32_t>(message.bytes.size());
    std::ranges::copy(message.bytes, held.memory.get());
}

void DatagramTable::retry_upload(DatagramSession& session, Time now) noexcept {
    const DatagramMessage message = message_of(session.upload_held);
    const DatagramSender::Outcome outcome = send_upstream(session, {&message, 1});
    account(session, outcome, now);
    if (outcome.messages_done == 0) return;
    session.upload_held = {};
    sessions_.release(*session.listener);
    session.upload_bytes += outcome.sent_bytes;
    session.upload_datagrams += outcome.sent;
    sessions_.used(session, now);
    requests_taken(session, now);
}

void DatagramTable::retry_download(DatagramSession& session, Time now) noexcept {
    const DatagramMessage message = message_of(session.download_held);
    const DatagramSender::Outcome outcome = send_to_client(session, {&message, 1});
    if (outcome.messages_done == 0) return sessions_.retries.start(session, retry_class_, now);
    session.download_held = {};
    sessions_.used(session, now);
    downloaded(session, outcome, now);
    if (!session.closing) read_upstream(session, now);
}

// --- counting ---

void DatagramTable::account(DatagramSession& session, const DatagramSender::Outcome& outcome,
                            Time now) noexcept {
    system_calls_ += outcome.calls;
    services_.counters.datagrams_sent.add(outcome.sent);
    if (outcome.error != 0) session.error = outcome.error;
    const std::uint32_t lost = outcome.lost + outcome.refused;
    if (lost == 0) return;
    session.lost_datagrams += lost;
    lose(Loss::refused, outcome.refused);
    lose(Loss::oversized, outcome.oversized);
    lose(Loss::unsent, outcome.lost - outcome.oversized);
    if (outcome.oversized > 0) warn_of_long_messages(*session.listener, outcome.oversized, now);
}

void DatagramTable::lose(Loss why, std::uint64_t datagrams) noexcept {
    services_.counters.datagrams_lost[static_cast<std::size_t>(why)].add(datagrams);
}

void DatagramTable::warn_of_long_messages(const DatagramListener& listener, std::uint64_t datagrams,
                                          Time now) noexcept {
    if (const auto times = long_messages_.due(datagrams, now))
        spdlog::warn("listener {}: {} datagram(s) lost: longer than {} bytes, or than the other side takes",
                     listener.settings->name, times, message_bytes_max);
}

}  // namespace sluice

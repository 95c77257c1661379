#include "sluice/datagram/sessions.hpp"

#include "sluice/base/check.hpp"
#include "sluice/net/datagram_socket.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

namespace sluice {

namespace {

constexpr Nanoseconds warning_interval = std::chrono::seconds(10);

// EAGAIN: no ephemeral port is left (udp_v4_get_port), or no abstract name.
bool is_shortage(int error) noexcept {
    return no_descriptor_or_memory(error) || error == EAGAIN;
}

std::uint32_t milliseconds_of(Time time) noexcept {
    return static_cast<std::uint32_t>(
        std::chrono::duration_cast<Milliseconds>(time.time_since_epoch()).count());
}

// The listener's, but on a wildcard address the one that the kernel told.
SocketAddress reached_by(const DatagramSession& session) noexcept {
    const SocketAddress& bound = session.listener->address;
    if (!session.reached.told()) return bound;
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_addr = session.reached.host;
    address.sin6_port = htons(bound.port());
    address.sin6_scope_id = session.reached.interface;
    return SocketAddress::from(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// Of a nameless sender: no address.
SocketAddress address_in(std::span<const std::byte> name) noexcept {
    if (name.size() < sizeof(sa_family_t)) return {};
    return SocketAddress::from(reinterpret_cast<const sockaddr*>(name.data()),
                               static_cast<socklen_t>(name.size()));
}

}  // namespace

std::uint64_t RareWarning::due(std::uint64_t times, Time now) noexcept {
    untold_ += times;
    if (untold_ == 0 || (told_at_ != Time::min() && now - told_at_ < warning_interval)) return 0;
    told_at_ = now;
    return std::exchange(untold_, 0);
}

DatagramSessions::DatagramSessions(const DatagramServices& services, const Listeners& listeners)
    : services_(services),
      listeners_(listeners),
      index_(services.sessions_max),
      slab_(std::make_unique<Slab<DatagramSession>>(
          std::min(services.sessions_max + places_in_passing, Token::slots_max - 1))) {}

DatagramSession* DatagramSessions::open(DatagramListener& listener, const DatagramKey& key,
                                        std::uint64_t hash, std::uint64_t datagrams, Time now,
                                        Loss& why) noexcept {
    // Nobody loses a place for a datagram that can go nowhere, and no session is told of.
    why = Loss::no_backend;
    if (!listener.pool->has_address()) return nullptr;
    why = Loss::limit;
    std::optional<Seat> seat = take_seat(listener, now);
    if (!seat) return nullptr;
    DatagramSession* session = slab_->take(listener, std::move(*seat), now);
    if (session == nullptr) return nullptr;
    session->client = address_in(key.client);
    session->reached = key.reached;
    End failure = End::no_backend;
    if (!dial(*session, failure)) {
        why = failure == End::exhausted ? Loss::limit : Loss::no_backend;
        if (failure == End::exhausted) {
            // Others may have what it lacks; the next datagram finds it. Those that are on their way out give
            // theirs back in a moment (this one is among them).
            if (in_passing() <= 1)
                if (DatagramSession* victim = least_recently_used()) end(*victim, End::evicted, now);
            if (const auto times = shortages_.due(1, now))
                spdlog::warn(
                    "listener {}: {} datagram(s) lost for want of a socket: {}; raise the limit of "
                    "open files, or net.ipv4.ip_local_port_range",
                    listener.settings->name, times, std::strerror(session->error));
            // Nobody was served, and a flood would write a line for each.
            session->closing = true;
        } else {
            session->lost_datagrams = datagrams;
            end(*session, failure, now);
        }
        retire_if_quiet(*session);
        return nullptr;
    }
    session->hash = hash;
    index_.insert(*session);
    listener.first->by_use.push_back(*session);
    ++listener.first->own;
    ++live_;
    idle.start(*session, listener.idle_class, now);
    services_.counters.sessions.add(1);
    watch(*session);
    if (services_.events.accept) record(*session, SessionRecord::Event::accept, End::killed, now);
    if (services_.events.connect) record(*session, SessionRecord::Event::connect, End::killed, now);
    return session;
}

// Connects the upstream socket: nothing goes over the network for that, so it fails or succeeds at once.
bool DatagramSessions::dial(DatagramSession& session, End& failure) noexcept {
    DatagramListener& listener = *session.listener;
    session.attempt.port_offset = listener.port_offset;
    while (true) {
        const Pool::Choice choice = listener.pool->choose(session.attempt);
        if (choice.next != Pool::Next::address) return false;
        auto socket = open_datagram_upstream(choice.target, listener.upstream_options);
        if (socket) {
            session.upstream = std::move(*socket);
            session.upstream_local = choice.target.family() == AF_UNIX;
            if (!session.upstream_local) receive_datagrams_together(session.upstream.get());
            return true;
        }
        session.error = socket.error().number;
        failure = is_shortage(session.error) ? End::exhausted : End::connect_failed;
        if (failure == End::exhausted) return false;
    }
}

// A free one, or that of the least recently used session: of this listener if it is the one that is full,
// else of them all. Within a listener it is handed on: once free, another worker might be faster.
std::optional<Seat> DatagramSessions::take_seat(DatagramListener& listener, Time now) noexcept {
    const std::uint32_t own_max =
        listener.settings->sessions_max == 0 ? UINT32_MAX : listener.settings->sessions_max;
    const DatagramListener& whole = *listener.first;
    const std::uint64_t own_share = std::uint64_t{whole.own} * services_.workers;
    // A place that was freed for another worker is not for us.
    if (whole.own > 0 && wished_lately(*listener.wanted, now) &&
        own_share >= listener.sessions->load(std::memory_order_relaxed))
        return seat_of(listener.first->by_use.front(), now);
    if (share() >= services_.sessions_max && wished_lately(services_.wishes.of_process, now))
        end(*least_recently_used(), End::evicted, now);
    Seat seat(services_.sessions, services_.sessions_max, *listener.sessions, own_max);
    if (seat.taken()) return seat;

    const std::uint32_t taken = listener.sessions->load(std::memory_order_relaxed);
    const bool less_of_listener = own_share < taken;
    const bool less_of_process = process_is_full() && share() < services_.sessions_max;
    if (less_of_listener) wish(*listener.wanted, now);
    if (less_of_process) wish(services_.wishes.of_process, now);
    if (less_of_listener || less_of_process) wish(services_.wishes.any, now);
    DatagramSession* victim = nullptr;
    if (taken < own_max)
        victim = least_recently_used();
    else if (!listener.first->by_use.empty())
        victim = &listener.first->by_use.front();
    if (victim == nullptr) {
        if (const auto times = refusals_.due(1, now))
            spdlog::warn(
                "listener {}: {} datagram(s) lost: sessions_max is reached, by other sessions than this "
                "worker's datagrams",
                listener.settings->name, times);
        return std::nullopt;
    }
    if (const auto times = evictions_.due(1, now))
        spdlog::warn(
            "listener {}: sessions_max is reached: {} session(s) ended for newer ones, the least recently "
            "used first",
            listener.settings->name, times);
    if (victim->listener->first == listener.first) return seat_of(*victim, now);
    end(*victim, End::evicted, now);
    Seat second(services_.sessions, services_.sessions_max, *listener.sessions, own_max);
    if (!second.taken()) return std::nullopt;
    return second;
}

// Ends it, and hands on its seat.
Seat DatagramSessions::seat_of(DatagramSession& victim, Time now) noexcept {
    Seat seat = std::move(*victim.seat);
    end(victim, End::evicted, now);
    return seat;
}

// A time of the last second, in milliseconds: nobody has to take it back.
bool DatagramSessions::wished_lately(const Seat::Count& wanted, Time now) noexcept {
    const std::uint32_t wished = wanted.load(std::memory_order_relaxed);
    return wished != 0 && milliseconds_of(now) - wished < 1000;
}

void DatagramSessions::wish(Seat::Count& wanted, Time now) noexcept {
    wanted.store(milliseconds_of(now) | 1, std::memory_order_relaxed);
}

bool DatagramSessions::process_is_full() const noexcept {
    return services_.sessions.load(std::memory_order_relaxed) >= services_.sessions_max;
}

void DatagramSessions::give_way(Time now) noexcept {
    // Mostly nobody asks: the listeners are not looked at each turn, they may be thousands.
    if (!wished_lately(services_.wishes.any, now)) return;
    if (process_is_full() && share() > services_.sessions_max &&
        wished_lately(services_.wishes.of_process, now))
        end(*least_recently_used(), End::evicted, now);
    for (const auto& listener : listeners_)
        if (listener->first == listener.get()) give_way(*listener, now);
}

void DatagramSessions::give_way(DatagramListener& listener, Time now) noexcept {
    if (!wished_lately(*listener.wanted, now)) return;
    const std::uint32_t taken = listener.sessions->load(std::memory_order_relaxed);
    const std::uint32_t own_max = listener.settings->sessions_max;
    const bool full = process_is_full() || (own_max != 0 && taken >= own_max);
    if (full && std::uint64_t{listener.own} * services_.workers > taken)
        end(listener.by_use.front(), End::evicted, now);
}

void DatagramSessions::queue(DatagramListener& listener) noexcept {
    if (!static_cast<ListNode<DatagramRunTag>&>(listener).linked()) ready_listeners.push_back(listener);
}

void DatagramSessions::release(DatagramListener& listener) noexcept {
    if (--listener.holding == 0) queue(listener);
}

DatagramSession* DatagramSessions::least_recently_used() noexcept {
    DatagramSession* oldest = nullptr;
    for (const auto& listener : listeners_) {
        if (listener->by_use.empty()) continue;
        DatagramSession& first = listener->by_use.front();
        if (oldest == nullptr || first.used < oldest->used) oldest = &first;
    }
    return oldest;
}

void DatagramSessions::used(DatagramSession& session, Time now) noexcept {
    session.used = now;
    idle.touch(session, now);
    auto& by_use = session.listener->first->by_use;
    if (&by_use.back() == &session) return;
    static_cast<ListNode<DatagramUseTag>&>(session).unlink();
    by_use.push_back(session);
}

void DatagramSessions::watch(DatagramSession& session) noexcept {
    SLUICE_CHECK(!session.watched);
    session.watched = true;
    const Token token(Question::watch_datagram_upstream, session.name);
    // A target that is worth waiting for tells when it is no longer full.
    if (session.reliable())
        services_.reactor.watch(session.upstream.get(), token);
    else
        services_.reactor.watch_readable(session.upstream.get(), token);
}

void DatagramSessions::end(DatagramSession& session, End reason, Time now) noexcept {
    SLUICE_CHECK(!session.closing);
    session.closing = true;
    forget(session);
    // One that could not dial never stood there.
    if (static_cast<ListNode<DatagramUseTag>&>(session).linked()) {
        --session.listener->first->own;
        --live_;
    }
    idle.stop(session);
    retries.stop(session);
    static_cast<ListNode<DatagramUseTag>&>(session).unlink();
    static_cast<ListNode<DatagramRunTag>&>(session).unlink();
    if (session.upload_held.held()) release(*session.listener);
    for (HeldMessage* held : {&session.upload_held, &session.download_held}) {
        if (!held->held()) continue;
        *held = {};
        ++session.lost_datagrams;
        services_.counters.datagrams_lost[static_cast<std::size_t>(Loss::ended)].add(1);
    }
    if (session.watched)
        services_.reactor.cancel(session.upstream.get(),
                                 Token(Question::watch_datagram_upstream, session.name));
    session.seat.reset();
    services_.counters.ends[static_cast<std::size_t>(reason)].add(1);
    services_.counters.copied_bytes.add(session.upload_bytes + session.download_bytes);
    if (services_.events.close) record(session, SessionRecord::Event::close, reason, now);
}

void DatagramSessions::end_all(End reason, Time now) noexcept {
    slab_->for_each([&](DatagramSession& session) {
        if (!session.closing) end(session, reason, now);
        retire_if_quiet(session);
    });
}

void DatagramSessions::retire_if_quiet(DatagramSession& session) noexcept {
    if (session.closing && !session.watched) slab_->retire(session.name);
}

void DatagramSessions::record(const DatagramSession& session, SessionRecord::Event event, End end,
                              Time now) noexcept {
    SessionRecord record;
    record.event = event;
    record.end = end;
    record.path_reason = PathReason::datagrams;
    record.error = session.error;
    record.time = std::chrono::system_clock::now();
    record.listener = session.listener->settings;
    record.pool = &session.listener->pool->settings();
    if (session.attempt.backend != Pool::Attempt::none)
        record.backend = session.listener->pool->backend(session.attempt.backend).settings;
    record.client = PeerAddress(session.client);
    record.reached = PeerAddress(reached_by(session));
    record.bind = session.listener->bind;
    record.upload_bytes = session.upload_bytes;
    record.download_bytes = session.download_bytes;
    record.datagrams = true;
    record.upload_datagrams = session.upload_datagrams;
    record.download_datagrams = session.download_datagrams;
    record.lost_datagrams = session.lost_datagrams;
    record.duration = now - session.started;
    // Connecting such a socket is a word between us and the kernel.
    if (session.upstream.valid()) record.connect = Nanoseconds(0);
    services_.records.push(services_.worker, record);
}

}  // namespace sluice

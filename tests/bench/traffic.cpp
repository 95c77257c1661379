#include "tests/bench/traffic.hpp"

#include "sluice/base/check.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace sluice::bench {
namespace {

// Messages up to this size are copied, so that the answer's head can be compared; longer ones are sent by
// sendfile and discarded where they arrive.
constexpr std::size_t copied_bytes_max = 4096;

// Slow readers take so much each time, 64 KiB every 10 ms.
constexpr std::size_t slow_bytes = 65'536;
constexpr Nanoseconds slow_interval = Milliseconds(10);
// A chatty session of the mix thinks so long between an answer and its next question: at most 16,000
// questions a second with 64 sessions. If each asked at once, the relay and we would have time for nothing
// else, and a relay that carries no bulk would look best.
constexpr Nanoseconds mix_pause = Milliseconds(4);

// On loopback who waits for whom decides which CPU does the work of TCP. While the relay is behind, its
// acknowledgements make the sources' segments leave, and arrive, on its own CPU; while we are behind, all of
// that is done on ours, together with waking a relay that sleeps between any two pieces. Both states last
// (with bbr, which paces even here, the same relay cost 650 or 250 CPU ms/GiB). The relay is to be what
// everybody waits for, so the buffers before it are made full at the start, and again when we have had no
// idle turn for a while: the sinks take nothing for this long.
constexpr Nanoseconds filling_time = Milliseconds(40);
constexpr Nanoseconds never_idle_max = Milliseconds(100);

// The send buffers of all sources together, and bounds for that of one.
constexpr int source_bytes = 64 << 20;
constexpr int source_bytes_min = 256 << 10;
constexpr int source_bytes_max = 8 << 20;

constexpr std::uint32_t dials_at_once_max = 64;
constexpr Nanoseconds opening_patience = std::chrono::seconds(30);
constexpr int events_at_once_max = 256;

struct Greeting {
    std::uint32_t role;
    std::uint32_t client;
};

std::uint32_t connections_of(const Options& options) {
    return options.connections + (options.workload == Workload::mix ? options.streams : 0);
}

}  // namespace

Traffic::Traffic(const Options& options)
    : options_(options),
      connections_(connections_of(options)),
      bulk_bytes_(options.workload == Workload::mix ? 65'536 : Material::size()),
      chatty_epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      bulky_epoll_(::epoll_create1(EPOLL_CLOEXEC)),
      scratch_(copied_bytes_max, 'm') {
    SLUICE_CHECK(chatty_epoll_.valid() && bulky_epoll_.valid());
    // Ends are named by their index and held by reference across an accept: they must not move.
    ends_.reserve(std::size_t{connections_} * 2);
}

Traffic::Role Traffic::role_of(std::uint32_t connection) const noexcept {
    switch (options_.workload) {
        case Workload::upload: return Role::upload;
        case Workload::download: return Role::download;
        case Workload::both: return Role::both;
        case Workload::slow: return Role::slow;
        case Workload::idle: return Role::idle;
        case Workload::mix:
            if (connection < options_.connections) break;
            return connection % 2 == 0 ? Role::upload : Role::download;
        case Workload::echo:
        case Workload::churn: break;
    }
    return Role::echo;
}

// --- Opening

bool Traffic::open() {
    listening_ = listen_on(options_.backend);
    if (!listening_.valid()) {
        fail("cannot listen as the backend", errno);
        return false;
    }
    const Time deadline = Clock::now() + opening_patience;
    while (ready_ < connections_ * 2) {
        // A connection is counted twice when it is ready: at each end.
        while (dialled_ < connections_ && dialled_ - ready_ / 2 < dials_at_once_max) dial_next();
        accept_all();
        handle_events(chatty_epoll_.get(), events_at_once_max);
        if (Clock::now() > deadline) fail("not every connection could be made in time");
        if (tally_.failures > 0) return false;
    }
    return true;
}

void Traffic::dial_next() {
    OwnedFd socket = connect_to(options_.relay, SocketAddress());
    if (!socket.valid()) return fail("cannot connect to the relay", errno);
    SLUICE_CHECK(ends_.size() < ends_.capacity());
    End& end = ends_.emplace_back();
    end.socket = std::move(socket);
    end.client = true;
    end.role = role_of(dialled_++);
    watch(chatty_epoll_.get(), EPOLL_CTL_ADD, end, EPOLLOUT);
}

void Traffic::accept_all() {
    while (ends_.size() < ends_.capacity()) {
        OwnedFd socket = accept_from(listening_.get());
        if (!socket.valid()) return;
        End& end = ends_.emplace_back();
        end.socket = std::move(socket);
        watch(chatty_epoll_.get(), EPOLL_CTL_ADD, end, EPOLLIN);
    }
}

// The client's side: first the greeting, once connected, then the byte that answers it.
void Traffic::greet(End& end) {
    if (end.sent == 0) {
        const Greeting greeting{static_cast<std::uint32_t>(end.role),
                                static_cast<std::uint32_t>(&end - ends_.data())};
        if (::send(end.socket.get(), &greeting, sizeof(greeting), MSG_NOSIGNAL) != sizeof(greeting))
            return lose(end, "a greeting could not be sent", errno);
        end.sent = sizeof(greeting);
        return watch(chatty_epoll_.get(), EPOLL_CTL_MOD, end, EPOLLIN);
    }
    std::uint32_t peer = 0;
    if (take(end, sizeof(peer)) != sizeof(peer)) return;
    std::memcpy(&peer, scratch_.data(), sizeof(peer));
    if (peer >= ends_.size() || ends_[peer].client) return lose(end, "a greeting got a wrong answer", 0);
    end.peer = peer;
    end.state = End::State::ready;
    end.sent = 0;
    ++ready_;
}

void Traffic::be_greeted(End& end) {
    Greeting greeting{};
    if (take(end, sizeof(greeting)) != sizeof(greeting)) return;
    std::memcpy(&greeting, scratch_.data(), sizeof(greeting));
    if (greeting.client >= ends_.size() || !ends_[greeting.client].client)
        return lose(end, "a greeting came in pieces, or changed", 0);
    end.role = static_cast<Role>(greeting.role);
    end.peer = greeting.client;
    const auto self = static_cast<std::uint32_t>(&end - ends_.data());
    if (::send(end.socket.get(), &self, sizeof(self), MSG_NOSIGNAL) != sizeof(self))
        return lose(end, "a greeting could not be answered", errno);
    end.state = End::State::ready;
    ++ready_;
}

// --- Running

void Traffic::start() {
    const Time now = Clock::now();
    for (std::uint32_t index = 0; index < ends_.size(); ++index) {
        End& end = ends_[index];
        if (end.role == Role::echo) {
            // Edges are enough, and cheaper for us: whatever is told is taken up at once and to its end.
            watch(chatty_epoll_.get(), EPOLL_CTL_MOD, end, EPOLLIN | EPOLLOUT | EPOLLET);
            if (!end.client) continue;
            if (options_.workload == Workload::mix)
                timed_.push_back(index);
            else
                ask(end, now);
            continue;
        }
        watch(chatty_epoll_.get(), EPOLL_CTL_DEL, end, 0);
        if (!bulky(end.role)) continue;
        if (end.role == Role::slow && end.client)
            timed_.push_back(index);
        else {
            if (end.source()) enlarge_buffer(end);
            watch(bulky_epoll_.get(), EPOLL_CTL_ADD, end, end.source() ? EPOLLOUT : 0U);
        }
    }
    slow_due_ = now;
    std::int64_t place = 0;
    for (const std::uint32_t index : timed_)
        ends_[index].due = now + mix_pause * place++ / static_cast<std::int64_t>(timed_.size());
    sinks_from_ = now + filling_time;
}

// What a source has ready for the relay is what lets it stay behind through a hiccup of ours: with the
// kernel's own choice of 16 streams every third run lost that state, with 4 MiB each none of six.
void Traffic::enlarge_buffer(End& end) {
    const int bytes =
        std::clamp(source_bytes / static_cast<int>(connections_), source_bytes_min, source_bytes_max);
    // Beyond net.core.wmem_max only for root.
    if (::setsockopt(end.socket.get(), SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0)
        ::setsockopt(end.socket.get(), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

// Whether those sinks of bulk take that are told of their bytes, which slow readers are not.
void Traffic::let_sinks_take(bool take) {
    for (End& end : ends_)
        if (end.state == End::State::ready && bulky(end.role) && end.sink() &&
            !(end.role == Role::slow && end.client))
            watch(bulky_epoll_.get(), EPOLL_CTL_MOD, end,
                  (take ? EPOLLIN : 0U) | (end.source() && !stopped_ ? EPOLLOUT : 0U));
}

void Traffic::keep_relay_behind() {
    const Time now = Clock::now();
    if (sinks_from_ != time_never) {
        if (now < sinks_from_) return;
        sinks_from_ = time_never;
        idle_at_ = now;
        let_sinks_take(true);
    } else if (now - idle_at_ > never_idle_max && options_.workload != Workload::slow &&
               options_.workload != Workload::mix && !stopped_) {
        sinks_from_ = now + filling_time;
        ++tally_.refills;
        let_sinks_take(false);
    }
}

bool Traffic::turn() {
    if (options_.workload == Workload::echo) return handle_events(chatty_epoll_.get(), events_at_once_max);
    keep_relay_behind();
    bool busy = false;
    if (options_.workload == Workload::mix) {
        busy |= ask_what_is_due();
        busy |= handle_events(chatty_epoll_.get(), events_at_once_max);
        busy |= handle_events(bulky_epoll_.get(), 1);
        if (!busy) idle_at_ = Clock::now();
        return busy;
    }
    if (options_.workload == Workload::slow) busy |= read_slowly();
    busy |= handle_events(bulky_epoll_.get(), events_at_once_max);
    if (!busy) idle_at_ = Clock::now();
    return busy;
}

bool Traffic::handle_events(int epoll, int events_max) {
    std::array<epoll_event, events_at_once_max> events;
    const int count = ::epoll_wait(epoll, events.data(), events_max, 0);
    for (int number = 0; number < count; ++number) {
        const epoll_event& event = events[static_cast<std::size_t>(number)];
        handle(ends_[event.data.u32], event.events);
    }
    return count > 0;
}

void Traffic::handle(End& end, std::uint32_t events) {
    if (end.state == End::State::dead) return;
    if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
        int error = 0;
        socklen_t length = sizeof(error);
        ::getsockopt(end.socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
        return lose(end, "a connection broke", error);
    }
    if (end.state == End::State::greeting) return end.client ? greet(end) : be_greeted(end);
    if (end.role == Role::echo) {
        if ((events & EPOLLOUT) != 0 && end.owed_bytes > 0) send_owed(end);
        if ((events & EPOLLIN) != 0 && end.state == End::State::ready) take_message(end);
        return;
    }
    if ((events & EPOLLIN) != 0) take_bulk(end);
    if ((events & EPOLLOUT) != 0 && !stopped_ && end.state == End::State::ready) send_bulk(end);
}

void Traffic::send_bulk(End& end) {
    const ssize_t sent = material_.send(end.socket.get(), end.sent, bulk_bytes_);
    if (sent > 0) {
        end.sent += static_cast<std::uint64_t>(sent);
    } else if (errno != EAGAIN) {
        lose(end, "bulk could not be sent", errno);
    }
}

void Traffic::take_bulk(End& end) {
    const ssize_t taken = take(end, bulk_bytes_);
    if (taken <= 0) return;
    end.received += static_cast<std::uint64_t>(taken);
    tally_.bytes += static_cast<std::uint64_t>(taken);
}

// Their turns are spread evenly over the interval. Once all is stopped they read as fast as they can.
bool Traffic::read_slowly() {
    const Nanoseconds step = slow_interval / static_cast<std::int64_t>(timed_.size());
    bool busy = false;
    std::size_t readers = 0;
    for (const Time now = Clock::now(); stopped_ ? readers < timed_.size() : slow_due_ <= now; ++readers) {
        slow_due_ += step;
        timed_.push_back(timed_.front());
        timed_.pop_front();
        End& end = ends_[timed_.back()];
        busy = true;
        if (end.state != End::State::ready) continue;
        const ssize_t taken = take(end, slow_bytes);
        if (taken <= 0) continue;
        end.received += static_cast<std::uint64_t>(taken);
        tally_.bytes += static_cast<std::uint64_t>(taken);
    }
    return busy;
}

// --- Questions and answers

// All pauses are equally long, so the queue is in the order of time.
bool Traffic::ask_what_is_due() {
    bool busy = false;
    for (const Time now = Clock::now(); !timed_.empty() && ends_[timed_.front()].due <= now; busy = true) {
        End& end = ends_[timed_.front()];
        timed_.pop_front();
        if (end.state == End::State::ready) ask(end, now);
    }
    return busy;
}

void Traffic::ask(End& end, Time now) {
    if (stopped_) return;
    end.asked = now;
    ++end.serial;
    end.owed_bytes = options_.message_bytes;
    send_owed(end);
}

void Traffic::send_owed(End& end) {
    const std::size_t size = options_.message_bytes;
    while (end.owed_bytes > 0) {
        const std::size_t done = size - end.owed_bytes;
        ssize_t sent = 0;
        if (size <= copied_bytes_max) {
            std::memcpy(scratch_.data(), &end.serial, head_bytes);
            sent = ::send(end.socket.get(), scratch_.data() + done, end.owed_bytes, MSG_NOSIGNAL);
        } else {
            sent = material_.send(end.socket.get(), done, end.owed_bytes);
        }
        if (sent < 0 && errno == EAGAIN) return;
        if (sent <= 0) return lose(end, "a message could not be sent", errno);
        end.owed_bytes -= static_cast<std::size_t>(sent);
    }
}

void Traffic::take_message(End& end) {
    const std::size_t size = options_.message_bytes;
    while (end.arrived_bytes < size) {
        const ssize_t taken = take(end, size - end.arrived_bytes);
        if (taken <= 0) return;
        if (size <= copied_bytes_max) {
            std::uint64_t head = 0;
            const bool whole = end.arrived_bytes == 0 && taken >= static_cast<ssize_t>(head_bytes);
            if (whole) std::memcpy(&head, scratch_.data(), head_bytes);
            // Serials of one connection go up by one; a head that came in pieces is not worth putting
            // together.
            if (whole && head != (end.client ? end.serial : end.serial + 1))
                return lose(end, "a message came twice, late or changed", 0);
        }
        end.arrived_bytes += static_cast<std::size_t>(taken);
    }
    end.arrived_bytes = 0;
    if (!end.client) {
        ++end.serial;
        end.owed_bytes = size;
        return send_owed(end);
    }
    const Time now = Clock::now();
    count_operation(end.asked, now);
    end.asked = time_never;
    if (options_.workload != Workload::mix) return ask(end, now);
    end.due = now + mix_pause;
    timed_.push_back(static_cast<std::uint32_t>(&end - ends_.data()));
}

// --- The end

void Traffic::stop() {
    stopped_ = true;
    sinks_from_ = time_never;
    for (End& end : ends_)
        if (end.state == End::State::ready && bulky(end.role) && !(end.role == Role::slow && end.client))
            watch(bulky_epoll_.get(), EPOLL_CTL_MOD, end, end.sink() ? EPOLLIN : 0U);
}

bool Traffic::settled() const {
    return std::ranges::all_of(ends_, [this](const End& end) {
        if (end.state == End::State::dead) return true;
        if (end.role == Role::echo) return !end.client || end.asked == time_never;
        return !bulky(end.role) || ends_[end.peer].received == end.sent;
    });
}

// --- Sockets

// What has arrived, into the scratch buffer if it fits; 0 or less when nothing did, a broken connection
// counted.
ssize_t Traffic::take(End& end, std::size_t count) {
    const ssize_t taken = count <= scratch_.size()
                              ? ::recv(end.socket.get(), scratch_.data(), count, MSG_DONTWAIT)
                              : discard(end.socket.get(), count);
    if (taken == 0) lose(end, "a connection ended early", 0);
    if (taken < 0 && errno != EAGAIN) lose(end, "a connection broke", errno);
    return taken;
}

void Traffic::watch(int epoll, int operation, End& end, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.u32 = static_cast<std::uint32_t>(&end - ends_.data());
    SLUICE_CHECK(::epoll_ctl(epoll, operation, end.socket.get(), &event) == 0);
}

void Traffic::lose(End& end, const char* what, int error) {
    fail(what, error);
    end.state = End::State::dead;
    end.socket.close();
}

}  // namespace sluice::bench

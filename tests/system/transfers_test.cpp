// Thousands of sessions of every shape at once, byte by byte: what an orderly stream carries arrives whole,
// and what is cut off looks cut off. SLUICE_TRANSFERS says how many.

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"
#include "tests/system/descriptors.hpp"
#include "tests/system/transfer_plan.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::size_t clients_at_once = 64;
// No byte and no end anywhere for so long: something is stuck.
constexpr Milliseconds stall_max{20'000};

std::uint64_t transfers_wanted() {
    if (const char* text = std::getenv("SLUICE_TRANSFERS"); text != nullptr && *text != '\0')
        return std::strtoull(text, nullptr, 10);
    return sanitized ? 400 : 1500;
}

enum class Role : std::uint8_t { client, upstream };

// One end of one session, carrying out its part of the plan.
class Peer {
  public:
    enum class State : std::uint8_t {
        nameless,  // an upstream whose header has not come yet
        talking,
        over,
    };

    Peer(Role role, Socket socket) : role_(role), socket_(std::move(socket)) {}

    // From here on it knows what to do.
    void follow(std::uint64_t index, const TransferPlan& plan) {
        index_ = index;
        plan_ = plan;
        header_ = {TransferHeader{}.magic, index};
        state_ = State::talking;
        if (role_ == Role::upstream) socket_.set_buffers(mine().buffers);
    }

    Role role() const { return role_; }

    int descriptor() const { return socket_.descriptor(); }
    State state() const { return state_; }
    std::uint64_t moved() const { return sent_ + received_; }
    std::uint64_t index() const { return index_; }
    const TransferHeader& header() const { return header_; }
    bool header_complete() const { return received_ >= sizeof header_; }
    const std::string& complaint() const { return complaint_; }

    void note_events() { readable_ = writable_ = true; }
    bool queued = false;
    // Set when it rests; the owner wakes it then.
    std::uint32_t pause_ms() { return std::exchange(pause_wanted_ms_, 0); }
    void wake() { resting_ = false; }

    // Does a little of what can be done now. True when there may be more to do without a new event.
    bool step() {
        for (int calls = 0; calls < 8; ++calls) {
            if (state_ == State::over) return false;
            if (state_ == State::talking && reset_due()) {
                socket_.reset();
                state_ = State::over;
                return false;
            }
            const bool received = receive();
            // The owner looks up the plan.
            if (state_ == State::nameless && header_complete()) return true;
            const bool sent = state_ == State::talking && send();
            settle();
            if (!received && !sent) return false;
        }
        return true;
    }

    std::string describe() const {
        const auto number = [](std::uint64_t value) { return std::to_string(value); };
        std::string text = role_ == Role::client ? "client" : "upstream";
        if (state_ == State::nameless) return text + " without a header, received " + number(received_);
        text += " of transfer " + number(index_) + ": sent " + number(sent_) + "/" + number(mine().bytes) +
                (fin_sent_ ? " and FIN" : "") + ", received " + number(received_) + "/" +
                number(theirs().bytes) + (fin_received_ ? " and FIN" : "");
        if (broken_) text += ", broken";
        if (resting_) text += ", resting";
        if (mine().reset != ResetMoment::none) text += ", resets";
        if (theirs().reset != ResetMoment::none) text += ", is reset";
        if (mine().speak_after_end) text += ", answers after FIN";
        if (mine().buffers.receive > 0)
            text += ", buffer " + number(static_cast<std::uint64_t>(mine().buffers.receive));
        return text;
    }

  private:
    const Conduct& mine() const { return role_ == Role::client ? plan_.client : plan_.upstream; }
    const Conduct& theirs() const { return role_ == Role::client ? plan_.upstream : plan_.client; }

    void complain(const std::string& what) {
        if (complaint_.empty()) complaint_ = what + " (" + describe() + ")";
    }

    bool reset_due() const {
        if (mine().reset == ResetMoment::none) return false;
        if (mine().reset == ResetMoment::after_fin && !fin_sent_) return false;
        return sent_ >= mine().reset_sent && received_ >= mine().reset_received;
    }

    // True when it may go on at once.
    bool receive() {
        if (!readable_ || resting_ || ended_) return false;
        static std::array<char, 256 * 1024> buffer;
        std::size_t limit = buffer.size();
        if (state_ == State::nameless)
            limit = sizeof header_ - received_;
        else
            limit = std::min(limit, mine().read_max);
        const ssize_t size = ::recv(descriptor(), buffer.data(), limit, 0);
        if (size > 0) {
            take(std::string_view(buffer.data(), static_cast<std::size_t>(size)));
            return !resting_;
        }
        if (size == 0) {
            ended_ = true;
            // After an error that a send has told, recv tells nothing more than this.
            if (!broken_) on_fin();
        } else if (errno == EAGAIN) {
            readable_ = false;
            return false;
        } else if (errno == ECONNRESET || errno == EPIPE) {
            ended_ = broken_ = true;
        } else if (errno != EINTR) {
            ended_ = broken_ = true;
            complain(std::string("recv: ") + std::strerror(errno));
        }
        return true;
    }

    void take(std::string_view bytes) {
        if (state_ == State::nameless) {
            std::memcpy(reinterpret_cast<char*>(&header_) + received_, bytes.data(), bytes.size());
            received_ += bytes.size();
            return;
        }
        const std::uint64_t prefix = role_ == Role::upstream ? sizeof header_ : 0;
        const std::uint64_t at = received_ - prefix + theirs().content;
        if (received_ + bytes.size() > theirs().bytes)
            complain("more bytes than were sent");
        else if (bytes != transfer_content().substr(at, bytes.size()))
            complain("wrong bytes");
        received_ += bytes.size();
        if (pauses_ < mine().pauses) {
            ++pauses_;
            resting_ = true;
            pause_wanted_ms_ = mine().pause_ms;
        }
    }

    void on_fin() {
        if (state_ == State::nameless) return;
        fin_received_ = true;
        if (received_ == theirs().bytes && theirs().reset != ResetMoment::before_fin) return;
        complain("FIN, but the stream is not whole");
    }

    bool may_speak() const {
        if (mine().speak_after_end) return fin_received_;
        return received_ >= mine().speak_after || fin_received_;
    }

    // True when it may go on at once.
    bool send() {
        if (broken_ || fin_sent_) return false;
        if (sent_ == mine().bytes) return say_fin();
        if (!writable_ || !may_speak()) return false;
        std::string_view bytes;
        if (role_ == Role::client && sent_ < sizeof header_) {
            bytes = std::string_view(reinterpret_cast<const char*>(&header_), sizeof header_).substr(sent_);
        } else {
            const std::uint64_t prefix = role_ == Role::client ? sizeof header_ : 0;
            bytes = transfer_content().substr(sent_ - prefix + mine().content, mine().bytes - sent_);
        }
        bytes = bytes.substr(0, sent_ < mine().tiny_writes ? 1 : mine().write_max);
        if (mine().reset == ResetMoment::before_fin && sent_ < mine().reset_sent)
            bytes = bytes.substr(0, mine().reset_sent - sent_);
        const ssize_t size = ::send(descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (size >= 0) {
            sent_ += static_cast<std::uint64_t>(size);
        } else if (errno == EAGAIN) {
            writable_ = false;
            return false;
        } else if (errno == ECONNRESET || errno == EPIPE) {
            broken_ = true;
        } else if (errno != EINTR) {
            broken_ = true;
            complain(std::string("send: ") + std::strerror(errno));
        }
        return true;
    }

    bool say_fin() {
        if (mine().reset == ResetMoment::before_fin || !may_speak()) return false;
        if (received_ < mine().fin_after && !fin_received_) return false;
        if (::shutdown(descriptor(), SHUT_WR) == 0)
            fin_sent_ = true;
        else
            broken_ = true;  // ENOTCONN: reset before we came to it
        return true;
    }

    // Is it over, and as it should be?
    void settle() {
        if (state_ == State::over) return;
        if (state_ == State::nameless) {
            if (!ended_) return;
            if (!broken_) complain("the client's reset before its header came as a FIN");
        } else if (broken_) {
            // What came before the reset can still be read, and counts.
            if (!ended_) return;
            if (theirs().reset == ResetMoment::none) complain("broken, though nobody broke it");
        } else {
            if (!ended_ || !fin_sent_) return;
        }
        state_ = State::over;
        socket_.close();
    }

    Role role_;
    State state_ = State::nameless;
    Socket socket_;
    std::uint64_t index_ = 0;
    TransferPlan plan_;
    TransferHeader header_{0, 0};
    std::string complaint_;
    std::uint64_t sent_ = 0;
    std::uint64_t received_ = 0;
    std::uint32_t pauses_ = 0;
    std::uint32_t pause_wanted_ms_ = 0;
    bool readable_ = true;
    bool writable_ = true;
    bool resting_ = false;
    bool ended_ = false;  // recv has told the end
    bool fin_sent_ = false;
    bool fin_received_ = false;
    bool broken_ = false;  // a reset was seen, by recv or by send
};

// All clients and the backend, in one loop on one thread.
class Crowd {
  public:
    Crowd(std::string address, Listener& backend, std::uint64_t transfers, bool resets)
        : address_(std::move(address)),
          backend_(backend),
          transfers_(transfers),
          resets_(resets),
          seed_(seed()),
          epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
        watch(backend_.descriptor(), EPOLLIN);
    }

    // Until every transfer is over; empty, or what went wrong.
    std::string run() {
        progress_at_ = TestClock::now();
        while (complaint_.empty() && (started_ < transfers_ || !peers_.empty())) {
            while (started_ < transfers_ && clients_ < clients_at_once) start_client();
            poll();
            wake_the_rested();
            // A bounded round, so that new events and new clients are not kept waiting.
            for (std::size_t left = ready_.size(); left > 0; --left) {
                const int descriptor = ready_.front();
                ready_.pop_front();
                if (auto found = peers_.find(descriptor); found != peers_.end()) turn(found);
            }
            if (TestClock::now() - progress_at_ > stall_max) return describe_stall();
        }
        return complaint_;
    }

    std::uint64_t bytes() const { return bytes_; }

  private:
    using Peers = std::unordered_map<int, std::unique_ptr<Peer>>;

    void watch(int descriptor, std::uint32_t events) {
        epoll_event event{};
        event.events = events;
        event.data.fd = descriptor;
        if (::epoll_ctl(epoll_.descriptor(), EPOLL_CTL_ADD, descriptor, &event) != 0)
            throw std::runtime_error(std::string("epoll_ctl: ") + std::strerror(errno));
    }

    void add(std::unique_ptr<Peer> peer) {
        const int descriptor = peer->descriptor();
        watch(descriptor, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
        peer->queued = true;
        ready_.push_back(descriptor);
        peers_.insert_or_assign(descriptor, std::move(peer));
    }

    void start_client() {
        const TransferPlan plan = draw_transfer(seed_, started_, resets_);
        auto peer = std::make_unique<Peer>(Role::client, connect_to(address_, plan.client.buffers));
        peer->follow(started_, plan);
        ++started_;
        ++clients_;
        add(std::move(peer));
    }

    void accept_all() {
        while (backend_.waiting()) {
            add(std::make_unique<Peer>(Role::upstream, backend_.accept()));
        }
    }

    void poll() {
        std::array<epoll_event, 256> events;
        int timeout_ms = ready_.empty() ? 100 : 0;
        if (!rests_.empty() && timeout_ms > 0) timeout_ms = 1;
        const int count =
            ::epoll_wait(epoll_.descriptor(), events.data(), static_cast<int>(events.size()), timeout_ms);
        for (int index = 0; index < count; ++index) {
            const int descriptor = events.at(static_cast<std::size_t>(index)).data.fd;
            if (descriptor == backend_.descriptor()) {
                accept_all();
            } else if (auto found = peers_.find(descriptor); found != peers_.end()) {
                found->second->note_events();
                enqueue(*found->second);
            }
        }
    }

    void enqueue(Peer& peer) {
        if (std::exchange(peer.queued, true)) return;
        ready_.push_back(peer.descriptor());
    }

    void wake_the_rested() {
        const auto now = TestClock::now();
        while (!rests_.empty() && rests_.begin()->first <= now) {
            // The descriptor may belong to another peer by now, for which waking means nothing.
            if (auto found = peers_.find(rests_.begin()->second); found != peers_.end()) {
                found->second->wake();
                enqueue(*found->second);
            }
            rests_.erase(rests_.begin());
        }
    }

    void turn(Peers::iterator found) {
        Peer& peer = *found->second;
        peer.queued = false;
        const std::uint64_t before = peer.moved();
        const bool more = peer.step();
        bytes_ += peer.moved() - before;
        if (peer.moved() != before) progress_at_ = TestClock::now();
        if (peer.state() == Peer::State::nameless && peer.header_complete()) {
            const TransferHeader header = peer.header();
            if (header.magic != TransferHeader{}.magic || header.index >= started_) {
                complaint_ = "a header that nobody sent";
                return;
            }
            peer.follow(header.index, draw_transfer(seed_, header.index, resets_));
        }
        if (const std::uint32_t pause = peer.pause_ms(); pause > 0)
            rests_.emplace(TestClock::now() + Milliseconds(pause), peer.descriptor());
        if (!peer.complaint().empty()) complaint_ = peer.complaint();
        if (peer.state() == Peer::State::over) {
            progress_at_ = TestClock::now();
            if (peer.role() == Role::client) --clients_;
            peers_.erase(found);
        } else if (more) {
            enqueue(peer);
        }
    }

    std::string describe_stall() const {
        std::string text = "nothing moves any more; waiting are";
        std::size_t listed = 0;
        for (const auto& [descriptor, peer] : peers_)
            if (++listed <= 12) text += "\n  " + peer->describe();
        return text;
    }

    std::string address_;
    Listener& backend_;
    std::uint64_t transfers_;
    bool resets_;
    std::uint64_t seed_;
    Socket epoll_;
    Peers peers_;
    std::deque<int> ready_;
    std::multimap<TestClock::time_point, int> rests_;
    std::uint64_t started_ = 0;
    std::uint64_t bytes_ = 0;
    std::size_t clients_ = 0;
    TestClock::time_point progress_at_;
    std::string complaint_;
};

RelayLayout layout_of_transfers() {
    RelayLayout layout;
    layout.settings = "workers: 2\n";
    return layout;
}

void run_transfers(RelayWithBackend& relay, const char* what, std::uint64_t transfers, bool resets) {
    const pid_t pid = relay.relay().pid();
    const Descriptors before = descriptors_of(pid);
    const auto start = TestClock::now();
    Crowd crowd(relay.address(), relay.backend(), transfers, resets);
    const std::string complaint = crowd.run();
    CHECK_MESSAGE(complaint.empty(), "seed " << seed() << ": " << complaint);
    const std::chrono::duration<double> seconds = TestClock::now() - start;
    std::printf("transfers %s: %llu transfers, %.2f GiB, %.1f s, seed %llu\n", what,
                static_cast<unsigned long long>(transfers),
                static_cast<double>(crowd.bytes()) / 2 / (1 << 30), seconds.count(),
                static_cast<unsigned long long>(seed()));
    // Pipes are kept for later, up to a bound: 16 of each of three sizes for each of two workers. Everything
    // else is as it was.
    CHECK(wait_until([&] { return descriptors_of(pid).sockets == before.sockets; }));
    CHECK(descriptors_of(pid).others == before.others);
    CHECK(descriptors_of(pid).pipes <= before.pipes + std::size_t{2} * 3 * 16 * 2);
    const std::set<std::string> reasons = {"client_fin", "upstream_fin", "client_reset", "upstream_reset"};
    for (const AccessLine& line : relay.access_log(1))
        CHECK_MESSAGE((!resets || reasons.contains(line.end)), line.text);
    relay.stop();
}

ENGINE_TEST("every orderly stream arrives whole and every broken one is visibly broken") {
    RelayWithBackend relay(here, layout_of_transfers());
    run_transfers(relay, to_string(here.engine), transfers_wanted(), true);
}

ENGINE_TEST("every stream between unix sockets arrives whole") {
    const TemporaryFolder folder;
    RelayLayout layout = layout_of_transfers();
    layout.listen = "unix:" + folder.file("front");
    layout.backend = "unix:" + folder.file("back");
    RelayWithBackend relay(here, layout);
    run_transfers(relay, "unix to unix", transfers_wanted() / 5, false);
}

ENGINE_TEST("every stream from a TCP client to a unix backend arrives whole") {
    const TemporaryFolder folder;
    RelayLayout layout = layout_of_transfers();
    layout.backend = "unix:" + folder.file("back");
    RelayWithBackend relay(here, layout);
    run_transfers(relay, "TCP to unix", transfers_wanted() / 5, false);
}

ENGINE_TEST("every stream from a unix client to a TCP backend arrives whole") {
    RelayLayout layout = layout_of_transfers();
    layout.listen = "unix:@sluice-transfers-" + std::to_string(::getpid());
    RelayWithBackend relay(here, layout);
    run_transfers(relay, "unix to TCP", transfers_wanted() / 5, false);
}

}  // namespace
}  // namespace sluice::test

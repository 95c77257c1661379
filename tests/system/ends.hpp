#pragma once

// What the tests about ends, half-close and stalls have in common: the situations in which a session can be
// when its end comes, and ways to look at sockets and at the relay's descriptors.

#include "tests/support/relay.hpp"

#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace sluice::test {

// What must happen without anything to wait for happens within this time.
const Milliseconds soon = sanitized ? Milliseconds(10'000) : Milliseconds(3'000);

// By which path a flow's bytes go when the end comes.
enum class Path { copy, splice };

// What is under way when the end comes.
enum class Moment {
    nothing_sent,   // every byte has arrived
    mid_transfer,   // bytes are on their way, and the other side reads
    channel_full,   // as many bytes are on their way as fit, then the other side begins to read
    other_stalled,  // bytes are on their way, and the other side does not read until long after the end
};

struct Situation {
    Path path = Path::copy;
    Moment moment = Moment::nothing_sent;
};

inline constexpr std::array situations = {
    Situation{Path::copy, Moment::nothing_sent},   Situation{Path::copy, Moment::mid_transfer},
    Situation{Path::copy, Moment::channel_full},   Situation{Path::copy, Moment::other_stalled},
    Situation{Path::splice, Moment::nothing_sent}, Situation{Path::splice, Moment::mid_transfer},
    Situation{Path::splice, Moment::channel_full}, Situation{Path::splice, Moment::other_stalled},
};

inline std::string to_string(Situation situation) {
    constexpr std::array names = {"nothing sent", "mid-transfer", "channel full", "other side stalled"};
    return std::string(names[static_cast<std::size_t>(situation.moment)]) + ", " +
           (situation.path == Path::copy ? "copy" : "splice");
}

// Sends and receives at the same time, so that any amount passes. Returns what arrived; throws when that is
// less at the deadline.
inline std::string pass(Socket& from, Socket& to, std::string_view bytes, Milliseconds deadline = patience) {
    std::string received;
    std::size_t sent = 0;
    const auto end = TestClock::now() + deadline;
    while (received.size() < bytes.size()) {
        if (sent < bytes.size()) sent += from.send_some(bytes.substr(sent, 256 * 1024));
        std::array<pollfd, 2> entries{
            {{to.descriptor(), POLLIN, 0}, {sent < bytes.size() ? from.descriptor() : -1, POLLOUT, 0}}};
        ::poll(entries.data(), entries.size(), 100);
        if (entries[0].revents != 0) {
            const std::string piece = to.receive_some(1024 * 1024);
            if (piece.empty()) throw std::runtime_error("pass: the stream ended early");
            received += piece;
        }
        if (TestClock::now() > end)
            throw std::runtime_error("pass: only " + std::to_string(received.size()) + " of " +
                                     std::to_string(bytes.size()) + " bytes came before the deadline");
    }
    return received;
}

// Enough through one flow that the relay splices it from then on.
inline constexpr std::size_t promoting_bytes = 2 * 1024 * 1024;
inline void promote(Socket& from, Socket& to) {
    const std::string bytes = pattern(promoting_bytes, 7);
    REQUIRE(pass(from, to, bytes) == bytes);
}

// Bytes that were sent and that the other kernel has not acknowledged.
inline std::size_t unacknowledged(const Socket& socket) {
    int size = 0;
    if (::ioctl(socket.descriptor(), SIOCOUTQ, &size) != 0) throw std::runtime_error("SIOCOUTQ failed");
    return static_cast<std::size_t>(size);
}

// Waits until the relay's kernel has everything: what is there cannot be lost by a reset of the sender.
inline void wait_acknowledged(const Socket& socket) {
    REQUIRE(wait_until([&] { return unacknowledged(socket) == 0; }));
}

// Waits until bytes are there, and leaves them.
inline bool readable(const Socket& socket, Milliseconds deadline = patience) {
    pollfd entry{socket.descriptor(), POLLIN, 0};
    return ::poll(&entry, 1, static_cast<int>(deadline.count())) == 1;
}

// True once the connection is gone: for sockets that have seen a FIN already, on which recv answers 0 for
// ever, also after a reset. REQUIRES: the socket has not shut down its own side (then HUP means an orderly
// end)
inline bool becomes_broken(const Socket& socket, Milliseconds deadline = patience) {
    pollfd entry{socket.descriptor(), 0, 0};
    return ::poll(&entry, 1, static_cast<int>(deadline.count())) == 1;
}

// One window, measured to the nanosecond: less than 1 % of one CPU.
inline bool comes_to_rest(pid_t pid) {
    const double share = cpu_share(pid, Milliseconds(2'000));
    INFO("CPU of the relay: ", share);
    CHECK(share < (sanitized ? 0.05 : 0.01));
    return share < (sanitized ? 0.05 : 0.01);
}

// Descriptors of a process whose target in /proc begins so: "socket:", "pipe:".
inline std::size_t descriptors_of_kind(pid_t pid, const std::string& kind) {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
        std::error_code gone;  // it may close between the listing and the look
        if (std::filesystem::read_symlink(entry.path(), gone).string().starts_with(kind)) ++count;
    }
    return count;
}

// The relay has as many sockets as it had; pipes may stay, in the pool for the next session.
inline void expect_sockets(RelayProcess& relay, std::size_t count) {
    CHECK(wait_until([&] { return descriptors_of_kind(relay.pid(), "socket:") == count; }, soon));
    if (const std::size_t now = descriptors_of_kind(relay.pid(), "socket:"); now != count)
        FAIL_CHECK("the relay had " << count << " sockets and has " << now << " now");
}

// What `far` has yet to receive when the end comes.
struct Pending {
    std::string bytes;               // all that near sent and far has not received
    std::size_t certain_bytes = 0;   // of these, what the relay's kernel had acknowledged
    std::size_t received_bytes = 0;  // what far received before
};

// A word from far to near. A backend's kernel answers before the relay has learnt of it, and a client that is
// reset while its backend is being dialled is let go with its bytes; after this word the relay is past that.
inline void establish(Ends& ends) {
    ends.far.send_all("hello");
    REQUIRE(ends.near.receive_exactly(5) == "hello");
}

// Brings a new session into the situation.
inline Pending bring_into(Situation situation, Ends& ends) {
    Pending pending;
    if (situation.moment != Moment::nothing_sent) establish(ends);
    if (situation.path == Path::splice) {
        promote(ends.near, ends.far);
        pending.received_bytes += promoting_bytes;
    }
    const bool far_reads = situation.moment == Moment::mid_transfer;
    switch (situation.moment) {
        case Moment::nothing_sent: break;
        case Moment::mid_transfer:
        case Moment::other_stalled: {
            pending.bytes = pattern(situation.path == Path::splice ? 192 * 1024 : 20 * 500, 3);
            const std::string_view bytes = pending.bytes;
            const std::size_t piece = situation.path == Path::splice ? bytes.size() : 500;
            for (std::size_t at = 0; at < bytes.size(); at += piece)
                ends.near.send_all(bytes.substr(at, piece));
            if (far_reads) {
                const std::size_t half = bytes.size() / 2;
                REQUIRE(ends.far.receive_exactly(half) == bytes.substr(0, half));
                pending.bytes.erase(0, half);
                pending.received_bytes += half;
            }
            wait_acknowledged(ends.near);
            pending.certain_bytes = pending.bytes.size();
            break;
        }
        case Moment::channel_full: {
            const std::size_t size = ends.near.send_until_full(256 * 1024 * 1024);
            pending.bytes = pattern(size, 0);
            pending.certain_bytes = size - unacknowledged(ends.near);
            break;
        }
    }
    return pending;
}

// Connects where the relay may answer with a reset at once: then the socket is not open.
inline Socket connect_or_reset(const std::string& address) {
    try {
        return connect_to(address);
    } catch (const std::runtime_error&) {
        return {};
    }
}
inline Ending ending_of(Socket& socket) {
    return socket.open() ? socket.receive_to_end(soon).ending : Ending::reset;
}

// Small buffers at both ends and in between, so that a channel is full soon.
inline RelayLayout ends_layout() {
    RelayLayout layout;
    layout.listener_settings = layout.pool_settings =
        "    tcp: {receive_buffer: 256KiB, send_buffer: 256KiB}\n";
    layout.settings = "workers: 1\n";
    layout.client_buffers = {64 * 1024, 64 * 1024};
    layout.backend_buffers = {64 * 1024, 64 * 1024};
    return layout;
}

// Runs the body in every situation, each time with a new session of one relay; afterwards the log must give
// this reason and the relay must have its sockets back.
//     body(Ends& ends, Situation situation, Pending& pending) -> bytes that far received from then on
template <class Body>
void in_every_situation(RelayCase here, const std::string& reason_of_near, Body body) {
    RelayWithBackend relay(here, ends_layout());
    const std::size_t sockets = descriptors_of_kind(relay.relay().pid(), "socket:");
    std::size_t sessions = 0;
    for (const Situation situation : situations) {
        CAPTURE(to_string(situation));
        std::size_t received = 0;
        {
            Ends ends = relay.session();
            Pending pending = bring_into(situation, ends);
            received = body(ends, situation, pending) + pending.received_bytes;
        }
        const AccessLine line = relay.access_log(++sessions).back();
        CAPTURE(line.text);
        CHECK(line.end == relay.near_end(reason_of_near));
        CHECK(relay.near_to_far(line) == received);
        if (situation.path == Path::splice) CHECK(line.path != "copy");
        expect_sockets(relay.relay(), sockets);
    }
    relay.stop();
}

// After the end, far does what the situation says: reads at once, or lets time pass first.
inline Received receive_rest(Ends& ends, Situation situation) {
    if (situation.moment == Moment::other_stalled) std::this_thread::sleep_for(glance);
    return ends.far.receive_to_end();
}

}  // namespace sluice::test

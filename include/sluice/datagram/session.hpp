#pragma once

#include "sluice/account/seat.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/base/deadlines.hpp"
#include "sluice/base/list.hpp"
#include "sluice/base/slab.hpp"
#include "sluice/config/config.hpp"
#include "sluice/datagram/pace.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/datagram_batch.hpp"
#include "sluice/net/datagram_sender.hpp"
#include "sluice/net/owned_fd.hpp"
#include "sluice/net/socket.hpp"
#include "sluice/upstream/pool.hpp"

#include <cstdint>
#include <memory>
#include <optional>

namespace sluice {

struct DatagramSession;
struct DatagramIdleTag;   // when it is over without a datagram
struct DatagramRetryTag;  // when a reply that is held is tried again
struct DatagramUseTag;    // in the order of the last use
struct DatagramRunTag;    // the run queue
struct DatagramClockTag;  // the listeners that are read by the clock

// One address where datagrams come in, as one worker knows it. Outlives its sessions.
struct DatagramListener : ListNode<DatagramRunTag>, ListNode<DatagramClockTag> {
    OwnedFd socket;
    const config::Listener* settings = nullptr;
    Pool* pool = nullptr;
    Seat::Count* sessions = nullptr;  // of the listener, over all workers
    Seat::Count* wanted =
        nullptr;  // when a worker with less than its share last asked the others for a place
    SocketOptions upstream_options;
    std::uint32_t index = 0;  // in the worker
    // Of the listeners of the same settings (its addresses, the ports of a range) the first: it has `own` and
    // `by_use` for all of them, because they share the limit.
    DatagramListener* first = nullptr;
    std::uint32_t own = 0;           // sessions of this worker
    std::uint32_t idle_class = 0;    // deadline class of its sessions
    const Endpoint* bind = nullptr;  // which of the listener's addresses
    SocketAddress address;           // that it is bound to
    bool local = false;              // unix
    std::uint16_t port_offset = 0;   // of its port in the range of ports
    bool watched = false;            // a watch of its socket is outstanding
    bool readable = false;           // as far as we know
    DatagramPace pace;
    std::uint32_t holding = 0;  // sessions that hold a message of its clients: until they are rid of it,
                                // nothing is read
    List<DatagramSession, DatagramUseTag> by_use;  // the least recently used one first
};

// A message that its target had no room for.
struct HeldMessage {
    std::unique_ptr<std::byte[]> memory;  // null: none is held
    std::uint32_t bytes = 0;

    bool held() const noexcept { return memory != nullptr; }
};

// What the datagrams of one client to one address of ours have in common: an upstream socket of their own.
// Plain data in a worker's slab; DatagramSessions begins and ends it, DatagramTable moves its datagrams.
struct DatagramSession : DeadlineNode<DatagramIdleTag>,
                         DeadlineNode<DatagramRetryTag>,
                         ListNode<DatagramUseTag>,
                         ListNode<DatagramRunTag> {
    DatagramSession(SlotName its_name, DatagramListener& its_listener, Seat its_seat, Time now) noexcept
        : name(its_name), listener(&its_listener), started(now), used(now), seat(std::move(its_seat)) {}

    SlotName name;
    bool closing = false;         // ended: only the last answer is awaited
    bool watched = false;         // a watch of the upstream socket is outstanding
    bool readable = false;        // as far as we know
    bool indexed = false;         // its client's next datagram will find it
    bool upstream_local = false;  // unix
    Pool::Attempt attempt;
    int error = 0;  // the last errno of either side
    OwnedFd upstream;
    // Learned of the ways to the upstream and to the client.
    std::uint16_t upload_segment_max = DatagramSender::segment_unlimited;
    std::uint16_t download_segment_max = DatagramSender::segment_unlimited;

    DatagramListener* listener;
    SocketAddress client;    // no address: a nameless unix one, who cannot be answered
    ReachedAddress reached;  // the address of ours that it sent to
    std::uint64_t hash = 0;
    DatagramSession* next_in_bucket = nullptr;  // of the index

    Time started;
    Time used;  // the last time that a datagram came, either way
    std::uint64_t upload_bytes = 0;
    std::uint64_t download_bytes = 0;
    std::uint64_t requests = 0;  // datagrams that came from the client, sent on or lost
    std::uint64_t upload_datagrams = 0;
    std::uint64_t download_datagrams = 0;
    std::uint64_t lost_datagrams = 0;
    HeldMessage upload_held;
    HeldMessage download_held;
    std::optional<Seat> seat;  // until it ends

    // Both sides are unix sockets, whose users know that nothing is lost: what finds no room waits.
    bool reliable() const noexcept { return listener->local && upstream_local; }
};

}  // namespace sluice

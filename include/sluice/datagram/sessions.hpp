#pragma once

#include "sluice/account/counters.hpp"
#include "sluice/account/end.hpp"
#include "sluice/account/record.hpp"
#include "sluice/account/seat.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/base/deadlines.hpp"
#include "sluice/base/slab.hpp"
#include "sluice/config/config.hpp"
#include "sluice/datagram/index.hpp"
#include "sluice/datagram/session.hpp"
#include "sluice/reactor/reactor.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

namespace sluice {

// When workers last asked the others for places under the limits. One for the process: shared by its workers.
struct DatagramWishes {
    alignas(64) Seat::Count any{0};  // of the process, or of whichever listener
    Seat::Count of_process{0};
};

// What a worker lends to its datagram sessions. Outlives them.
struct DatagramServices {
    Reactor& reactor;
    WorkerCounters& counters;
    Records& records;
    std::size_t worker;           // whose ring of records
    config::AccessEvents events;  // what is recorded
    Seat::Count& sessions;        // of the process
    std::uint32_t sessions_max;   // likewise
    DatagramWishes& wishes;       // likewise
    std::uint32_t workers;        // that share them
};

// Something that a flood could say with every datagram, and that the log hears once in ten seconds.
class RareWarning {
  public:
    // Counts; answers how many there were since the last time that it was worth a line, or 0.
    std::uint64_t due(std::uint64_t times, Time now) noexcept;

  private:
    std::uint64_t untold_ = 0;
    Time told_at_ = Time::min();
};

// All datagram sessions of one worker: how they begin, are found and end.
class DatagramSessions {
  public:
    using Listeners = std::vector<std::unique_ptr<DatagramListener>>;

    // Throws std::bad_alloc. The listeners belong to the caller and outlive this.
    DatagramSessions(const DatagramServices& services, const Listeners& listeners);

    static DatagramKey key_of(const DatagramListener& listener, const DatagramMessage& message) noexcept {
        return {listener.index, message.sender, message.reached};
    }
    // Equal keys have equal hashes; others almost never.
    std::uint64_t hash(const DatagramKey& key) const noexcept { return index_.hash(key); }

    // Whom such messages belong to; null: nobody yet.
    DatagramSession* find(const DatagramKey& key, std::uint64_t hash) noexcept {
        return index_.find(key, hash);
    }

    // A new session for this client, who sent so many datagrams at once, its upstream socket connected and
    // watched. Where there is no place, the least recently used one is ended for it. Null: then `why` says
    // what becomes of the message.
    DatagramSession* open(DatagramListener& listener, const DatagramKey& key, std::uint64_t hash,
                          std::uint64_t datagrams, Time now, Loss& why) noexcept;

    // Ends sessions that another worker wants the places of, if we have more than our share. Which worker
    // serves a client is the kernel's choice: those whose clients came first must not keep all places for
    // ever.
    void give_way(Time now) noexcept;

    // There is something to be read, as far as we know: its turn comes.
    void queue(DatagramListener& listener) noexcept;
    // A session is rid of a message that the listener's others had to wait for.
    void release(DatagramListener& listener) noexcept;

    // A datagram came, either way.
    void used(DatagramSession& session, Time now) noexcept;

    // Its client's next datagram begins a new session.
    void forget(DatagramSession& session) noexcept {
        if (session.indexed) index_.erase(session);
    }

    // Watches its upstream socket. REQUIRES: no watch is outstanding
    void watch(DatagramSession& session) noexcept;

    // Counts and records it, and gives back all that it has but the socket and the slot.
    // REQUIRES: not closing
    void end(DatagramSession& session, End reason, Time now) noexcept;
    void end_all(End reason, Time now) noexcept;

    // The one place where a slot is taken back: when it has ended and nothing names it any more.
    void retire_if_quiet(DatagramSession& session) noexcept;

    DatagramSession* named(SlotName name) noexcept { return slab_->find(name); }
    std::uint32_t size() const noexcept { return slab_->size(); }
    // Ended, but with a socket that the reactor has not let go of.
    std::uint32_t in_passing() const noexcept { return slab_->size() - live_; }

    Deadlines<DatagramSession, DatagramIdleTag> idle;
    Deadlines<DatagramSession, DatagramRetryTag> retries;
    List<DatagramListener, DatagramRunTag> ready_listeners;

  private:
    // More places than seats: one that was ended keeps its place until the reactor has let go of its socket.
    static constexpr std::uint32_t places_in_passing = 4096;

    bool dial(DatagramSession& session, End& failure) noexcept;
    static bool wished_lately(const Seat::Count& wanted, Time now) noexcept;
    static void wish(Seat::Count& wanted, Time now) noexcept;
    bool process_is_full() const noexcept;
    // Of the process's places, those that streams have included.
    std::uint64_t share() const noexcept { return std::uint64_t{live_} * services_.workers; }
    void give_way(DatagramListener& listener, Time now) noexcept;
    std::optional<Seat> take_seat(DatagramListener& listener, Time now) noexcept;
    Seat seat_of(DatagramSession& victim, Time now) noexcept;
    DatagramSession* least_recently_used() noexcept;
    void record(const DatagramSession& session, SessionRecord::Event event, End end, Time now) noexcept;

    DatagramServices services_;
    const Listeners& listeners_;
    DatagramIndex index_;
    std::uint32_t live_ = 0;  // sessions that have begun and not ended
    std::unique_ptr<Slab<DatagramSession>> slab_;
    RareWarning evictions_;
    RareWarning refusals_;
    RareWarning shortages_;
};

}  // namespace sluice

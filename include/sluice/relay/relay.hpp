#pragma once

#include "sluice/account/counters.hpp"
#include "sluice/account/record.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/config/config.hpp"
#include "sluice/net/address.hpp"

#include <array>
#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

// The sums over all workers at one moment.
struct RelayCounters {
    std::uint64_t sessions = 0;
    std::uint64_t sessions_now = 0;
    std::array<std::uint64_t, ends_count> ends{};
    std::uint64_t spliced_bytes = 0;
    std::uint64_t copied_bytes = 0;
    std::uint64_t stale_completions = 0;
    std::uint64_t accept_pauses = 0;
    std::uint64_t pipe_refusals = 0;
    std::uint64_t system_calls = 0;
    std::uint64_t pipe_bytes = 0;
    std::uint64_t datagrams_received = 0;
    std::uint64_t datagrams_sent = 0;
    std::array<std::uint64_t, losses_count> datagrams_lost{};  // by Loss
    std::uint64_t records_lost = 0;
};

// The whole relay of one configuration: its listeners, its workers (a thread each) and its resolver.
//
// Life: open() -> start() -> drain() and/or kill() -> wait_until_idle() -> destroyed. Each is called by the
// thread that owns the relay. Destroying a running relay kills its sessions and joins its threads.
class Relay {
  public:
    // Binds every address of the configuration, for every worker, and begins to listen; nothing is accepted
    // yet. All errors at once, each a sentence that names the listener, the address and what to do. On
    // failure nothing stays open, and unix paths that were made are gone again.
    static std::expected<std::unique_ptr<Relay>, std::vector<std::string>> open(
        std::shared_ptr<const config::Config> config);

    // Starts the resolver and the workers; returns once every worker accepts.
    virtual std::expected<void, std::string> start() = 0;

    // Stops accepting (clients that wait in the queues are still taken), and ends with End::drained what is
    // left at the deadline. Returns at once.
    virtual void drain(Time deadline) = 0;

    // Ends every session now, with End::killed, after which the workers stop. Returns at once.
    virtual void kill() = 0;

    // Waits until all workers have stopped (which they do after drain() or kill() once no session is left).
    // False if that was not so by the deadline.
    virtual bool wait_until_idle(Time deadline) = 0;

    virtual const char* engine() const noexcept = 0;                // "io_uring" or "epoll"
    virtual const std::string& engine_reason() const noexcept = 0;  // a sentence
    virtual std::uint32_t workers() const noexcept = 0;  // and as many for files, where there are any
    virtual std::uint32_t sessions_max() const noexcept = 0;
    // Where each bind address of the configuration really listens, in its order (port 0 became a port).
    virtual const std::vector<SocketAddress>& addresses() const noexcept = 0;
    virtual RelayCounters counters() const noexcept = 0;
    // Which events are recorded is the configuration's access_log.events. Exactly one thread may read them.
    virtual Records& records() noexcept = 0;

    virtual ~Relay() = default;
};

}  // namespace sluice

#pragma once

#include "sluice/app/latencies.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/net/address.hpp"
#include "sluice/net/owned_fd.hpp"

#include <cstddef>
#include <cstdint>
#include <string>

namespace sluice::bench {

// What a load has done since it began.
struct Tally {
    std::uint64_t bytes = 0;       // of bulk, as they arrived
    std::uint64_t operations = 0;  // answers, or whole connections
    std::uint64_t failures = 0;
    std::uint64_t refills = 0;  // of the buffers before the relay, because it had got ahead of us
    Nanoseconds idle{0};        // of turns that found nothing to do
};

// The traffic of one workload: clients and backend in one thread that never sleeps, so that a relay on
// another CPU is woken by work only and is never waited for. It is measured by who calls turn().
class Load {
  public:
    Load() = default;
    virtual ~Load() = default;
    Load(const Load&) = delete;
    Load& operator=(const Load&) = delete;

    // Makes the connections and waits until each is known at both ends; false, with a failure, if that takes
    // too long. Nothing moves afterwards until start().
    virtual bool open() = 0;
    virtual void start() = 0;
    // Whatever can be done without waiting; false if that was nothing.
    virtual bool turn() = 0;
    // No new work from now on. settled() once what was under way has arrived.
    virtual void stop() = 0;
    virtual bool settled() const = 0;

    // One turn, its time added to the tally if it was idle.
    void timed_turn(Time now);

    // Latencies count from now on, for what is asked from now on.
    void count_latencies() noexcept { latencies_from_ = Clock::now(); }

    const Tally& tally() const noexcept { return tally_; }
    const Latencies& latencies() const noexcept { return latencies_; }
    // The first thing that went wrong; empty if nothing did.
    const std::string& failure() const noexcept { return failure_; }

    // Counts what went wrong and keeps the first. `error` is an errno, 0 for none.
    void fail(const char* what, int error = 0);

  protected:
    void count_operation(Time asked, Time answered) noexcept;

    Tally tally_;

  private:
    Latencies latencies_;
    Time latencies_from_ = time_never;
    std::string failure_;
};

// A message starts with its serial number, and so does the answer: an answer to something else is noticed.
inline constexpr std::size_t head_bytes = sizeof(std::uint64_t);

// Where the load listens, with a queue that is long enough for everybody.
OwnedFd listen_on(const SocketAddress& address);
// Non-blocking, without Nagle's waiting. Invalid if nobody waits; errno says whether that is an error.
OwnedFd accept_from(int listening);
// A socket on its way to `address`. The kernel chooses the port late and for the pair of addresses, so that
// the ports of `source` are as many for each address dialled.
OwnedFd connect_to(const SocketAddress& address, const SocketAddress& source);

// Bytes to send that nobody has to copy: `size()` of them in a file of memory.
class Material {
  public:
    Material();
    static constexpr std::size_t size() { return 1 << 20; }
    // sendfile(2) of at most `count` bytes, from `position` on (taken round the end). errno as it sets it.
    ssize_t send(int socket, std::uint64_t position, std::size_t count) const noexcept;

  private:
    OwnedFd file_;
};

// Takes at most `count` bytes that have arrived, without copying them anywhere (MSG_TRUNC, tcp(7)).
ssize_t discard(int socket, std::size_t count) noexcept;

}  // namespace sluice::bench

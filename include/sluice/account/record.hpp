#pragma once

#include "sluice/account/end.hpp"
#include "sluice/base/clock.hpp"
#include "sluice/base/ring.hpp"
#include "sluice/config/config.hpp"
#include "sluice/net/address.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice {

// Why a session's bytes took the path they took.
enum class PathReason : std::uint8_t {
    bulk,            // reads were large: spliced (in part)
    small_reads,     // reads were small: copying is cheaper
    unix_socket,     // unix sockets are copied (CVE-2026-22983)
    messages,        // sockets that keep the boundaries of messages are copied
    datagrams,       // so are datagrams, many at a time
    no_pipe,         // the system granted no pipe
    not_spliceable,  // the sockets refused splice, or carried urgent data
};
const char* to_string(PathReason reason) noexcept;

// What is told of a session at one moment of its life. Plain bytes: a worker writes it into a ring and goes
// on. The pointers lead into the configuration that the session was born with.
struct SessionRecord {
    enum class Event : std::uint8_t { accept, connect, periodic, close } event = Event::close;
    End end = End::client_fin;                  // close only
    PathReason path_reason = PathReason::bulk;  // close only
    int error = 0;                              // errno behind the end, 0 if there is none
    std::chrono::system_clock::time_point time{};
    const config::Listener* listener = nullptr;
    const config::Pool* pool = nullptr;
    const config::Backend* backend = nullptr;  // null: none was chosen
    PeerAddress client;
    PeerAddress reached;             // which address of the listener; no address: not known, or a unix one
    const Endpoint* bind = nullptr;  // which of the listener's; null: as above
    std::uint64_t upload_bytes = 0;
    std::uint64_t download_bytes = 0;
    std::uint64_t spliced_bytes = 0;  // of both flows; the rest was copied
    bool datagrams = false;           // a session without a connection: then also
    std::uint64_t upload_datagrams = 0;
    std::uint64_t download_datagrams = 0;
    std::uint64_t lost_datagrams = 0;  // that came, and that the other side's kernel would not take
    Nanoseconds duration{0};
    Nanoseconds connect{-1};  // from the accept to the established upstream; negative: never
};

// The records of all workers on their way to one reader. Workers never wait here: a record that finds its
// ring full is lost and counted.
class Records {
  public:
    Records(std::size_t workers, std::size_t records_max_of_a_worker);

    // The worker's.
    void push(std::size_t worker, const SessionRecord& record) noexcept;

    // The reader's: waits until there are records or stop() was called; then the next record, if any.
    void wait() noexcept;
    bool pop(SessionRecord& record) noexcept;

    // Anybody's: wait() returns from now on.
    void stop() noexcept;
    bool stopped() const noexcept { return stopped_.load(std::memory_order_acquire); }

    std::uint64_t lost() const noexcept;

  private:
    std::vector<std::unique_ptr<Ring<SessionRecord>>> rings_;
    std::size_t next_ = 0;  // the reader's: the ring to look into first, so that a busy worker hides no other
    alignas(64) std::atomic<std::uint32_t> bell_{0};  // 1: something is there
    std::atomic<bool> stopped_{false};
};

}  // namespace sluice

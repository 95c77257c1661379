#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

// How a session ended, and whose doing it was. A closed set: the access log, the counters and docs name these
// and no others. Where both sides had a part, the first one that was not orderly counts.
enum class End : std::uint8_t {
    client_fin,           // orderly; the client was the first to say FIN
    upstream_fin,         // orderly; the upstream was the first to say FIN
    client_reset,         // the client's connection was reset; passed on as a reset
    upstream_reset,       // the upstream's connection was reset; passed on as a reset
    client_lost,          // the client no longer answers (keepalive, TCP_USER_TIMEOUT, unreachable)
    upstream_lost,        // the upstream no longer answers
    idle_timeout,         // no byte either way for timeouts.idle
    half_closed_timeout,  // one flow finished, and no byte in the other for timeouts.half_closed
    max_age,              // older than timeouts.max_age
    connect_failed,       // every backend that was tried refused, or could not be reached
    connect_timeout,      // the last backend that was tried did not answer within timeouts.connect
    no_backend,           // no backend has an address: the names of the pool do not resolve
    limit,                // sessions_max of the process or of the listener was reached: not served
    file_failed,          // a file could not be opened, read or written; the errno says why
    oversized,            // a message was longer than a message may be here
    answered,             // datagrams: as many requests and responses as udp: {requests, responses} says
    evicted,              // datagrams: the least recently used one, when a newer one needed its place
    exhausted,            // the system refused a descriptor or memory that the session needed
    drained,              // still there when drain_timeout was over
    killed,               // ended by an operator, or by a second signal
};
inline constexpr std::size_t ends_count = 20;

const char* to_string(End end) noexcept;

// Whether both sides said FIN and nothing is missing.
constexpr bool orderly(End end) noexcept {
    return end == End::client_fin || end == End::upstream_fin;
}

}  // namespace sluice

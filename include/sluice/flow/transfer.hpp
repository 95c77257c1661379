#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice {

// What one call on a descriptor brought.
struct Transfer {
    enum class Outcome : std::uint8_t {
        moved,       // `bytes` were moved, more than zero (or a message, which may be empty)
        blocked,     // nothing now: wait for the descriptor
        ended,       // the source said FIN (or was closed by a unix peer): nothing will ever follow
        broken,      // the descriptor's connection is gone; `error` says how
        unsuitable,  // this pair of descriptors cannot be spliced (EINVAL); nothing was consumed
    } outcome = Outcome::blocked;
    std::size_t bytes = 0;
    int error = 0;
    // A receive from TCP only: not a byte is left, as far as the call knows (Socket::empty_after() says when
    // that is a proof). What comes later brings an event of its own, so the read that would only be answered
    // EAGAIN can be saved.
    bool emptied = false;

    // The one place where errno becomes a verdict, for reading and writing alike.
    static Transfer failed(int error) noexcept;
};

}  // namespace sluice

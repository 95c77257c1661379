#include "sluice/flow/transfer.hpp"

#include <cerrno>

namespace sluice {

Transfer Transfer::failed(int error) noexcept {
    switch (error) {
        case EAGAIN: return {Outcome::blocked};
        case ECONNRESET:    // RST came
        case EPIPE:         // RST came after FIN, or its ECONNRESET was told already
        case ETIMEDOUT:     // keepalive or TCP_USER_TIMEOUT gave the peer up
        case EHOSTUNREACH:  // ICMP, after the retries
        case ENETUNREACH:
        case ENETDOWN:
        case ENOTCONN:  // a unix peer that is gone
        default:
            // An errno nobody thought of breaks its own session and no other. It is in that session's log
            // line.
            return {Outcome::broken, 0, error};
    }
}

}  // namespace sluice

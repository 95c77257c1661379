#include "sluice/account/end.hpp"

#include "sluice/base/check.hpp"

namespace sluice {

const char* to_string(End end) noexcept {
    switch (end) {
        case End::client_fin: return "client_fin";
        case End::upstream_fin: return "upstream_fin";
        case End::client_reset: return "client_reset";
        case End::upstream_reset: return "upstream_reset";
        case End::client_lost: return "client_lost";
        case End::upstream_lost: return "upstream_lost";
        case End::idle_timeout: return "idle_timeout";
        case End::half_closed_timeout: return "half_closed_timeout";
        case End::max_age: return "max_age";
        case End::connect_failed: return "connect_failed";
        case End::connect_timeout: return "connect_timeout";
        case End::no_backend: return "no_backend";
        case End::limit: return "limit";
        case End::file_failed: return "file_failed";
        case End::oversized: return "oversized";
        case End::answered: return "answered";
        case End::evicted: return "evicted";
        case End::exhausted: return "exhausted";
        case End::drained: return "drained";
        case End::killed: return "killed";
    }
    check_failed("an End that has no name");
}

}  // namespace sluice

#include "sluice/account/counters.hpp"

#include "sluice/base/check.hpp"

namespace sluice {

const char* to_string(Loss loss) noexcept {
    switch (loss) {
        case Loss::truncated: return "truncated";
        case Loss::limit: return "limit";
        case Loss::no_backend: return "no_backend";
        case Loss::draining: return "draining";
        case Loss::refused: return "refused";
        case Loss::oversized: return "oversized";
        case Loss::unsent: return "unsent";
        case Loss::ended: return "ended";
    }
    check_failed("a Loss that has no name");
}

}  // namespace sluice

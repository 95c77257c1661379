#include "sluice/base/check.hpp"

#include <cstdio>
#include <cstdlib>

namespace sluice {

void check_failed(const char* promise, std::source_location where) noexcept {
    // stdio and not the log: the log may be what is broken, and it is asynchronous.
    std::fprintf(stderr, "sluice: broken promise: %s\n  at %s:%u in %s\n  please report this, it is a bug\n",
                 promise, where.file_name(), where.line(), where.function_name());
    std::fflush(stderr);
    std::abort();
}

}  // namespace sluice

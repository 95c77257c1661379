#pragma once

#include <source_location>

namespace sluice {

// Ends the process with the broken promise, where it stands, and a core if the system keeps one.
[[noreturn]] void check_failed(const char* promise,
                               std::source_location where = std::source_location::current()) noexcept;

}  // namespace sluice

// For promises that only a bug of ours can break; never for what a peer or the system may do.
// On in release builds too: a relay that has lost track of who owns what would hand one client's bytes to
// another, and stopping is the smaller harm.
#define SLUICE_CHECK(condition)                 \
    do {                                        \
        if (!(condition)) [[unlikely]]          \
            ::sluice::check_failed(#condition); \
    } while (false)

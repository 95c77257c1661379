#pragma once

#include <cstdint>

namespace sluice {

// How many descriptors this process may have.
struct DescriptorLimit {
    std::uint64_t soft = 0;
    std::uint64_t hard = 0;
};
DescriptorLimit descriptor_limit() noexcept;

// Raises the soft limit to the hard one, which every process may do. Call it before anything is sized by the
// limit. (The soft limit is small for the sake of programs that use select(2), which we do not.)
DescriptorLimit raise_descriptor_limit() noexcept;

// Opens /dev/null where descriptors 0, 1 or 2 are closed: else the first socket would take the place, and a
// log line meant for stderr would reach a client.
void hold_standard_descriptors() noexcept;

}  // namespace sluice

#pragma once

namespace sluice {

// Whether this thread has the capability now (CAP_… of linux/capability.h; effective set).
bool has_capability(unsigned capability) noexcept;

}  // namespace sluice

#pragma once

#include "sluice/config/config.hpp"

#include <cstdint>

namespace sluice {

struct DemoOptions {
    std::uint32_t seconds = 5;
    config::Engine engine = config::Engine::automatic;
    bool json = false;
};

// `sluice demo`: a backend, a relay and clients in this process, talking over loopback for some seconds; then
// what the relay did with the bytes, and what that cost. The exit code: 1 if it failed, or a byte did not
// arrive as it was sent.
int demo_command(const DemoOptions& options);

}  // namespace sluice

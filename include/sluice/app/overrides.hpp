#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/config/config.hpp"

#include <cstdint>
#include <optional>

namespace sluice {

// What the command line says instead of the configuration. Each value was checked when it was read.
struct Overrides {
    std::optional<config::Engine> engine;
    std::optional<std::uint32_t> workers;  // 0 = auto
    std::optional<config::Level> log_level;
    std::optional<config::Format> log_format;
    std::optional<bool> access_log;  // whether there is one
    std::optional<config::Format> access_log_format;
    std::optional<Milliseconds> drain_timeout;
    // forward only: a file has them for each listener.
    std::optional<Milliseconds> connect_timeout;
    std::optional<Milliseconds> idle_timeout;
    std::optional<Milliseconds> half_closed_timeout;
};

void apply(const Overrides& overrides, config::Config& config);

}  // namespace sluice

#pragma once

#include "sluice/config/config.hpp"

#include <string>

namespace sluice::config {

// The effective configuration, every key with its value, as YAML that loads to an equal Config.
[[nodiscard]] std::string print(const Config& config);

}  // namespace sluice::config

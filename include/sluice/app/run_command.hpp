#pragma once

#include "sluice/app/overrides.hpp"
#include "sluice/config/config.hpp"

#include <string>
#include <vector>

namespace sluice {

struct RunOptions {
    std::string file;
    Overrides overrides;
};

struct ForwardOptions {
    std::string listen;
    std::vector<std::string> targets;
    Overrides overrides;
};

// `sluice run` and `sluice forward`: relay until a signal says to stop. The exit code.
int run_command(const RunOptions& options);
int forward_command(const ForwardOptions& options);

}  // namespace sluice

#pragma once

namespace sluice {

// What the process answers to whoever started it.
enum ExitCode : int {
    exit_success = 0,
    exit_failure = 1,  // it failed at run time
    exit_usage = 2,    // the command line or the configuration is wrong: nothing was started
};

}  // namespace sluice

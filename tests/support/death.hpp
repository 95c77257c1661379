#pragma once

#include <functional>
#include <string>

namespace sluice::test {

struct Death {
    int signal = 0;  // what ended the process; 0 when it lived through the body
    std::string error;
    // It ended as SLUICE_CHECK ends a process, naming this promise.
    bool broke_promise(const std::string& promise) const;
};

// Runs the body in a forked copy of this process and tells how that ended. For promises that end the process.
Death death_of(const std::function<void()>& body);

}  // namespace sluice::test

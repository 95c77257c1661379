#pragma once

#include "sluice/app/log_format.hpp"

#include <cstdio>
#include <string>
#include <string_view>

namespace sluice {

// A line to whoever started us, on stderr. Where that cannot be written (a full disk) the line is lost and
// nothing else: the exit code still tells what happened, which an exception of fmt::print would change.
inline void complain_bare(std::string_view line) {
    const std::string text = without_control_characters(line) + "\n";
    (void)std::fwrite(text.data(), 1, text.size(), stderr);
}

// The same, from the program as a whole.
inline void complain(std::string_view message) {
    complain_bare("sluice: " + std::string(message));
}

}  // namespace sluice

#pragma once

#include "sluice/app/check_command.hpp"
#include "sluice/app/demo_command.hpp"
#include "sluice/app/doctor_command.hpp"
#include "sluice/app/run_command.hpp"

#include <string>
#include <variant>

namespace sluice {

// What the user asked for.
using Command = std::variant<RunOptions, ForwardOptions, CheckOptions, DemoOptions, DoctorOptions>;

// The command line was answered already or cannot be obeyed: `text` goes to stdout if the code is 0, else to
// stderr.
struct Answer {
    int exit_code = 0;
    std::string text;  // with its line break
};

// Reads the arguments after the program's name.
std::variant<Command, Answer> parse_command_line(const std::vector<std::string>& arguments);

}  // namespace sluice

#include "sluice/app/command_line.hpp"
#include "sluice/app/descriptors.hpp"
#include "sluice/app/exit_code.hpp"

#include <cstdio>
#include <exception>
#include <string>
#include <variant>
#include <vector>

namespace sluice {
namespace {

int obey(const RunOptions& options) {
    return run_command(options);
}
int obey(const ForwardOptions& options) {
    return forward_command(options);
}
int obey(const CheckOptions& options) {
    return check_command(options);
}
int obey(const DemoOptions& options) {
    return demo_command(options);
}
int obey(const DoctorOptions& options) {
    return doctor_command(options);
}

// Data that did not reach its reader (a full disk) is a failure, too.
int flushed(int exit_code) {
    if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
    std::perror("sluice: cannot write to stdout");
    return exit_code == exit_success ? exit_failure : exit_code;
}

int main_with(const std::vector<std::string>& arguments) {
    hold_standard_descriptors();
    const auto parsed = parse_command_line(arguments);
    if (const auto* answer = std::get_if<Answer>(&parsed)) {
        std::fputs(answer->text.c_str(), answer->exit_code == exit_success ? stdout : stderr);
        return flushed(answer->exit_code);
    }
    return flushed(std::visit([](const auto& options) { return obey(options); }, std::get<Command>(parsed)));
}

}  // namespace
}  // namespace sluice

int main(int argc, char** argv) {
    // Nothing of ours throws; a library that does where nobody expected it must still leave its reason
    // behind.
    try {
        return sluice::main_with({argv + 1, argv + argc});
    } catch (const std::exception& error) {
        std::fprintf(stderr, "sluice: %s\n", error.what());
        return sluice::exit_failure;
    }
}

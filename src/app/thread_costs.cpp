#include "sluice/app/thread_costs.hpp"

#include "sluice/app/machine.hpp"

#include <fmt/format.h>

#include <filesystem>

namespace sluice {

std::vector<pid_t> threads_named(std::string_view prefix) {
    std::vector<pid_t> threads;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
        const auto name = first_line_of((entry.path() / "comm").string());
        const auto number = number_in(entry.path().filename().string());
        if (name && number && name->starts_with(prefix)) threads.push_back(static_cast<pid_t>(*number));
    }
    return threads;
}

std::optional<Nanoseconds> cpu_time_of(const std::vector<pid_t>& threads) {
    Nanoseconds sum{0};
    for (const pid_t thread : threads) {
        // schedstat's first number: nanoseconds on a CPU (Documentation/scheduler/sched-stats.rst).
        const auto time = number_in_file(fmt::format("/proc/self/task/{}/schedstat", thread));
        if (!time) return std::nullopt;
        sum += Nanoseconds(static_cast<std::int64_t>(*time));
    }
    return sum;
}

}  // namespace sluice

#include "sluice/app/thread_costs.hpp"

#include "sluice/app/machine.hpp"

#include <fmt/format.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

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

std::expected<SystemCallCounter, std::string> SystemCallCounter::open(const std::vector<pid_t>& threads) {
    std::optional<std::uint64_t> id;
    for (const char* folder : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"})
        if (!id) id = number_in_file(std::string(folder) + "/events/raw_syscalls/sys_enter/id");
    if (!id)
        return std::unexpected(
            "the tracepoint raw_syscalls:sys_enter cannot be read (needs root and tracefs)");
    SystemCallCounter counter;
    for (const pid_t thread : threads) {
        perf_event_attr wanted{};
        wanted.type = PERF_TYPE_TRACEPOINT;
        wanted.size = sizeof(wanted);
        wanted.config = *id;
        OwnedFd event(
            static_cast<int>(::syscall(SYS_perf_event_open, &wanted, thread, -1, -1, PERF_FLAG_FD_CLOEXEC)));
        if (!event.valid())
            return std::unexpected(
                fmt::format("perf_event_open: {} (needs CAP_PERFMON)", strerrordesc_np(errno)));
        counter.events_.push_back(std::move(event));
    }
    return counter;
}

std::uint64_t SystemCallCounter::count() const {
    std::uint64_t sum = 0;
    for (const OwnedFd& event : events_) {
        std::uint64_t value = 0;
        if (::read(event.get(), &value, sizeof(value)) == sizeof(value)) sum += value;
    }
    return sum;
}

}  // namespace sluice

#include "tests/bench/costs.hpp"

#include <fmt/format.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

namespace sluice::bench {
namespace {

std::string content_of(const std::string& path) {
    std::ifstream file(path);
    std::ostringstream content;
    content << file.rdbuf();
    return std::move(content).str();
}

std::vector<pid_t> numbers_in_folder(const std::string& path) {
    std::vector<pid_t> numbers;
    std::error_code gone;
    for (const auto& entry : std::filesystem::directory_iterator(path, gone)) {
        const std::string name = entry.path().filename().string();
        pid_t number = 0;
        const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
        if (parsed.ec == std::errc{} && parsed.ptr == name.data() + name.size()) numbers.push_back(number);
    }
    return numbers;
}

// The fields of /proc/PID/stat from the third on: the second is a name that may hold anything (proc(5)).
std::vector<std::string> stat_fields(pid_t process) {
    const std::string stat = content_of(fmt::format("/proc/{}/stat", process));
    const std::size_t name_end = stat.rfind(')');
    std::vector<std::string> fields;
    if (name_end == std::string::npos) return fields;
    std::istringstream rest(stat.substr(name_end + 1));
    for (std::string field; rest >> field;) fields.push_back(field);
    return fields;
}
// By its number in proc(5).
std::int64_t stat_field(const std::vector<std::string>& fields, std::size_t number) {
    return number - 3 < fields.size() ? std::strtoll(fields[number - 3].c_str(), nullptr, 10) : 0;
}

// The number behind each line that begins with `key`, added up.
std::uint64_t sum_of(const std::string& text, std::string_view key) {
    std::uint64_t sum = 0;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
        if (line.starts_with(key)) sum += std::strtoull(line.c_str() + key.size(), nullptr, 10);
    return sum;
}

// The CPU-time clock of the whole process also knows of its threads that have ended, and is exact while they
// run; the sum of /proc/PID/task/*/schedstat is neither.
Nanoseconds cpu_time_of(pid_t process) {
    clockid_t clock{};
    timespec time{};
    if (::clock_getcpuclockid(process, &clock) != 0 || ::clock_gettime(clock, &time) != 0)
        return Nanoseconds(0);
    return std::chrono::seconds(time.tv_sec) + Nanoseconds(time.tv_nsec);
}

Nanoseconds from_ticks(std::int64_t ticks) {
    return Nanoseconds(ticks * (1'000'000'000 / ::sysconf(_SC_CLK_TCK)));
}

std::optional<std::uint64_t> system_call_event() {
    for (const char* folder : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
        const std::string text = content_of(fmt::format("{}/events/raw_syscalls/sys_enter/id", folder));
        if (!text.empty()) return std::strtoull(text.c_str(), nullptr, 10);
    }
    return std::nullopt;
}

}  // namespace

Processes::Processes(pid_t session, int relay_cpu) {
    if (session == 0) return;
    const std::string softirq_name = fmt::format("ksoftirqd/{}\n", relay_cpu);
    for (const pid_t process : numbers_in_folder("/proc")) {
        if (stat_field(stat_fields(process), 6) == session) processes_.push_back(process);
        if (content_of(fmt::format("/proc/{}/comm", process)) == softirq_name) softirq_thread_ = process;
    }
}

bool Processes::count_system_calls() {
    const auto event = system_call_event();
    if (!event) return false;
    perf_event_attr attributes{};
    attributes.type = PERF_TYPE_TRACEPOINT;
    attributes.size = sizeof(attributes);
    attributes.config = *event;
    attributes.inherit = 1;  // threads that are made later
    for (const pid_t process : processes_)
        for (const pid_t thread : numbers_in_folder(fmt::format("/proc/{}/task", process))) {
            OwnedFd counter(static_cast<int>(
                ::syscall(SYS_perf_event_open, &attributes, thread, -1, -1, PERF_FLAG_FD_CLOEXEC)));
            if (!counter.valid()) return false;
            counters_.push_back(std::move(counter));
        }
    return true;
}

Costs Processes::costs() const {
    Costs costs;
    for (const pid_t process : processes_) costs.cpu += cpu_time_of(process);
    if (softirq_thread_ != 0) costs.softirq = cpu_time_of(softirq_thread_);
    for (const OwnedFd& counter : counters_) {
        std::uint64_t count = 0;
        if (::read(counter.get(), &count, sizeof(count)) == sizeof(count)) costs.system_calls += count;
    }
    for (const pid_t process : processes_) {
        const auto fields = stat_fields(process);
        const Nanoseconds children_user = from_ticks(stat_field(fields, 16));
        const Nanoseconds children_system = from_ticks(stat_field(fields, 17));
        costs.user += from_ticks(stat_field(fields, 14)) + children_user;
        costs.system += from_ticks(stat_field(fields, 15)) + children_system;
        costs.cpu += children_user + children_system;
        for (const pid_t thread : numbers_in_folder(fmt::format("/proc/{}/task", process))) {
            const std::string schedstat =
                content_of(fmt::format("/proc/{}/task/{}/schedstat", process, thread));
            const std::size_t blank = schedstat.find(' ');
            if (blank != std::string::npos)
                costs.waited += Nanoseconds(std::strtoll(schedstat.c_str() + blank, nullptr, 10));
            const std::string status = content_of(fmt::format("/proc/{}/task/{}/status", process, thread));
            costs.voluntary_switches += sum_of(status, "voluntary_ctxt_switches:");
            costs.involuntary_switches += sum_of(status, "nonvoluntary_ctxt_switches:");
        }
    }
    return costs;
}

std::uint64_t Processes::private_bytes() const {
    std::uint64_t kilobytes = 0;
    for (const pid_t process : processes_) {
        const std::string rollup = content_of(fmt::format("/proc/{}/smaps_rollup", process));
        kilobytes += sum_of(rollup, "Private_Clean:") + sum_of(rollup, "Private_Dirty:");
    }
    return kilobytes * 1024;
}

}  // namespace sluice::bench

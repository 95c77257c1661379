#include "sluice/app/doctor_command.hpp"

#include "sluice/app/descriptors.hpp"
#include "sluice/app/exit_code.hpp"
#include "sluice/app/log_format.hpp"
#include "sluice/app/machine.hpp"
#include "sluice/base/units.hpp"
#include "sluice/config/config.hpp"
#include "sluice/net/capability.hpp"
#include "sluice/net/pipe.hpp"
#include "sluice/reactor/reactor.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <expected>
#include <iterator>

namespace sluice {

namespace {

using Mark = Finding::Mark;

const char* word_for(Mark mark) {
    switch (mark) {
        case Mark::good: return "ok";
        case Mark::warn: return "warn";
        case Mark::fail: return "FAIL";
    }
    return "";
}

Finding kernel() {
    utsname names{};
    ::uname(&names);
    const auto version = kernel_version_in(names.release);
    const std::string found = fmt::format("Linux {} ({})", names.release, names.machine);
    if (version && *version < std::pair(6U, 1U))
        return {Mark::warn, "kernel", found,
                "from 6.1 on io_uring has what its engine needs; until then epoll serves"};
    return {Mark::good, "kernel", found, ""};
}

Finding io_uring(const std::expected<void, std::string>& probed) {
    if (probed) return {Mark::good, "io_uring", "tried, and it works", ""};
    return {Mark::warn, "io_uring", probed.error(),
            "nothing has to be done: the epoll engine serves instead"};
}

Finding epoll() {
    const auto reactor = open_epoll_reactor(0);
    if (reactor) return {Mark::good, "epoll", "works", ""};
    return {Mark::fail, "epoll", reactor.error(),
            "allow epoll_create1 and epoll_wait in the seccomp profile"};
}

Finding splice() {
    const std::string failure = try_splice();
    if (failure.empty())
        return {Mark::good, "splice", "moves bytes from socket to socket through the kernel", ""};
    return {Mark::warn, "splice", failure,
            "allow splice and pipe2 (seccomp, descriptors); until then bytes are copied"};
}

Finding pipe_budget() {
    const PipeBudget budget = PipeBudget::of_this_system();
    if (budget.exempt)
        return {Mark::good, "pipe budget",
                fmt::format("{} of our own making: the kernel sets no limit", format_size(budget.bytes)), ""};
    const std::string found =
        fmt::format("{}: {} sessions splice at once with large pipes, {} with small ones",
                    format_size(budget.bytes), budget.bytes >> 20, budget.bytes >> 16);
    if (budget.bytes < std::size_t{32} << 20)
        return {Mark::warn, "pipe budget", found,
                "raise the sysctl fs.pipe-user-pages-soft; beyond it bytes are copied"};
    return {Mark::good, "pipe budget", found, "for more: raise the sysctl fs.pipe-user-pages-soft"};
}

Finding large_pipe() {
    const auto granted = Pipe::open(PipePool::sizes.front());
    if (granted)
        return {Mark::good, "large pipe", fmt::format("{} granted", format_size(granted->size())), ""};
    const auto smaller = Pipe::open(PipePool::sizes.back());
    const std::string found =
        fmt::format("{} refused, {} {}", format_size(PipePool::sizes.front()),
                    format_size(PipePool::sizes.back()), smaller ? "granted" : "refused as well");
    return {Mark::warn, "large pipe", found,
            "raise the sysctls fs.pipe-max-size and fs.pipe-user-pages-soft, or end what holds this user's "
            "pipes"};
}

Finding descriptors() {
    const DescriptorLimit limit = descriptor_limit();
    // Two for a session, after the relay's reserve; it has slots for no more than slots_max.
    const std::uint64_t sessions = std::min<std::uint64_t>(limit.hard / 64 * 31, Token::slots_max - 1);
    const std::string found = fmt::format("{} now, {} at most (taken by itself): about {} sessions",
                                          limit.soft, limit.hard, sessions);
    if (limit.hard < 64)
        return {Mark::fail, "descriptors", found,
                "raise the limit: ulimit -n, or LimitNOFILE= in a systemd unit"};
    if (limit.hard < 20'000)
        return {Mark::warn, "descriptors", found,
                "for more: ulimit -Hn, LimitNOFILE= in a unit, --ulimit in Docker"};
    return {Mark::good, "descriptors", found, ""};
}

Finding cpus() {
    const std::size_t allowed = cpus_allowed();
    const auto quota = cpu_quota();
    const std::string found =
        fmt::format("{} may be used{}", allowed,
                    quota ? fmt::format(", and the cgroup grants the time of {:.2g}", *quota) : "");
    if (quota && *quota + 0.01 < static_cast<double>(allowed))
        return {Mark::warn, "CPUs", found,
                "more workers than granted CPUs get stopped in turns: set workers to the quota, rounded up"};
    return {Mark::good, "CPUs", found, ""};
}

Finding ephemeral_ports() {
    const auto line = first_line_of("/proc/sys/net/ipv4/ip_local_port_range");
    const auto range = line ? two_numbers_in(*line) : std::nullopt;
    if (!range || range->second < range->first)
        return {Mark::warn, "ephemeral ports", "unknown: net.ipv4.ip_local_port_range cannot be read", ""};
    const std::uint64_t count = range->second - range->first + 1;
    return {count < 10'000 ? Mark::warn : Mark::good, "ephemeral ports",
            fmt::format("{} to {}: {} sessions at once to one backend address", range->first, range->second,
                        count),
            "for more: widen the sysctl net.ipv4.ip_local_port_range, or add backend addresses"};
}

Finding low_ports() {
    const std::uint64_t first =
        number_in_file("/proc/sys/net/ipv4/ip_unprivileged_port_start").value_or(1024);
    if (first == 0) return {Mark::good, "low ports", "everybody may bind every port", ""};
    const auto granted = low_ports_granted(static_cast<std::uint16_t>(std::min<std::uint64_t>(first, 65535)));
    if (granted.value_or(has_capability(CAP_NET_BIND_SERVICE)))
        return {Mark::good, "low ports", "this user may bind every port", ""};
    return {Mark::warn, "low ports", fmt::format("ports below {} cannot be bound by this user", first),
            fmt::format(
                "if they are needed: setcap cap_net_bind_service+ep FILE, AmbientCapabilities= in a unit, or "
                "the sysctl net.ipv4.ip_unprivileged_port_start (now {})",
                first)};
}

Finding backlog() {
    const auto somaxconn = number_in_file("/proc/sys/net/core/somaxconn");
    const std::uint32_t wanted = config::Tcp{}.backlog;
    if (!somaxconn) return {Mark::warn, "backlog", "unknown: net.core.somaxconn cannot be read", ""};
    const std::string found = fmt::format("{} clients may wait for each listener and worker (wanted: {})",
                                          std::min<std::uint64_t>(*somaxconn, wanted), wanted);
    if (*somaxconn < wanted)
        return {Mark::warn, "backlog", found,
                fmt::format("raise the sysctl net.core.somaxconn to {}", wanted)};
    return {Mark::good, "backlog", found, ""};
}

Finding ipv6() {
    if (ipv6_works()) return {Mark::good, "IPv6", "works", ""};
    return {
        Mark::warn, "IPv6", "not available: \":port\" listens on IPv4 only",
        "if it is needed: the sysctl net.ipv6.conf.all.disable_ipv6 = 0, or a container network with IPv6"};
}

Finding locked_memory() {
    rlimit limit{};
    ::getrlimit(RLIMIT_MEMLOCK, &limit);
    const std::string found = limit.rlim_cur == RLIM_INFINITY ? "unlimited" : format_size(limit.rlim_cur);
    // Kernels before 5.12 charged rings to it; no later one does, and those are the ones we use rings on.
    return {Mark::good, "locked memory", found + " (rings need none of it from kernel 5.12 on)", ""};
}

Finding congestion_controls() {
    const auto current = first_line_of("/proc/sys/net/ipv4/tcp_congestion_control");
    const auto available = first_line_of("/proc/sys/net/ipv4/tcp_available_congestion_control");
    if (!current || !available)
        return {Mark::warn, "congestion control", "unknown: the sysctls cannot be read", ""};
    return {Mark::good, "congestion control",
            fmt::format("{} (tcp.congestion may say: {})", *current, congestion_controls_granted(*available)),
            ""};
}

Finding privileges() {
    struct Useful {
        unsigned number;
        const char* name;
    };
    constexpr Useful useful[] = {{CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"},
                                 {CAP_NET_ADMIN, "CAP_NET_ADMIN"},
                                 {CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE"}};
    std::string names;
    for (const Useful& each : useful)
        if (has_capability(each.number)) names += (names.empty() ? "" : ", ") + std::string(each.name);
    return {Mark::good, "privileges",
            fmt::format("user {}, {}", ::geteuid(),
                        names.empty() ? "no capability that the relay could use" : names),
            ""};
}

Finding container(bool rings) {
    const std::string kind = container_kind();
    if (kind.empty()) return {Mark::good, "container", "none seen", ""};
    return {Mark::good, "container", without_control_characters(kind),
            rings ? "" : "the default seccomp profiles of containers forbid io_uring"};
}

const char* json_word_for(Mark mark) {
    return mark == Mark::fail ? "fail" : word_for(mark);
}

bool works(const std::vector<Finding>& findings) {
    return std::ranges::none_of(findings, [](const Finding& finding) { return finding.mark == Mark::fail; });
}

}  // namespace

std::vector<Finding> examine_machine() {
    const auto rings = probe_uring();
    return {kernel(),
            io_uring(rings),
            epoll(),
            splice(),
            pipe_budget(),
            large_pipe(),
            descriptors(),
            cpus(),
            ephemeral_ports(),
            privileges(),
            low_ports(),
            backlog(),
            ipv6(),
            locked_memory(),
            congestion_controls(),
            container(rings.has_value())};
}

std::string format_findings(const std::vector<Finding>& findings) {
    std::string text;
    for (const Finding& finding : findings)
        fmt::format_to(std::back_inserter(text), "{:<5}{:<19}{}{}{}\n", word_for(finding.mark), finding.name,
                       finding.found, finding.advice.empty() ? "" : "; ", finding.advice);
    return text;
}

std::string format_findings_json(const std::vector<Finding>& findings) {
    using Json = nlohmann::ordered_json;
    Json list = Json::array();
    for (const Finding& finding : findings)
        list.push_back({{"mark", json_word_for(finding.mark)},
                        {"name", finding.name},
                        {"found", finding.found},
                        {"advice", finding.advice}});
    const Json answer = {
        {"version", SLUICE_VERSION}, {"works", works(findings)}, {"findings", std::move(list)}};
    return answer.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

int doctor_command(const DoctorOptions& options) {
    const std::vector<Finding> findings = examine_machine();
    fmt::print("{}", options.json ? format_findings_json(findings) : format_findings(findings));
    return works(findings) ? exit_success : exit_failure;
}

}  // namespace sluice

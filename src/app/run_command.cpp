#include "sluice/app/run_command.hpp"

#include "sluice/app/access_log.hpp"
#include "sluice/app/complain.hpp"
#include "sluice/app/descriptors.hpp"
#include "sluice/app/exit_code.hpp"
#include "sluice/app/log.hpp"
#include "sluice/app/signals.hpp"
#include "sluice/base/units.hpp"
#include "sluice/config/load.hpp"
#include "sluice/net/pipe.hpp"
#include "sluice/relay/relay.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <expected>
#include <memory>
#include <utility>

namespace sluice {

namespace {

// While it drains, main looks for a second signal this often: workers tell of their end by a wait with a
// deadline, which no signal interrupts.
constexpr Milliseconds second_signal_latency{50};
// Killed sessions end in their workers' next turn; a worker that has not stopped by then never will.
constexpr Milliseconds kill_patience{10'000};

// Where a bind of the configuration really listens, in the grammar of the configuration.
std::string written(const Endpoint& bind, const SocketAddress& address) {
    if (!bind.is_internet()) return to_string(bind);
    const std::string text = to_string(address);
    return bind.kind == Endpoint::Kind::udp ? "udp://" + text : text;
}

void log_start(spdlog::logger& log, const Relay& relay, const config::Config& config) {
    log.info("sluice " SLUICE_VERSION " starts");
    log.info("engine {}: {}", relay.engine(), relay.engine_reason());
    log.info("workers: {}, sessions_max: {}, descriptors: {}", relay.workers(), relay.sessions_max(),
             descriptor_limit().soft);
    const PipeBudget budget = PipeBudget::of_this_system();
    log.info("pipe budget: {} ({})", format_size(budget.bytes),
             budget.exempt ? "not bound by pipe-user-pages-soft" : "three quarters of pipe-user-pages-soft");
    auto address = relay.addresses().begin();
    for (const config::Listener& listener : config.listeners) {
        std::string addresses;
        for (const Endpoint& bind : listener.bind) {
            if (address == relay.addresses().end()) break;
            // Port 0 has become a port; a range is what it was.
            addresses += (addresses.empty() ? "" : ", ") +
                         (bind.ports() > 1 ? to_string(bind) : written(bind, *address));
            ++address;
        }
        log.info("listener {}: {} to pool {}", listener.name, addresses, listener.pool);
    }
}

std::string counted(std::uint64_t count, const char* noun) {
    return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

// Whether the signal says to stop; any other is answered.
bool means_stop(int signal, spdlog::logger& log) {
    switch (signal) {
        case SIGHUP: log.warn("SIGHUP: this build cannot reload its configuration; nothing changes"); break;
        case SIGUSR1:
            log.warn("SIGUSR1: log files are followed by their paths; nothing had to be done");
            break;
        case SIGUSR2: log.warn("SIGUSR2: this build cannot upgrade itself; nothing changes"); break;
        default: return true;
    }
    return false;
}

// Sleeps until it is told to stop.
void wait_for_stop(const Signals& signals, spdlog::logger& log) {
    while (!means_stop(signals.wait(), log)) {
    }
}

// False if the workers did not come to an end.
bool stop(Relay& relay, const config::Config& config, const Signals& signals, spdlog::logger& log) {
    const auto sessions = counted(relay.counters().sessions_now, "session");
    if (config.drain_timeout > Milliseconds(0))
        log.info("draining: {}, up to {}", sessions, format_duration(config.drain_timeout));
    else
        log.info("draining: {}, as long as they need (drain_timeout is 0)", sessions);
    relay.drain(config.drain_timeout > Milliseconds(0) ? Clock::now() + config.drain_timeout : time_never);
    while (!relay.wait_until_idle(Clock::now() + second_signal_latency)) {
        const auto signal = signals.poll();
        if (!signal || !means_stop(*signal, log)) continue;
        log.warn("a second signal: {} killed", counted(relay.counters().sessions_now, "session"));
        relay.kill();
        return relay.wait_until_idle(Clock::now() + kill_patience);
    }
    return true;
}

void log_stopped(Log& log, const RelayCounters& counters, std::uint64_t access_lines_lost) {
    log->info(
        "stopped: sessions={} stale_completions={} spliced_bytes={} copied_bytes={} records_lost={} "
        "log_lines_lost={}",
        counters.sessions, counters.stale_completions, counters.spliced_bytes, counters.copied_bytes,
        counters.records_lost, log.lines_lost() + access_lines_lost);
}

void log_datagrams(Log& log, const RelayCounters& counters) {
    if (counters.datagrams_received == 0) return;
    std::string lost;
    for (std::size_t loss = 0; loss < losses_count; ++loss)
        if (counters.datagrams_lost[loss] > 0)
            lost +=
                fmt::format(" lost_{}={}", to_string(static_cast<Loss>(loss)), counters.datagrams_lost[loss]);
    log->info("datagrams: received={} sent={}{}", counters.datagrams_received, counters.datagrams_sent, lost);
}

struct Logs {
    std::unique_ptr<Log> main;
    std::unique_ptr<AccessLog> access;  // null: no access log
};

std::expected<Logs, std::string> open_logs(const config::Config& config) {
    Logs logs;
    auto main = Log::open(config.log);
    if (!main) return std::unexpected(std::move(main.error()));
    logs.main = std::move(*main);
    if (!config.access_log.enabled) return logs;
    auto access = AccessLog::open(config.access_log);
    if (!access) return std::unexpected(std::move(access.error()));
    logs.access = std::move(*access);
    return logs;
}

// Errors of the start go to stderr, where the one who starts it looks, and also to a log that is elsewhere.
int failed(Log& log, const config::Config& config, const std::vector<std::string>& errors) {
    for (const std::string& error : errors) {
        complain(error);
        if (config.log.output.kind != config::Output::Kind::standard_error) log->error(error);
    }
    return exit_failure;
}

int relay_until_stopped(config::Config settings, const std::vector<config::Diagnostic>& warnings) {
    if (!settings.access_log.enabled) settings.access_log.events = {.close = false};
    const auto config = std::make_shared<const config::Config>(std::move(settings));
    const Signals signals;  // before the first thread
    raise_descriptor_limit();

    auto logs = open_logs(*config);
    if (!logs) {
        complain(logs.error());
        return exit_failure;
    }
    Log& log = *logs->main;
    for (const config::Diagnostic& warning : warnings) log->warn(to_string(warning));

    auto opened = Relay::open(config);
    if (!opened) return failed(log, *config, opened.error());
    Relay& relay = **opened;
    log_start(*log, relay, *config);
    if (logs->access) logs->access->start(relay.records(), log.share());
    if (const auto started = relay.start(); !started) {
        if (logs->access) logs->access->stop();  // it reads what dies with the relay
        return failed(log, *config, {started.error()});
    }
    log->info("ready: {}, {}", counted(config->listeners.size(), "listener"),
              counted(relay.workers(), "worker"));

    wait_for_stop(signals, *log);
    const bool idle = stop(relay, *config, signals, *log);
    if (logs->access) logs->access->stop();
    log_datagrams(log, relay.counters());
    log_stopped(log, relay.counters(), logs->access ? logs->access->lines_lost() : 0);
    if (idle) return exit_success;
    complain("the workers did not stop; this is a bug of sluice, please report it with the log");
    const auto logger = log.share();  // they may be about to log
    logs->main.reset();
    std::_Exit(exit_failure);  // joining them would never return
}

}  // namespace

int run_command(const RunOptions& options) {
    auto config = config::load_file(options.file);
    if (!config) {
        for (const config::Diagnostic& diagnostic : config.error()) complain_bare(to_string(diagnostic));
        return exit_usage;
    }
    apply(options.overrides, *config);
    const auto warnings = config::warnings(*config, options.file);
    return relay_until_stopped(std::move(*config), warnings);
}

int forward_command(const ForwardOptions& options) {
    auto config = config::forward(options.listen, options.targets);
    if (!config) {
        complain(config.error());
        return exit_usage;
    }
    apply(options.overrides, *config);
    return relay_until_stopped(std::move(*config), {});
}

}  // namespace sluice

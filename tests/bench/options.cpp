#include "tests/bench/options.hpp"

#include <CLI/CLI.hpp>

#include <charconv>
#include <map>
#include <optional>

namespace sluice::bench {
namespace {

const std::map<std::string, Workload> workloads = {
    {"upload", Workload::upload}, {"download", Workload::download}, {"both", Workload::both},
    {"echo", Workload::echo},     {"churn", Workload::churn},       {"mix", Workload::mix},
    {"slow", Workload::slow},     {"idle", Workload::idle},
};

// "127.0.0.1:80": literals only, for a load must not wait for names.
std::optional<SocketAddress> address_in(const std::string& text) {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string::npos) return std::nullopt;
    std::uint16_t port = 0;
    const char* const end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + colon + 1, end, port);
    if (parsed.ec != std::errc{} || parsed.ptr != end) return std::nullopt;
    return SocketAddress::from_literal(text.substr(0, colon), port);
}

Nanoseconds from_seconds(double seconds) {
    return Nanoseconds(static_cast<std::int64_t>(seconds * 1e9));
}

}  // namespace

std::expected<Options, Refusal> parse_options(int argument_count, char** arguments) {
    Options options;
    std::string relay;
    std::string backend;
    double warm_up_s = 0.3;
    double duration_s = 1;
    CLI::App app(
        "Plays the clients and the backend of one workload against a relay; prints what it saw as JSON.");
    app.add_option("workload", options.workload_name, "upload download both echo churn mix slow idle")
        ->required();
    app.add_option("--relay", relay, "where the relay listens (ADDRESS:PORT)")->required();
    app.add_option("--backend", backend, "where the relay dials; the load listens there")->required();
    app.add_option("--connections", options.connections)->check(CLI::Range(1, 30'000));
    app.add_option("--streams", options.streams, "bulk streams of the mix")->check(CLI::Range(1, 1000));
    app.add_option("--bytes", options.message_bytes, "size of a message")->check(CLI::Range(8, 16'777'216));
    app.add_option("--warm-up", warm_up_s, "seconds before the measured window")
        ->check(CLI::Range(0.0, 60.0));
    app.add_option("--seconds", duration_s, "the measured window")->check(CLI::Range(0.001, 300.0));
    app.add_option("--cpu", options.cpu, "run on this CPU");
    app.add_option("--session", options.session,
                   "the session whose processes are the relay: its costs are read");
    app.add_option("--relay-cpu", options.relay_cpu, "the CPU of the relay: its ksoftirqd is read, too");
    app.add_flag("--system-calls", options.count_system_calls, "count the relay's (slows it down a little)");
    try {
        app.parse(argument_count, arguments);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return std::unexpected(Refusal{app.help(), 0});
        return std::unexpected(Refusal{error.what(), 2});
    }
    const auto workload = workloads.find(options.workload_name);
    if (workload == workloads.end())
        return std::unexpected(Refusal{"no workload is called " + options.workload_name, 2});
    options.workload = workload->second;
    const auto relay_address = address_in(relay);
    const auto backend_address = address_in(backend);
    if (!relay_address || !backend_address)
        return std::unexpected(Refusal{"an address has to be ADDRESS:PORT, not a name", 2});
    options.relay = *relay_address;
    options.backend = *backend_address;
    options.warm_up = from_seconds(warm_up_s);
    options.duration = from_seconds(duration_s);
    return options;
}

}  // namespace sluice::bench

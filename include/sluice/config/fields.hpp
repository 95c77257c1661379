#pragma once

#include "sluice/config/config.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

// The one table of what users can write: for each struct its keys, for each key the member it fills, the form
// of its value and a sentence of help. Reading, finding unknown keys, suggestions and printing all walk these
// tables, so that they cannot disagree. A default is what the member of a fresh struct holds.
namespace sluice::config {

// Where a value came from, kept for complaints that need the whole file to be read first.
template <class Value>
struct Placed {
    Value value{};
    Place place;
};

// A listener as a file says it, before `to` has become a pool.
struct ListenerDraft {
    Placed<std::string> name;  // empty = not said
    std::vector<Placed<Endpoint>> bind;
    Placed<std::string> pool;  // empty = not said
    Placed<std::optional<Endpoint>> to;
    Timeouts timeouts;
    std::uint32_t sessions_max = 0;
    Udp udp;
    Tcp tcp;
    Place place;
};

// A whole file. Config::listeners stays empty while it is read: `drafts` is what becomes of the key.
struct ConfigDraft : Config {
    std::vector<ListenerDraft> drafts;
};

// The forms: how a value is written. A number in them is a bound, both ends allowed.
struct Flag {};
struct Count {
    std::uint32_t min = 0;
    std::uint32_t max = 0;
};
struct CountOrAuto {  // the member is 0 for `auto`; a written number is at least 1
    std::uint32_t max = 0;
};
struct Duration {
    Milliseconds min{0};
    Milliseconds max = Milliseconds::max();
    Milliseconds step{1};  // the value is a multiple of this
};
struct Size {
    std::uint64_t max = 0;
};
struct Text {
    std::size_t bytes_max = 0;
};
struct Name {};         // of a listener or backend: not empty, and without blanks as it stands in log lines
struct PoolName {};     // of a pool defined elsewhere in the file
struct BindList {};     // one address, or a list of them
struct Target {};       // an address that can be dialled
struct Choice {};       // one of the names of the member's enum
struct OutputForm {};   // stderr | stdout | syslog | journal | file:/path
struct EventList {};    // one event, a list of them, or off
struct ServerList {};   // a list of `address` or `address:port`
struct Nested {};       // a map of the member's own fields
struct NestedOrOff {};  // likewise, or only `off`
struct DraftList {};    // a list of maps, one for each listener
struct PoolMap {};      // a map from names to pools
struct BackendList {};  // a list of addresses and maps

template <class Struct, class Member, class Form>
struct Field {
    std::string_view key;
    Member Struct::* member;
    Form form;
    std::string_view help;
};

// For a struct: `table`, a tuple of its fields in the order in which they are read and printed, and `later`,
// the keys of INTERFACE.md that this build does not support yet.
template <class Struct>
struct Fields;

// For an enum: `names`, its values with the words for them, and `later` likewise.
template <class Enum>
struct Choices;

template <class Enum>
struct ChoiceName {
    Enum value;
    std::string_view name;
};

using Keys = std::array<std::string_view, 0>;  // no later keys

template <>
struct Choices<Engine> {
    static constexpr std::array<ChoiceName<Engine>, 3> names{
        {{Engine::automatic, "auto"}, {Engine::io_uring, "io_uring"}, {Engine::epoll, "epoll"}}};
    static constexpr Keys later{};
};

template <>
struct Choices<Level> {
    static constexpr std::array<ChoiceName<Level>, 5> names{{{Level::trace, "trace"},
                                                             {Level::debug, "debug"},
                                                             {Level::info, "info"},
                                                             {Level::warning, "warning"},
                                                             {Level::error, "error"}}};
    static constexpr Keys later{};
};

template <>
struct Choices<Format> {
    static constexpr std::array<ChoiceName<Format>, 2> names{
        {{Format::text, "text"}, {Format::json, "json"}}};
    static constexpr Keys later{};
};

template <>
struct Choices<Balance> {
    static constexpr std::array<ChoiceName<Balance>, 1> names{{{Balance::round_robin, "round_robin"}}};
    static constexpr std::array<std::string_view, 5> later{"least_sessions", "random_two", "source_hash",
                                                           "maglev", "first"};
};

template <>
struct Choices<Output::Kind> {
    static constexpr std::array<ChoiceName<Output::Kind>, 5> names{{{Output::Kind::standard_error, "stderr"},
                                                                    {Output::Kind::standard_output, "stdout"},
                                                                    {Output::Kind::syslog, "syslog"},
                                                                    {Output::Kind::journal, "journal"},
                                                                    {Output::Kind::file, "file:"}}};
    static constexpr Keys later{};
};

// Not an enum but the same thought: the words of an EventList and the member that each of them sets.
template <>
struct Choices<AccessEvents> {
    static constexpr std::array<ChoiceName<bool AccessEvents::*>, 4> names{
        {{&AccessEvents::accept, "accept"},
         {&AccessEvents::connect, "connect"},
         {&AccessEvents::periodic, "periodic"},
         {&AccessEvents::close, "close"}}};
    static constexpr Keys later{};
};

inline constexpr std::uint32_t workers_max = 1024;
inline constexpr std::uint32_t sessions_max_max = 16'777'216;  // the slots that a process could ever hold
// The kernel keeps these as a signed 16-bit number of seconds, a signed 8-bit number, and an int of
// milliseconds.
inline constexpr Milliseconds keepalive_max = std::chrono::seconds(32767);
inline constexpr std::uint32_t keepalive_count_max = 127;
inline constexpr Milliseconds user_timeout_max{std::numeric_limits<std::int32_t>::max()};
// setsockopt takes an int and doubles it.
inline constexpr std::uint64_t socket_buffer_max = std::numeric_limits<std::int32_t>::max() / 2;
inline constexpr std::size_t congestion_bytes_max = 15;  // TCP_CA_NAME_MAX with its NUL
// poll(2) waits for at most an int of milliseconds; c-ares keeps its own in an int, and doubles it.
inline constexpr Milliseconds dns_ttl_max = std::chrono::days(24);
inline constexpr Milliseconds dns_timeout_max = std::chrono::hours(1);
inline constexpr std::size_t name_servers_max = 64;
inline constexpr std::uint32_t datagrams_max = 1'000'000;  // of one session that counts them

template <>
struct Fields<Timeouts> {
    static constexpr auto table = std::tuple{
        Field{"connect", &Timeouts::connect, Duration{}, "How long one dial to a backend may take."},
        Field{"idle", &Timeouts::idle, Duration{}, "Ends a session in which no byte moved for so long."},
        Field{"half_closed", &Timeouts::half_closed, Duration{},
              "Ends a session of which one direction has finished and the other moved no byte for so long."},
        Field{"max_age", &Timeouts::max_age, Duration{}, "Ends a session of that age, however busy it is."},
        Field{"udp_idle", &Timeouts::udp_idle, Duration{},
              "Ends a session of datagrams in which none came either way for so long."}};
    static constexpr std::array<std::string_view, 1> later{"prelude"};
};

template <>
struct Fields<Keepalive> {
    static constexpr auto table = std::tuple{
        Field{"idle", &Keepalive::idle, Duration{.max = keepalive_max, .step = std::chrono::seconds(1)},
              "Silence after which the peer is probed; 0 = no keepalive."},
        Field{"interval", &Keepalive::interval,
              Duration{.min = std::chrono::seconds(1), .max = keepalive_max, .step = std::chrono::seconds(1)},
              "Time between two probes."},
        Field{"count", &Keepalive::count, Count{.min = 1, .max = keepalive_count_max},
              "Unanswered probes after which the peer is given up."}};
    static constexpr Keys later{};
};

template <>
struct Fields<Tcp> {
    static constexpr auto table = std::tuple{
        Field{"nodelay", &Tcp::nodelay, Flag{}, "Send small segments at once (TCP_NODELAY)."},
        Field{"keepalive", &Tcp::keepalive, Nested{},
              "Probes that find out whether a silent peer is still there."},
        Field{"user_timeout", &Tcp::user_timeout, Duration{.max = user_timeout_max},
              "How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT); 0 = as the kernel does it."},
        Field{"fastopen", &Tcp::fastopen, Flag{},
              "Allow data in the first segment (TCP_FASTOPEN). Listeners only."},
        Field{"backlog", &Tcp::backlog, Count{.min = 1, .max = 1'000'000},
              "Clients that may wait to be accepted; the kernel cuts it to net.core.somaxconn. Listeners "
              "only."},
        Field{"receive_buffer", &Tcp::receive_buffer, Size{.max = socket_buffer_max},
              "Fixed receive buffer (SO_RCVBUF); 0 = the kernel adapts it."},
        Field{"send_buffer", &Tcp::send_buffer, Size{.max = socket_buffer_max},
              "Fixed send buffer (SO_SNDBUF); 0 = the kernel adapts it."},
        Field{"congestion", &Tcp::congestion, Text{.bytes_max = congestion_bytes_max},
              "Congestion control by name, such as bbr; empty = the system's."}};
    static constexpr Keys later{};
};

template <>
struct Fields<Udp> {
    static constexpr auto table = std::tuple{
        Field{"requests", &Udp::requests, Count{.max = datagrams_max},
              "Datagrams that a session takes from its client; 0 = any number, and it ends by timeout only."},
        Field{"responses", &Udp::responses, Count{.max = datagrams_max},
              "After how many answers a session that has had its requests ends; 0 = none is awaited."}};
    static constexpr Keys later{};
};

template <>
struct Fields<ListenerDraft> {
    static constexpr auto table = std::tuple{
        Field{"name", &ListenerDraft::name, Name{}, "Its name in logs; without one, its first address."},
        Field{"bind", &ListenerDraft::bind, BindList{}, "The address or addresses that clients reach."},
        Field{"pool", &ListenerDraft::pool, PoolName{}, "The pool that its sessions go to."},
        Field{"to", &ListenerDraft::to, Target{}, "A single backend, instead of a pool."},
        Field{"timeouts", &ListenerDraft::timeouts, Nested{},
              "Its own timeouts; what is left out is as in the timeouts of the whole file."},
        Field{"sessions_max", &ListenerDraft::sessions_max, Count{.max = sessions_max_max},
              "Sessions that it may have at once; 0 = only the limit of the process."},
        Field{"udp", &ListenerDraft::udp, Nested{}, "When a session of datagrams is over."},
        Field{"tcp", &ListenerDraft::tcp, Nested{},
              "Options of the sockets towards clients; with `to`, of both."}};
    static constexpr std::array<std::string_view, 9> later{
        "accept_proxy",           "trust",    "routes", "allow", "deny", "sessions_per_client", "accept_rate",
        "accept_rate_per_client", "bandwidth"};
};

template <>
struct Fields<Backend> {
    static constexpr auto table =
        std::tuple{Field{"address", &Backend::address, Target{}, "Where it is dialled."},
                   Field{"name", &Backend::name, Name{}, "Its name in logs; without one, its address."}};
    static constexpr std::array<std::string_view, 5> later{"weight", "backup", "sessions_max", "enabled",
                                                           "discover"};
};

template <>
struct Fields<Pool> {
    static constexpr auto table = std::tuple{
        Field{"balance", &Pool::balance, Choice{}, "How the backend of a session is chosen."},
        Field{"backends", &Pool::backends, BackendList{},
              "Its members: addresses, or maps with address and name."},
        Field{"retries", &Pool::retries, Count{.max = 100}, "Other backends tried when a dial fails."},
        Field{"tcp", &Pool::tcp, Nested{}, "Options of the sockets towards backends."}};
    static constexpr std::array<std::string_view, 8> later{"queue",        "send_proxy", "source",
                                                           "slow_start",   "preconnect", "on_unhealthy",
                                                           "health_check", "outlier"};
};

template <>
struct Fields<Log> {
    static constexpr auto table =
        std::tuple{Field{"level", &Log::level, Choice{}, "The least important lines that are still written."},
                   Field{"format", &Log::format, Choice{}, "Lines for people or for programs."},
                   Field{"output", &Log::output, OutputForm{}, "Where the lines go."}};
    static constexpr Keys later{};
};

template <>
struct Fields<AccessLog> {
    static constexpr auto table = std::tuple{
        Field{"enabled", &AccessLog::enabled, Flag{}, "Whether sessions are logged at all."},
        Field{"format", &AccessLog::format, Choice{}, "Lines for people or for programs."},
        Field{"output", &AccessLog::output, OutputForm{}, "Where the lines go."},
        Field{"events", &AccessLog::events, EventList{}, "The moments of a session that get a line."},
        Field{"interval", &AccessLog::interval, Duration{.min = std::chrono::seconds(1)},
              "How often a session that goes on gets its periodic line."}};
    static constexpr Keys later{};
};

template <>
struct Fields<Dns> {
    static constexpr auto table = std::tuple{
        Field{"servers", &Dns::servers, ServerList{}, "Name servers to ask; empty = those of the system."},
        Field{"ttl_min", &Dns::ttl_min, Duration{.min = Milliseconds(10), .max = dns_ttl_max},
              "Answers are kept at least so long, whatever they say themselves."},
        Field{"ttl_max", &Dns::ttl_max, Duration{.min = Milliseconds(10), .max = dns_ttl_max},
              "Answers are kept at most so long."},
        Field{"timeout", &Dns::timeout, Duration{.min = Milliseconds(1), .max = dns_timeout_max},
              "How long one question may take."}};
    static constexpr Keys later{};
};

template <>
struct Fields<ConfigDraft> {
    static constexpr auto table = std::tuple{
        Field{"workers", &Config::workers, CountOrAuto{.max = workers_max},
              "Worker threads; auto = one for each CPU that the process may use."},
        Field{"engine", &Config::engine, Choice{},
              "How the kernel is asked; auto = io_uring where it is granted."},
        Field{"sessions_max", &Config::sessions_max, CountOrAuto{.max = sessions_max_max},
              "Sessions of the whole process at once; auto = what the descriptor limit allows."},
        Field{"log", &Config::log, Nested{}, "What the relay says about itself."},
        Field{"access_log", &Config::access_log, NestedOrOff{}, "Lines about sessions; off = none."},
        Field{"drain_timeout", &Config::drain_timeout, Duration{},
              "How long sessions may go on after the order to stop; 0 = as long as they need."},
        // Before the listeners, which inherit from it.
        Field{"timeouts", &Config::timeouts, Nested{},
              "What ends sessions that do not end by themselves; 0 = off."},
        Field{"listeners", &ConfigDraft::drafts, DraftList{}, "The addresses that clients reach."},
        Field{"pools", &Config::pools, PoolMap{}, "Named groups of backends."},
        Field{"dns", &Config::dns, Nested{}, "How names of backends are resolved."}};
    static constexpr std::array<std::string_view, 1> later{"admin"};
};

// The keys of a struct in the order of its table.
template <class Struct>
constexpr auto keys_of() {
    return std::apply([](const auto&... field) { return std::array{field.key...}; }, Fields<Struct>::table);
}

// The words for an enum's values in the order of its table.
template <class Enum>
constexpr auto names_of() {
    constexpr auto& names = Choices<Enum>::names;
    std::array<std::string_view, names.size()> words{};
    for (std::size_t at = 0; at < names.size(); ++at) words[at] = names[at].name;
    return words;
}

template <class Enum>
constexpr std::string_view name_of(Enum value) {
    for (const auto& choice : Choices<Enum>::names)
        if (choice.value == value) return choice.name;
    return {};
}

}  // namespace sluice::config

#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/net/endpoint.hpp"

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// The configuration as plain data: what load.hpp makes of a file, and what everything else reads. Each member
// has its default here and nowhere else. Durations of 0 mean "off", sizes of 0 "as the kernel does it".
// The texts that users write for each member are in fields.hpp.
namespace sluice::config {

// Where something stands in its file, both from 1; 0 = not from a file.
struct Place {
    int line = 0;
    int column = 0;

    // All places are equal, so that two configurations are equal when they *say* the same.
    // Compare line and column to compare places.
    friend bool operator==(const Place&, const Place&) { return true; }
};

enum class Engine {
    automatic,  // io_uring where this machine grants it, else epoll
    io_uring,   // io_uring, or no start
    epoll,      // epoll even where io_uring would work
};

enum class Level { trace, debug, info, warning, error };

enum class Format { text, json };

enum class Balance {
    round_robin,  // one after the other
};

// Where log lines go.
struct Output {
    enum class Kind {
        standard_error,
        standard_output,
        syslog,
        journal,  // systemd's, with fields
        file,     // appended to `path`
    };

    Kind kind = Kind::standard_error;
    std::string path;  // kind file only

    bool operator==(const Output&) const = default;
};

struct Timeouts {
    Milliseconds connect = std::chrono::seconds(5);      // one dial
    Milliseconds idle = std::chrono::hours(1);           // no byte either way
    Milliseconds half_closed = std::chrono::minutes(5);  // one flow finished, no byte in the other
    Milliseconds max_age{0};                             // a session's whole life
    Milliseconds udp_idle = std::chrono::seconds(30);    // datagrams: none either way

    bool operator==(const Timeouts&) const = default;
};

// TCP keepalive: a peer that is silent for `idle` is probed every `interval`, and given up after `count`
// probes without an answer. Whole seconds, as the kernel's options have no finer unit. idle 0 = no keepalive.
struct Keepalive {
    Milliseconds idle = std::chrono::seconds(60);
    Milliseconds interval = std::chrono::seconds(10);
    std::uint32_t count = 6;

    bool operator==(const Keepalive&) const = default;
};

// Options of TCP sockets: of the accepted ones in a listener, of the dialled ones in a pool.
struct Tcp {
    bool nodelay = true;
    Keepalive keepalive;
    Milliseconds user_timeout{0};      // TCP_USER_TIMEOUT; 0 = the kernel's
    bool fastopen = false;             // TCP_FASTOPEN; false in a pool of the file
    std::uint32_t backlog = 4096;      // of listen(2); without meaning in a pool
    std::uint64_t receive_buffer = 0;  // SO_RCVBUF in bytes; 0 = the kernel tunes it
    std::uint64_t send_buffer = 0;     // SO_SNDBUF in bytes; 0 = the kernel tunes it
    std::string congestion;            // TCP_CONGESTION; empty = the system's

    bool operator==(const Tcp&) const = default;
};

// When a session of datagrams is over, where its protocol says so. 0 requests = by timeout only.
struct Udp {
    std::uint32_t requests = 0;   // it takes so many datagrams from its client,
    std::uint32_t responses = 0;  // and ends once so many came back

    bool operator==(const Udp&) const = default;
};

struct Listener {
    std::string name;            // unique; where the file gives none, the first bind address as text
    std::vector<Endpoint> bind;  // at least one; no DNS names; port 0 = the kernel picks one
    std::string pool;   // the name of a pool in Config::pools: one made for it, if the file said `to`
    Timeouts timeouts;  // complete: what the listener does not name is inherited from Config::timeouts
    std::uint32_t sessions_max = 0;  // 0 = only the process's limit
    Udp udp;
    Tcp tcp;
    Place place;

    bool operator==(const Listener&) const = default;
};

struct Backend {
    std::string name;  // unique in its pool; where the file gives none, the address as text
    Endpoint address;  // never with an empty host or port 0
    Place place;

    bool operator==(const Backend&) const = default;
};

struct Pool {
    std::string name;  // unique
    // Made for a listener with `to: ADDRESS`, so that everybody but the reader of files knows only pools. It
    // has the listener's name and the listener's tcp settings, and exactly one backend.
    bool from_listener = false;
    Balance balance = Balance::round_robin;
    std::vector<Backend> backends;  // at least one
    std::uint32_t retries = 2;      // other backends tried after a failed dial
    Tcp tcp;
    Place place;

    bool operator==(const Pool&) const = default;
};

struct Log {
    Level level = Level::info;
    Format format = Format::text;
    Output output;

    bool operator==(const Log&) const = default;
};

// Which moments of a session are worth a line.
struct AccessEvents {
    bool accept = false;
    bool connect = false;
    bool periodic = false;  // every AccessLog::interval while it lives
    bool close = true;

    bool any() const noexcept { return accept || connect || periodic || close; }
    bool operator==(const AccessEvents&) const = default;
};

struct AccessLog {
    bool enabled = true;
    Format format = Format::text;
    Output output;
    AccessEvents events;
    Milliseconds interval = std::chrono::minutes(1);  // between the periodic lines

    bool operator==(const AccessLog&) const = default;
};

struct Dns {
    std::vector<std::string> servers;  // each `address:port` or `[v6]:port`; empty = the system's
    Milliseconds ttl_min = std::chrono::seconds(1);
    Milliseconds ttl_max = std::chrono::minutes(5);
    Milliseconds timeout = std::chrono::seconds(2);

    bool operator==(const Dns&) const = default;
};

struct Config {
    std::uint32_t workers = 0;  // 0 = one for each CPU that this process may use
    Engine engine = Engine::automatic;
    std::uint32_t sessions_max = 0;  // 0 = from the descriptor limit
    Log log;
    AccessLog access_log;
    Milliseconds drain_timeout = std::chrono::seconds(30);
    Timeouts timeouts;  // what listeners inherit
    std::vector<Listener> listeners;
    std::vector<Pool> pools;
    Dns dns;

    bool operator==(const Config&) const = default;
};

// The pool of that name, or null.
[[nodiscard]] const Pool* find_pool(const Config& config, std::string_view name);

}  // namespace sluice::config

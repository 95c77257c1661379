#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/net/address.hpp"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>

namespace sluice::bench {

enum class Workload : std::uint8_t {
    upload,    // bulk from the clients to the backend
    download,  // bulk from the backend to the clients
    both,      // bulk both ways at once on each connection
    echo,      // request and response of the same size, one outstanding for each connection
    churn,     // connect, request and response, close
    mix,       // echo beside unlimited bulk streams
    slow,      // downloads whose clients take a little at a time
    idle,      // connections that do nothing
};

// What one run was asked for.
struct Options {
    Workload workload = Workload::echo;
    std::string workload_name;
    SocketAddress relay;    // where the clients connect to
    SocketAddress backend;  // where we listen ourselves; the same as `relay` for a run without any
    std::uint32_t connections = 1;
    std::uint32_t streams = 16;  // of the mix: bulk streams beside the connections
    std::size_t message_bytes = 64;
    Nanoseconds warm_up{0};
    Nanoseconds duration{0};
    int cpu = -1;        // to be pinned to; -1: not pinned
    pid_t session = 0;   // the session (setsid) of the relay's processes; 0: none is measured
    int relay_cpu = -1;  // of the relay; -1: not known
    bool count_system_calls = false;
};

// What is wrong with the command line, or the text of --help, which also ends the run: the exit code with it.
struct Refusal {
    std::string text;
    int exit_code;
};
std::expected<Options, Refusal> parse_options(int argument_count, char** arguments);

}  // namespace sluice::bench

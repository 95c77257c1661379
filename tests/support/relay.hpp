#pragma once

// The real program as a child process, and the words in which system tests talk about it:
//
//     RELAY_TEST("a FIN arrives after every byte before it") {
//         RelayWithBackend relay(here);
//         auto [near, far] = relay.session();
//         near.send_all("hello");
//         near.shutdown_write();
//         const Received received = far.receive_to_end();
//         CHECK(received.bytes == "hello");
//         CHECK(received.ending == Ending::fin);
//     }

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sluice::test {

enum class Engine { epoll, io_uring };
const char* to_string(Engine engine);

// Whether this machine grants a ring with what the io_uring engine asks for.
bool engine_available(Engine engine);

// Who plays `near`: the client, or (exchanged) the upstream.
enum class Sides { as_they_are, exchanged };

// What one run of a RELAY_TEST is to use.
struct RelayCase {
    Engine engine = Engine::epoll;
    Sides sides = Sides::as_they_are;
};

struct RelayOptions {
    ProcessOptions process;  // environment, limits
    std::vector<std::string>
        wrapper;  // put before the program: {"strace", "-f", ...}; pid() is then the wrapper
    std::vector<std::string> flags;  // put after the command
    bool wait_for_ready = true;
    Milliseconds ready_deadline = patience;
};

// One line of the access log, as INTERFACE.md gives it.
struct AccessLine {
    std::string text;
    std::string time;
    std::string listener;
    std::string client;
    std::string pool;
    std::string backend;
    std::map<std::string, std::string> fields;  // every name=value
    std::uint64_t upload = 0;
    std::uint64_t download = 0;
    std::string path;
    std::string end;
};

// The access log lines of a text that say how many bytes: of ends, and periodic ones.
std::vector<AccessLine> parse_access_log(const std::string& text);

// The path of the program under test: SLUICE_BINARY from the environment, else the one built beside the
// tests.
std::string relay_binary();

// The running relay. Promises, checked when it stops: exit code 0, no word of a sanitizer, no broken promise,
// no stale completion. When the test case fails, its log is printed.
class RelayProcess {
  public:
    // `run -c FILE`; "engine: ..." is put before the text, unless it says an engine itself.
    static RelayProcess with_config(const std::string& yaml, Engine engine, RelayOptions options = {});
    // `run -c FILE` with the text as it stands.
    static RelayProcess with_config(const std::string& yaml, RelayOptions options = {});
    // `forward LISTEN TARGET... --engine ENGINE`
    static RelayProcess forward(const std::string& listen, const std::vector<std::string>& targets,
                                Engine engine, RelayOptions options = {});

    ~RelayProcess();
    RelayProcess(RelayProcess&&) noexcept;
    RelayProcess& operator=(RelayProcess&&) = delete;

    pid_t pid() const;
    Process& process();
    std::string log() const;  // its stderr until now
    const std::string& config_path() const;

    // Access log lines on its stderr; `file` for a log that goes to a file.
    std::vector<AccessLine> access_log() const;
    // Waits until there are so many, and returns them all; fails the test case when they do not come.
    std::vector<AccessLine> access_log(std::size_t count, Milliseconds deadline = patience) const;

    // SIGTERM, and all the promises above.
    void stop(Milliseconds deadline = Milliseconds(60'000));
    // SIGKILL: nothing is checked afterwards. For tests that end it in another way themselves.
    void abandon();
    // It was ended (by a signal that the test sent, or by itself): the promises, and this exit.
    void expect_exit(int code, Milliseconds deadline = patience);

  private:
    struct State;
    explicit RelayProcess(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// The two ends of one relayed session.
struct Ends {
    Socket near;
    Socket far;
};

// What most relay tests need: a relay before one backend, which the test plays itself.
struct RelayLayout {
    std::string backend = "127.0.0.1:0";  // as for Listener
    std::string listen;                   // empty = a free port on 127.0.0.1
    std::string settings;                 // further top-level YAML, such as "timeouts: {idle: 200ms}\n"
    std::string listener_settings;        // further lines of the listener, indented by 4
    std::string pool_settings;            // further lines of the pool, indented by 4
    Buffers client_buffers;               // of the test's own sockets
    Buffers backend_buffers;
};

class RelayWithBackend {
  public:
    explicit RelayWithBackend(RelayCase here, RelayLayout layout = {}, RelayOptions options = {});

    RelayProcess& relay() { return relay_; }
    Listener& backend() { return backend_; }
    const std::string& address() const { return listen_; }

    // A new session: near and far as the case's sides say.
    Ends session();
    // The same, with the roles as they are.
    struct Roles {
        Socket client;
        Socket upstream;
    };
    Roles session_with_roles();
    bool exchanged() const { return here_.sides == Sides::exchanged; }

    // The reason that the log must give when `near` (or `far`) did it: side("fin") is "client_fin", or
    // "upstream_fin" with the sides exchanged.
    std::string near_end(const std::string& what) const;
    std::string far_end(const std::string& what) const;
    // Bytes of a line that flowed from near to far, and back.
    std::uint64_t near_to_far(const AccessLine& line) const;
    std::uint64_t far_to_near(const AccessLine& line) const;

    std::vector<AccessLine> access_log(std::size_t count) const { return relay_.access_log(count); }
    void stop() { relay_.stop(); }

  private:
    RelayCase here_;
    RelayLayout layout_;
    Listener backend_;
    std::string listen_;
    RelayProcess relay_;
};

}  // namespace sluice::test

#define SLUICE_RELAY_RUN(body, which_engine, which_sides)                                 \
    do {                                                                                  \
        if (!::sluice::test::engine_available(::sluice::test::Engine::which_engine))      \
            SLUICE_SKIP("this system grants no " #which_engine);                          \
        body({::sluice::test::Engine::which_engine, ::sluice::test::Sides::which_sides}); \
    } while (false)

#define SLUICE_RELAY_TEST(body, sentence)                              \
    static void body([[maybe_unused]] ::sluice::test::RelayCase here); \
    TEST_CASE(sentence " (epoll)") {                                   \
        SLUICE_RELAY_RUN(body, epoll, as_they_are);                    \
    }                                                                  \
    TEST_CASE(sentence " (epoll, sides exchanged)") {                  \
        SLUICE_RELAY_RUN(body, epoll, exchanged);                      \
    }                                                                  \
    TEST_CASE(sentence " (io_uring)") {                                \
        SLUICE_RELAY_RUN(body, io_uring, as_they_are);                 \
    }                                                                  \
    TEST_CASE(sentence " (io_uring, sides exchanged)") {               \
        SLUICE_RELAY_RUN(body, io_uring, exchanged);                   \
    }                                                                  \
    static void body([[maybe_unused]] ::sluice::test::RelayCase here)

#define SLUICE_ENGINE_TEST(body, sentence)                             \
    static void body([[maybe_unused]] ::sluice::test::RelayCase here); \
    TEST_CASE(sentence " (epoll)") {                                   \
        SLUICE_RELAY_RUN(body, epoll, as_they_are);                    \
    }                                                                  \
    TEST_CASE(sentence " (io_uring)") {                                \
        SLUICE_RELAY_RUN(body, io_uring, as_they_are);                 \
    }                                                                  \
    static void body([[maybe_unused]] ::sluice::test::RelayCase here)

// A test case that runs four times: on both engines, and with the sides exchanged. `here` says which it is.
#define RELAY_TEST(sentence) SLUICE_RELAY_TEST(DOCTEST_ANONYMOUS(sluice_relay_body_), sentence)
// A test case without two sides: once on each engine.
#define ENGINE_TEST(sentence) SLUICE_ENGINE_TEST(DOCTEST_ANONYMOUS(sluice_relay_body_), sentence)

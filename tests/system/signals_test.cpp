// How the relay stops: nobody new, those who are there to their end, and no longer than asked.

#include "tests/system/ends.hpp"

#include <signal.h>
#include <sys/resource.h>

#include <iomanip>
#include <sstream>
#include <string>
#include <vector>

namespace sluice::test {
namespace {

RelayLayout with_drain(const std::string& drain_timeout) {
    RelayLayout layout;
    layout.settings = "workers: 2\ndrain_timeout: " + drain_timeout + "\n";
    return layout;
}

std::string hexadecimal(int port) {
    std::ostringstream text;
    text << ':' << std::hex << std::uppercase << std::setw(4) << std::setfill('0') << port;
    return text.str();
}

// Whether a socket listens on this port of 127.0.0.1. Asked of the system, because a client that tried would
// be served as long as the answer is yes.
bool listened_on(const std::string& address) {
    const int port = std::stoi(address.substr(address.rfind(':') + 1));
    std::istringstream table(read_file("/proc/net/tcp"));
    for (std::string line; std::getline(table, line);) {
        std::istringstream words(line);
        std::string number, local, remote, state;
        words >> number >> local >> remote >> state;
        if (state == "0A" && local.ends_with(hexadecimal(port))) return true;  // TCP_LISTEN
    }
    return false;
}

// Nobody listens any more, and so nobody new is let in.
bool refuses(const std::string& address) {
    return wait_until([&] { return !listened_on(address); }, soon) && try_connect(address) == ECONNREFUSED;
}

ENGINE_TEST("TERM and INT end an idle relay at once, with 0") {
    for (const int signal : {SIGTERM, SIGINT}) {
        CAPTURE(signal);
        RelayWithBackend relay(here, with_drain("60s"));
        const auto start = TestClock::now();
        relay.relay().process().signal(signal);
        relay.relay().expect_exit(0);
        CHECK(TestClock::now() - start < soon);
    }
}

RELAY_TEST("after TERM nobody new is served, and who is there is served to the end") {
    RelayWithBackend relay(here, with_drain("60s"));
    Ends bulk = relay.session();
    Ends silent = relay.session();
    promote(bulk.near, bulk.far);
    relay.relay().process().signal(SIGTERM);
    CHECK(refuses(relay.address()));
    CHECK_FALSE(relay.backend().waiting());

    const std::string bytes = pattern(4 * 1024 * 1024, 1);
    CHECK(pass(bulk.near, bulk.far, bytes) == bytes);
    CHECK(pass(bulk.far, bulk.near, bytes) == bytes);
    CHECK(pass(silent.near, silent.far, "late") == "late");
    for (Ends* ends : {&bulk, &silent}) {
        ends->near.shutdown_write();
        CHECK(ends->far.receive_to_end().ending == Ending::fin);
        CHECK(pass(ends->far, ends->near, "answer") == "answer");
        ends->far.close();
        CHECK(ends->near.receive_to_end().ending == Ending::fin);
    }
    const auto last_end = TestClock::now();
    relay.relay().expect_exit(0);
    CHECK(TestClock::now() - last_end < soon);
    for (const AccessLine& line : relay.access_log(2)) CHECK(line.end == relay.near_end("fin"));
}

RELAY_TEST("sessions that outlive drain_timeout are reset, and the relay still ends with 0") {
    RelayWithBackend relay(here, with_drain("500ms"));
    Ends idle = relay.session();
    Ends busy = relay.session();
    promote(busy.near, busy.far);
    busy.near.send_until_full(256 * 1024 * 1024);
    Ends half = relay.session();
    half.near.shutdown_write();
    CHECK(half.far.receive_to_end().ending == Ending::fin);
    const auto start = TestClock::now();
    relay.relay().process().signal(SIGTERM);
    CHECK(idle.near.receive_to_end(soon).ending == Ending::reset);
    CHECK(TestClock::now() - start >= Milliseconds(500));
    CHECK(idle.far.receive_to_end(soon).ending == Ending::reset);
    CHECK(busy.far.receive_to_end(soon).ending == Ending::reset);
    CHECK(becomes_broken(busy.near, soon));
    CHECK(half.near.receive_to_end(soon).ending == Ending::reset);
    CHECK(becomes_broken(half.far, soon));
    relay.relay().expect_exit(0);
    CHECK(TestClock::now() - start < Milliseconds(500) + soon);
    for (const AccessLine& line : relay.access_log(3)) CHECK(line.end == "drained");
}

RELAY_TEST("a second TERM ends everything at once") {
    RelayWithBackend relay(here, with_drain("60s"));
    Ends ends = relay.session();
    CHECK(pass(ends.near, ends.far, "word") == "word");
    relay.relay().process().signal(SIGTERM);
    REQUIRE(refuses(relay.address()));  // the first one has been taken notice of
    CHECK(ends.near.silent());
    const auto start = TestClock::now();
    relay.relay().process().signal(SIGTERM);
    CHECK(ends.near.receive_to_end(soon).ending == Ending::reset);
    CHECK(ends.far.receive_to_end(soon).ending == Ending::reset);
    relay.relay().expect_exit(0);
    CHECK(TestClock::now() - start < soon);
    CHECK(relay.access_log(1).back().end == "killed");
}

RELAY_TEST("a reset during the drain is passed on as a reset") {
    RelayWithBackend relay(here, with_drain("60s"));
    Ends ends = relay.session();
    establish(ends);
    relay.relay().process().signal(SIGTERM);
    REQUIRE(refuses(relay.address()));
    ends.near.send_all("before");
    wait_acknowledged(ends.near);
    ends.near.reset();
    const Received received = ends.far.receive_to_end();
    CHECK(received.bytes == "before");
    CHECK(received.ending == Ending::reset);
    relay.relay().expect_exit(0);
    CHECK(relay.access_log(1).back().end == relay.near_end("reset"));
}

ENGINE_TEST("clients that wait in the queue when TERM comes are served") {
    RelayWithBackend relay(here, with_drain("30s"));
    // Stopped, it accepts nobody; the kernel connects them all the same.
    relay.relay().process().signal(SIGSTOP);
    constexpr std::size_t count = 40;
    std::vector<Socket> clients;
    for (std::size_t client = 0; client < count; ++client) {
        clients.push_back(connect_to(relay.address()));
        clients.back().send_all("question");
    }
    relay.relay().process().signal(SIGTERM);
    relay.relay().process().signal(SIGCONT);
    std::size_t served = 0;
    for (std::size_t client = 0; client < count; ++client) {
        Socket upstream = relay.backend().accept();
        CHECK(upstream.receive_exactly(8) == "question");
        upstream.send_all("answer");
        upstream.shutdown_write();
    }
    for (Socket& client : clients) {
        const Received answer = client.receive_to_end();
        if (answer.bytes == "answer" && answer.ending == Ending::fin) ++served;
        client.close();
    }
    CHECK(served == count);
    relay.relay().expect_exit(0);
    for (const AccessLine& line : relay.access_log(count)) CHECK(line.end != "drained");
}

ENGINE_TEST("a unix listener at TERM serves those who wait, and its path is gone") {
    const TemporaryFolder folder;
    RelayLayout layout = with_drain("30s");
    const std::string path = folder.file("front");
    layout.listen = "unix:" + path;
    RelayWithBackend relay(here, layout);
    relay.relay().process().signal(SIGSTOP);
    std::vector<Socket> clients;
    for (int client = 0; client < 10; ++client) {
        clients.push_back(connect_to(relay.address()));
        clients.back().send_all("question");
    }
    relay.relay().process().signal(SIGTERM);
    relay.relay().process().signal(SIGCONT);
    for (std::size_t client = 0; client < clients.size(); ++client)
        CHECK(relay.backend().accept().receive_exactly(8) == "question");
    for (Socket& client : clients) {
        CHECK(client.receive_to_end().ending == Ending::fin);
        client.close();
    }
    relay.relay().expect_exit(0);
    CHECK_FALSE(std::filesystem::exists(path));
}

ENGINE_TEST("a session that is still being dialled ends with the drain") {
    // Nobody takes anything from this queue, and it is full.
    const Listener silent("127.0.0.1:0", {}, 0);
    std::vector<Socket> fillers;
    for (bool full = false; !full;) {
        try {
            fillers.push_back(connect_to(silent.address(), {}, Milliseconds(150)));
        } catch (const std::runtime_error&) {
            full = true;
        }
        REQUIRE(fillers.size() < 10);
    }
    const std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay = RelayProcess::with_config(
        "workers: 1\ndrain_timeout: 400ms\ntimeouts: {connect: 30s}\nlisteners:\n  - {bind: \"" + listen +
            "\", to: \"" + silent.address() + "\"}\n",
        here.engine);
    Socket client = connect_to(listen);
    CHECK(client.silent());
    relay.process().signal(SIGTERM);
    CHECK(client.receive_to_end(soon).ending == Ending::reset);
    relay.expect_exit(0);
    CHECK(relay.access_log(1).back().end == "drained");
}

ENGINE_TEST("signals that mean nothing here do no harm") {
    RelayWithBackend relay(here, with_drain("60s"));
    Ends ends = relay.session();
    relay.relay().process().signal(SIGPIPE);
    relay.relay().process().signal(SIGXFSZ);
    CHECK(pass(ends.near, ends.far, "still there") == "still there");
    ends.near.close();
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    ends.far.close();
    relay.stop();
}

ENGINE_TEST("HUP, USR1 and USR2 are answered, also while draining, and nothing else happens") {
    RelayWithBackend relay(here, with_drain("60s"));
    Ends ends = relay.session();
    const auto answered = [&](std::size_t times) {
        for (const char* name : {"SIGHUP", "SIGUSR1", "SIGUSR2"}) {
            const int number = name[3] == 'H' ? SIGHUP : name[6] == '1' ? SIGUSR1 : SIGUSR2;
            relay.relay().process().signal(number);
            CHECK(wait_until([&] {
                const std::string log = relay.relay().log();
                std::size_t count = 0;
                for (std::size_t at = 0; (at = log.find(name, at)) != std::string::npos; ++at) ++count;
                return count == times;
            }));
        }
        CHECK(pass(ends.near, ends.far, "still there") == "still there");
    };
    answered(1);
    relay.relay().process().signal(SIGTERM);
    REQUIRE(refuses(relay.address()));
    answered(2);
    ends.near.close();
    CHECK(ends.far.receive_to_end().ending == Ending::fin);
    ends.far.close();
    relay.relay().expect_exit(0);
}

ENGINE_TEST("a log file at the limit of its size loses lines, and ends nothing") {
    const TemporaryFolder folder;
    RelayLayout layout = with_drain("60s");
    layout.settings += "access_log: {output: \"file:" + folder.file("access") + "\"}\n";
    RelayOptions options;
    options.process.before_exec = [] {
        const rlimit limit{200, 200};
        ::setrlimit(RLIMIT_FSIZE, &limit);
    };
    RelayWithBackend relay(here, layout, options);
    CHECK(wait_until([&] {
        Ends ends = relay.session();
        CHECK(pass(ends.near, ends.far, "word") == "word");
        return relay.relay().log().contains("the output refused them: File too large");
    }));
    relay.stop();
}

}  // namespace
}  // namespace sluice::test

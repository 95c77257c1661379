// The tools of the tests, tested: a tool that sees nothing would let every test pass.

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace sluice::test {
namespace {

TEST_CASE("a process's output, exit code and signal are seen") {
    const Output output = run({"sh", "-c", "echo out; echo error >&2; exit 3"});
    CHECK(output.exit.code == 3);
    CHECK(output.out == "out\n");
    CHECK(output.error == "error\n");
    CHECK(run({"sh", "-c", "kill -9 $$"}).exit.signal == SIGKILL);
    CHECK(run({"cat"}, patience, {.environment = {}, .folder = {}, .input = "in", .before_exec = {}}).out ==
          "in");
    CHECK_THROWS_AS(run({"/no/such/program"}), std::runtime_error);
}

TEST_CASE("a process sees the environment, the folder and the limits that it was given") {
    ProcessOptions options;
    options.environment = {"SLUICE_WORD=one", "SLUICE_WORD=two"};
    options.folder = "/";
    options.before_exec = [] {
        const rlimit limit{77, 77};
        ::setrlimit(RLIMIT_NOFILE, &limit);
    };
    CHECK(run({"sh", "-c", "echo $SLUICE_WORD; pwd; ulimit -n"}, patience, options).out == "two\n/\n77\n");
}

TEST_CASE("a process that outlives its deadline is killed, and what it started with it") {
    const Output output = run({"sh", "-c", "sleep 1000 & echo $!; wait"}, Milliseconds(200));
    CHECK(output.exit.signal == SIGKILL);
    const pid_t grandchild = std::stoi(output.out);
    // Nobody here reaps it, so it may stay as a zombie.
    CHECK(wait_until([&] {
        return ::kill(grandchild, 0) != 0 ||
               read_file("/proc/" + std::to_string(grandchild) + "/stat").contains(") Z");
    }));
}

TEST_CASE("a process that goes out of scope is gone, and its descriptors too") {
    const std::size_t before = descriptors_open(::getpid());
    pid_t pid = 0;
    {
        Process process({"sleep", "1000"});
        pid = process.pid();
        CHECK(process.running());
        CHECK(descriptors_open(::getpid()) > before);
    }
    CHECK(::kill(pid, 0) != 0);
    CHECK(descriptors_open(::getpid()) == before);
}

TEST_CASE("text is waited for, and not beyond the process's end") {
    Process process({"sh", "-c", "echo first; sleep 0.05; echo ready >&2; sleep 1000"});
    CHECK(process.wait_for_text("ready"));
    Process silent({"true"});
    CHECK_FALSE(silent.wait_for_text("ready"));
}

TEST_CASE("CPU time, memory and descriptors of a process are measured") {
    Process idle({"sleep", "1000"});
    CHECK(cpu_share(idle.pid(), Milliseconds(200)) < 0.06);
    Process busy({"sh", "-c", "while :; do :; done"});
    CHECK(cpu_share(busy.pid(), Milliseconds(300)) > 0.1);
    CHECK(memory_of(idle.pid()).resident > 0);
    CHECK(memory_of(idle.pid()).private_dirty > 0);
    CHECK(descriptors_open(idle.pid()) == 3);
    idle.kill();
    CHECK_THROWS_AS(cpu_time(idle.pid()), std::runtime_error);
}

TEST_CASE("a stream's bytes and its FIN are told apart from a reset and from silence") {
    auto [one, other] = tcp_pair();
    one.send_all("hello");
    CHECK(other.receive_exactly(5) == "hello");
    CHECK(other.silent());
    CHECK(other.receive_to_end(Milliseconds(20)).ending == Ending::timeout);
    one.send_all("bye");
    one.shutdown_write();
    const Received received = other.receive_to_end();
    CHECK(received.bytes == "bye");
    CHECK(received.ending == Ending::fin);
    other.reset();
    CHECK(one.receive_to_end().ending == Ending::reset);
    CHECK_FALSE(other.open());
}

TEST_CASE("listeners of each kind are reached by the address that they tell") {
    const TemporaryFolder folder;
    std::vector<std::string> addresses = {"127.0.0.1:0", "unix:" + folder.file("socket"),
                                          "unix:@sluice-support-test-" + std::to_string(::getpid())};
    if (ipv6_available()) addresses.emplace_back("[::1]:0");
    for (const std::string& address : addresses) {
        CAPTURE(address);
        Listener listener(address);
        CHECK_FALSE(listener.waiting());
        Socket client = connect_to(listener.address());
        CHECK(listener.waiting(patience));
        Socket served = listener.accept();
        client.send_all("x");
        CHECK(served.receive_exactly(1) == "x");
        if (!address.starts_with("unix:")) CHECK(client.local_address() == served.peer_address());
    }
    CHECK(try_connect("127.0.0.1:" + std::to_string(free_port())) == ECONNREFUSED);
}

TEST_CASE("a way to a reader who does not read fills up, and what was sent arrives") {
    auto [one, other] = tcp_pair({.receive = 4096, .send = 4096});
    const std::size_t sent = one.send_until_full(64 * 1024 * 1024);
    CHECK(sent < 8 * 1024 * 1024);
    one.shutdown_write();
    CHECK(other.receive_to_end().bytes == pattern(sent, 0));
}

TEST_CASE("a receive that gets too little, and an accept that gets nobody, fail") {
    auto [one, other] = tcp_pair();
    one.send_all("abc");
    one.shutdown_write();
    CHECK_THROWS_AS(other.receive_exactly(4), std::runtime_error);
    Listener listener;
    CHECK_THROWS_AS(listener.accept(Milliseconds(10)), std::runtime_error);
}

TEST_CASE("a pattern is the beginning of each longer one, and differs by its seed") {
    CHECK(pattern(100'003, 7).starts_with(pattern(1'001, 7)));
    CHECK(pattern(64, 7) != pattern(64, 8));
    CHECK(pattern(0, 7).empty());
}

TEST_CASE("a line of the access log is taken apart, and other lines are left out") {
    const std::vector<AccessLine> lines = parse_access_log(
        "2026-01-01 10:00:00.123 info ready: 2 listeners\n"
        "2026-01-01 10:00:01.000 web 127.0.0.1:4000 -> db/10.0.0.1:5432 upload=12 download=3456 "
        "duration=1.5s "
        "connect=0.2ms path=splice end=client_fin\n"
        "2026-01-01 10:00:02.000 warning -> nothing\n");
    REQUIRE(lines.size() == 1);
    CHECK(lines[0].time == "2026-01-01 10:00:01.000");
    CHECK(lines[0].listener == "web");
    CHECK(lines[0].client == "127.0.0.1:4000");
    CHECK(lines[0].pool == "db");
    CHECK(lines[0].backend == "10.0.0.1:5432");
    CHECK(lines[0].upload == 12);
    CHECK(lines[0].download == 3456);
    CHECK(lines[0].path == "splice");
    CHECK(lines[0].end == "client_fin");
    CHECK(lines[0].fields.at("duration") == "1.5s");
}

}  // namespace
}  // namespace sluice::test

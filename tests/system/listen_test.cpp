// Where the relay listens, and what it says when it cannot.

#include "tests/system/ends.hpp"

#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace sluice::test {
namespace {

std::string one_listener(const std::string& bind, const std::string& backend) {
    return "workers: 2\nlisteners:\n  - name: front\n    bind: \"" + bind + "\"\n    to: \"" + backend +
           "\"\n";
}

// Starts a relay that is to fail, and returns what it said.
std::string start_that_fails(const std::string& yaml, Engine engine) {
    RelayOptions options;
    options.wait_for_ready = false;
    RelayProcess relay = RelayProcess::with_config(yaml, engine, options);
    relay.expect_exit(1);
    CHECK_FALSE(relay.log().contains("ready"));
    return relay.log();
}

// One exchange through the relay.
void expect_service(const std::string& address, Listener& backend) {
    Socket client = connect_to(address);
    Socket upstream = backend.accept();
    CHECK(pass(client, upstream, "question") == "question");
    CHECK(pass(upstream, client, "answer") == "answer");
    client.close();
    CHECK(upstream.receive_to_end().ending == Ending::fin);
}

ENGINE_TEST("a port in use is an error that names the listener, the address and the holder") {
    const Listener holder;
    const std::string log = start_that_fails(one_listener(holder.address(), "127.0.0.1:1"), here.engine);
    CAPTURE(log);
    CHECK(log.contains("front"));
    CHECK(log.contains(holder.address()));
    CHECK(log.contains(std::to_string(::getpid())));
    CHECK(log.contains("system-tests"));
}

ENGINE_TEST("a port of another sluice is in use, although both would share it") {
    Listener backend;
    const std::string address = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess first = RelayProcess::with_config(one_listener(address, backend.address()), here.engine);
    const std::string log = start_that_fails(one_listener(address, backend.address()), here.engine);
    CAPTURE(log);
    CHECK(log.contains("front"));
    CHECK(log.contains(address));
    CHECK(log.contains(std::to_string(first.pid())));
    CHECK(log.contains("sluice"));
    for (int session = 0; session < 4; ++session) expect_service(address, backend);
    first.stop();
}

ENGINE_TEST("a wildcard port in use on one of its addresses is in use") {
    const Listener holder;
    const std::string log =
        start_that_fails(one_listener(":" + std::to_string(holder.port()), "127.0.0.1:1"), here.engine);
    CAPTURE(log);
    CHECK(log.contains("front"));
    CHECK(log.contains(std::to_string(holder.port())));
}

ENGINE_TEST("two errors are reported in one go") {
    const Listener one;
    const Listener other;
    const std::string log = start_that_fails(
        "listeners:\n  - {name: first, bind: \"" + one.address() + "\", to: \"127.0.0.1:1\"}\n" +
            "  - {name: second, bind: \"" + other.address() + "\", to: \"127.0.0.1:1\"}\n",
        here.engine);
    CAPTURE(log);
    CHECK(log.contains("first"));
    CHECK(log.contains(one.address()));
    CHECK(log.contains("second"));
    CHECK(log.contains(other.address()));
}

ENGINE_TEST("an address that is not this machine's is an error that names it") {
    const std::string log = start_that_fails(one_listener("192.0.2.1:4000", "127.0.0.1:1"), here.engine);
    CAPTURE(log);
    CHECK(log.contains("front"));
    CHECK(log.contains("192.0.2.1:4000"));
}

ENGINE_TEST("a low port without the privilege is an error that says what is missing") {
    if (::geteuid() != 0) SLUICE_SKIP("needs root, to become a user without privileges");
    if (std::stoi(read_file("/proc/sys/net/ipv4/ip_unprivileged_port_start")) <= 81)
        SLUICE_SKIP("low ports are free for all here");
    RelayOptions options;
    options.wait_for_ready = false;
    options.process.before_exec = [] {
        if (::setgroups(0, nullptr) != 0 || ::setresgid(65'534, 65'534, 65'534) != 0 ||
            ::setresuid(65'534, 65'534, 65'534) != 0)
            ::_exit(126);
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    };
    RelayProcess relay = RelayProcess::forward("127.0.0.1:81", {"127.0.0.1:1"}, here.engine, options);
    relay.expect_exit(1);
    const std::string log = relay.log();
    CAPTURE(log);
    CHECK(log.contains("127.0.0.1:81"));
    CHECK((log.contains("CAP_NET_BIND_SERVICE") || log.contains("ip_unprivileged_port_start")));
}

ENGINE_TEST("a unix path that nobody listens on is taken over, and gone after the stop") {
    const TemporaryFolder folder;
    const std::string path = folder.file("front");
    {
        const Listener stale("unix:" + path);
    }
    REQUIRE(std::filesystem::is_socket(path));
    Listener backend;
    RelayProcess relay =
        RelayProcess::with_config(one_listener("unix:" + path, backend.address()), here.engine);
    expect_service("unix:" + path, backend);
    relay.stop();
    CHECK_FALSE(std::filesystem::exists(path));
}

ENGINE_TEST("a unix path that somebody listens on is left alone") {
    const TemporaryFolder folder;
    const std::string path = folder.file("front");
    Listener live("unix:" + path);
    const std::string log = start_that_fails(one_listener("unix:" + path, "127.0.0.1:1"), here.engine);
    CAPTURE(log);
    CHECK(log.contains("front"));
    CHECK(log.contains(path));
    // Asking whether somebody listens may have left a visitor in the queue, who is gone by now.
    Socket client = connect_to("unix:" + path);
    client.send_all("still here");
    std::string heard;
    while (heard.empty()) heard = live.accept().receive_some(10);
    CHECK(heard == "still here");
}

ENGINE_TEST("a path that is no socket is left alone") {
    const TemporaryFolder folder;
    const std::string path = folder.write("front", "precious");
    const std::string log = start_that_fails(one_listener("unix:" + path, "127.0.0.1:1"), here.engine);
    CAPTURE(log);
    CHECK(log.contains(path));
    CHECK(read_file(path) == "precious");
}

ENGINE_TEST("a unix path in a folder that is not there is an error that names it") {
    const TemporaryFolder folder;
    const std::string missing = folder.file("missing/front");
    CHECK(start_that_fails(one_listener("unix:" + missing, "127.0.0.1:1"), here.engine).contains(missing));
}

ENGINE_TEST("what was made before an error is undone") {
    const TemporaryFolder folder;
    const Listener holder;
    const std::string path = folder.file("front");
    start_that_fails("listeners:\n  - {name: first, bind: \"unix:" + path + "\", to: \"127.0.0.1:1\"}\n" +
                         "  - {name: second, bind: \"" + holder.address() + "\", to: \"127.0.0.1:1\"}\n",
                     here.engine);
    CHECK_FALSE(std::filesystem::exists(path));
}

ENGINE_TEST("a relay that is killed leaves a path that the next one takes over") {
    const TemporaryFolder folder;
    const std::string address = "unix:" + folder.file("front");
    Listener backend;
    RelayProcess::with_config(one_listener(address, backend.address()), here.engine).abandon();
    // A ring lives on for a moment after its process (the kernel takes it down on a thread of its own), and
    // with it the listening socket that it accepts on.
    REQUIRE(wait_until([&] { return try_connect(address) == ECONNREFUSED; }, soon));
    RelayProcess relay = RelayProcess::with_config(one_listener(address, backend.address()), here.engine);
    expect_service(address, backend);
    relay.stop();
}

ENGINE_TEST("abstract names work on both sides, and a second listener on one is refused") {
    const std::string unique = std::to_string(::getpid()) + to_string(here.engine);
    const std::string front = "unix:@sluice-test-front-" + unique;
    Listener backend("unix:@sluice-test-back-" + unique);
    RelayProcess relay = RelayProcess::with_config(one_listener(front, backend.address()), here.engine);
    for (int session = 0; session < 4; ++session) expect_service(front, backend);
    CHECK(start_that_fails(one_listener(front, backend.address()), here.engine).contains(front.substr(5)));
    // The second one asked by connecting whether somebody listens: a visitor like any other for the first.
    while (backend.waiting(glance)) backend.accept();
    relay.stop();
    CHECK(try_connect(front) == ECONNREFUSED);
}

ENGINE_TEST("a port without a host serves IPv4 and IPv6") {
    if (!ipv6_available()) SLUICE_SKIP("no IPv6 here");
    Listener backend;
    const std::string port = std::to_string(free_port());
    RelayProcess relay = RelayProcess::with_config(one_listener(":" + port, backend.address()), here.engine);
    for (int session = 0; session < 3; ++session) {
        expect_service("127.0.0.1:" + port, backend);
        expect_service("[::1]:" + port, backend);
    }
    for (const AccessLine& line : relay.access_log(6)) {
        CAPTURE(line.text);
        // A client of IPv4 is logged as one, not as [::ffff:127.0.0.1].
        CHECK((line.client.starts_with("127.0.0.1:") || line.client.starts_with("[::1]:")));
    }
    relay.stop();
}

ENGINE_TEST("an IPv6 address serves IPv6 alone, and reaches an IPv6 backend") {
    if (!ipv6_available()) SLUICE_SKIP("no IPv6 here");
    Listener backend("[::1]:0");
    const std::string port = std::to_string(free_port());
    RelayProcess relay =
        RelayProcess::with_config(one_listener("[::1]:" + port, backend.address()), here.engine);
    expect_service("[::1]:" + port, backend);
    CHECK(try_connect("127.0.0.1:" + port) == ECONNREFUSED);
    relay.stop();
}

ENGINE_TEST("one listener serves all of its addresses") {
    const TemporaryFolder folder;
    Listener backend;
    const std::string one = "127.0.0.1:" + std::to_string(free_port());
    const std::string other = "unix:" + folder.file("front");
    RelayProcess relay =
        RelayProcess::with_config("listeners:\n  - name: front\n    bind: [\"" + one + "\", \"" + other +
                                      "\"]\n    to: \"" + backend.address() + "\"\n",
                                  here.engine);
    expect_service(one, backend);
    expect_service(other, backend);
    for (const AccessLine& line : relay.access_log(2)) CHECK(line.listener == "front");
    relay.stop();
}

}  // namespace
}  // namespace sluice::test

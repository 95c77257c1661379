// Programs that speak UDP, and those that speak it and TCP on one port number.

#include "tests/support/datagrams.hpp"
#include "tests/support/doctest.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

namespace sluice::test {
namespace {

constexpr Milliseconds program_patience{60'000};

// In PATH or where Debian keeps servers; empty when it is missing.
std::string find_program(const std::string& name) {
    if (program_available(name)) return name;
    const std::string hidden = "/usr/sbin/" + name;
    return ::access(hidden.c_str(), X_OK) == 0 ? hidden : "";
}

#define REQUIRE_PROGRAM(name) \
    if (find_program(name).empty()) SLUICE_SKIP(std::string("there is no ") + (name))

std::string both(const std::string& listen, const std::string& target) {
    return "listeners:\n  - {name: d, bind: \"udp://" + listen + "\", to: \"udp://" + target +
           "\"}\n  - {name: s, bind: \"" + listen + "\", to: \"" + target + "\"}\n";
}

void stop_at_once(RelayProcess& relay) {
    relay.process().signal(SIGTERM);
    REQUIRE(relay.process().wait_for_text("draining"));
    relay.process().signal(SIGTERM);
    relay.expect_exit(0);
}

ENGINE_TEST("dig: questions and answers of a real DNS server, over UDP and over TCP") {
    REQUIRE_PROGRAM("dig");
    REQUIRE_PROGRAM("dnsmasq");
    const std::uint16_t server_port = free_port_of_both();
    const std::uint16_t port = free_port_of_both();
    const std::string texts = std::string(200, 'a') + "," + std::string(200, 'b') + "," +
                              std::string(200, 'c') + "," + std::string(200, 'd');
    std::vector<std::string> command = {find_program("dnsmasq"),
                                        "--keep-in-foreground",
                                        "--conf-file=/dev/null",
                                        "--no-resolv",
                                        "--no-hosts",
                                        "--pid-file",
                                        "--log-facility=-",
                                        "--bind-interfaces",
                                        "--listen-address=127.0.0.1",
                                        "--port=" + std::to_string(server_port),
                                        "--edns-packet-max=4096",
                                        "--address=/example.test/192.0.2.53",
                                        "--txt-record=long.test," + texts};
    if (::geteuid() == 0) command.push_back("--user=root");
    Process server(command);
    RelayProcess relay = RelayProcess::with_config(
        both("127.0.0.1:" + std::to_string(port), "127.0.0.1:" + std::to_string(server_port)), here.engine);
    const auto dig = [&](std::vector<std::string> words) {
        std::vector<std::string> call = {"dig",      "@127.0.0.1", "-p", std::to_string(port),
                                         "+tries=3", "+time=2"};
        call.insert(call.end(), words.begin(), words.end());
        return run(call, program_patience);
    };
    REQUIRE(wait_until([&] { return dig({"example.test"}).out.contains("192.0.2.53"); }));
    for (int count = 0; count < 5; ++count) {
        const Output answer = dig({"example.test", "A"});
        CHECK(answer.exit.success());
        CHECK(answer.out.contains("192.0.2.53"));
        CHECK(answer.out.contains("(UDP)"));
    }
    const Output long_answer = dig({"long.test", "TXT", "+bufsize=4096"});
    CHECK(long_answer.out.contains(std::string(200, 'd')));
    CHECK(long_answer.out.contains("(UDP)"));
    // Too long for a small buffer: the server says so, and dig asks again over TCP.
    const Output truncated = dig({"long.test", "TXT", "+bufsize=512"});
    CHECK(truncated.out.contains(std::string(200, 'd')));
    CHECK(truncated.out.contains("(TCP)"));
    CHECK(dig({"example.test", "+tcp"}).out.contains("192.0.2.53"));
    stop_at_once(relay);
}

ENGINE_TEST("iperf3 -u: both ways, and four streams at once") {
    REQUIRE_PROGRAM("iperf3");
    const std::uint16_t server_port = free_port_of_both();
    const std::uint16_t port = free_port_of_both();
    RelayProcess relay = RelayProcess::with_config(
        both("127.0.0.1:" + std::to_string(port), "127.0.0.1:" + std::to_string(server_port)), here.engine);
    const std::vector<std::vector<std::string>> ways = {{}, {"-R"}, {"-P", "4"}};
    for (const auto& way : ways) {
        Process server(
            {"iperf3", "-s", "-1", "--forceflush", "-B", "127.0.0.1", "-p", std::to_string(server_port)});
        REQUIRE(server.wait_for_text("Server listening"));
        std::vector<std::string> command = {"iperf3", "-u", "-c", "127.0.0.1", "-p", std::to_string(port),
                                            "-t",     "1",  "-b", "20M",       "-l", "1200"};
        command.insert(command.end(), way.begin(), way.end());
        const Output output = run(command, program_patience);
        CHECK_MESSAGE(output.exit.success(), output.out << output.error);
        CHECK_MESSAGE(output.out.contains("receiver"), output.out);
        CHECK(server.wait().ended);
    }
    stop_at_once(relay);
    // 2,083 datagrams a second are what was asked for; each way moved about as many.
    std::uint64_t most = 0;
    for (const AccessLine& line : relay.access_log())
        if (line.listener == "d")
            most = std::max<std::uint64_t>(most, std::stoull(line.fields.at("upload_datagrams")) +
                                                     std::stoull(line.fields.at("download_datagrams")));
    CHECK(most > 1000);
}

}  // namespace
}  // namespace sluice::test

// The commands as a user types them: exit codes, what goes to stdout and what to stderr.

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cctype>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::test {
namespace {

Output sluice(std::vector<std::string> arguments, Milliseconds deadline = patience,
              ProcessOptions options = {}) {
    arguments.insert(arguments.begin(), relay_binary());
    return run(std::move(arguments), deadline, std::move(options));
}

std::string source_file(const std::string& name) {
    return std::string(SLUICE_SOURCE_DIR) + "/" + name;
}

std::size_t lines_with(const std::string& text, std::string_view part) {
    std::istringstream stream(text);
    std::size_t count = 0;
    for (std::string line; std::getline(stream, line);)
        if (line.contains(part)) ++count;
    return count;
}

// Five errors, each on a line of its own.
constexpr std::string_view wrong_yaml =
    "listeners:\n"
    "  - bind: 127.0.0.1:99999\n"  // 2: no such port
    "    pool: web\n"
    "    timeouts: {idle: soon}\n"  // 4: no duration
    "pools:\n"
    "  web:\n"
    "    ballance: round_robin\n"  // 7: an unknown key
    "    backends: [127.0.0.1:8081]\n"
    "    retries: many\n"  // 9: no number
    "engine: fast\n";      // 10: no such engine

TEST_CASE("--version and --help answer on stdout and return 0") {
    const Output version = sluice({"--version"});
    CHECK(version.exit.code == 0);
    CHECK(version.out.contains("sluice"));
    CHECK(version.out.find_first_of("0123456789") != std::string::npos);
    CHECK(version.error.empty());
    const Output help = sluice({"--help"});
    CHECK(help.exit.code == 0);
    CHECK(help.error.empty());
    for (const char* command : {"run", "forward", "check", "demo", "doctor"}) {
        CHECK_MESSAGE(help.out.contains(command), "--help does not name " << command);
        CHECK_MESSAGE(sluice({command, "--help"}).exit.code == 0, command << " --help");
    }
}

TEST_CASE("wrong usage returns 2 and says what was meant, on stderr") {
    const Output misspelt = sluice({"chekc"});
    CHECK(misspelt.exit.code == 2);
    CHECK(misspelt.out.empty());
    CHECK_MESSAGE(misspelt.error.contains("chekc"), misspelt.error);
    CHECK_MESSAGE(misspelt.error.contains("check"), misspelt.error);
    const std::vector<std::vector<std::string>> others = {
        {},
        {"run"},
        {"run", "--no-such-flag"},
        {"forward"},
        {"forward", "127.0.0.1:0"},
        {"forward", "127.0.0.1:0", "not an address"},
        {"forward", "no-such-port:", "127.0.0.1:1"},
        {"check"},
    };
    for (const auto& arguments : others) {
        const Output output = sluice(arguments);
        std::string text;
        for (const std::string& argument : arguments) text += " " + argument;
        INFO("sluice" << text << ": " << to_string(output.exit) << "\n" << output.error);
        CHECK(output.exit.code == 2);
        CHECK(!output.error.empty());
        CHECK(output.out.empty());
    }
}

TEST_CASE("check accepts the files that come with sluice") {
    for (const char* name : {"conf/sluice.yaml", "conf/sluice.minimal.yaml"}) {
        const Output output = sluice({"check", "-c", source_file(name)});
        INFO(name << ": " << output.error);
        CHECK(output.exit.code == 0);
    }
}

TEST_CASE("check reports every error of a file with its place, on stderr, and returns 2") {
    const TemporaryFolder folder;
    const std::string path = folder.write("wrong.yaml", wrong_yaml);
    const Output output = sluice({"check", "-c", path});
    INFO(output.error);
    CHECK(output.exit.code == 2);
    CHECK(output.out.empty());
    for (const int line : {2, 4, 7, 9, 10}) {
        const std::string place = path + ":" + std::to_string(line) + ":";
        CHECK_MESSAGE(lines_with(output.error, place) == 1, "nothing about line " << line);
        // The column follows.
        const std::size_t at = output.error.find(place);
        if (at != std::string::npos) CHECK(std::isdigit(output.error[at + place.size()]));
    }
    CHECK(output.error.contains("balance"));
    CHECK(sluice({"check", "-c", folder.file("missing.yaml")}).exit.code == 2);
    CHECK(sluice({"check", "-c", folder.path().string()}).exit.code == 2);
}

TEST_CASE("what check --print prints is a configuration that prints the same") {
    const TemporaryFolder folder;
    for (const char* name : {"conf/sluice.yaml", "conf/sluice.minimal.yaml"}) {
        const Output first = sluice({"check", "-c", source_file(name), "--print"});
        CHECK(first.exit.code == 0);
        REQUIRE(!first.out.empty());
        const std::string path = folder.write("printed.yaml", first.out);
        const Output second = sluice({"check", "-c", path, "--print"});
        INFO(second.error);
        CHECK(second.exit.code == 0);
        CHECK(second.out == first.out);
    }
}

TEST_CASE("run with an invalid file reports every error, starts nothing and returns 2") {
    const TemporaryFolder folder;
    const std::string port = std::to_string(free_port());
    // The first listener is right; it must not be opened all the same.
    const std::string path = folder.write(
        "wrong.yaml", "listeners:\n  - {bind: \"127.0.0.1:" + port +
                          "\", pool: web}\n  - {bind: \"unix:" + folder.file("front") +
                          "\", pool: nowhere}\npools:\n  web:\n    backends: [127.0.0.1:1]\n    oops: 1\n");
    const Output output = sluice({"run", "-c", path});
    INFO(output.error);
    CHECK(output.exit.code == 2);
    CHECK(output.out.empty());
    CHECK(output.error.contains("nowhere"));
    CHECK(output.error.contains("oops"));
    CHECK(!output.error.contains("ready"));
    CHECK(!std::filesystem::exists(folder.file("front")));
}

TEST_CASE("demo relays real traffic, prints its speed and ends by itself") {
    const Output output = sluice({"demo", "--seconds", "1"}, Milliseconds(60'000));
    INFO(output.out << output.error);
    CHECK(output.exit.code == 0);
    CHECK(output.out.contains("GiB/s"));
    CHECK(output.out.contains("splice"));
}

TEST_CASE("demo works with one CPU and with one worker for it") {
    const Output output = sluice({"demo", "--seconds", "1", "--json"}, Milliseconds(60'000),
                                 {.environment = {}, .folder = {}, .input = {}, .before_exec = [] {
                                      cpu_set_t set;
                                      CPU_ZERO(&set);
                                      ::sched_getaffinity(0, sizeof(set), &set);
                                      for (std::size_t cpu = 0, found = 0; cpu < CPU_SETSIZE; ++cpu)
                                          if (CPU_ISSET(cpu, &set) && found++ > 0) CPU_CLR(cpu, &set);
                                      ::sched_setaffinity(0, sizeof(set), &set);
                                  }});
    INFO(output.out << output.error);
    CHECK(output.exit.code == 0);
    const auto result = nlohmann::json::parse(output.out, nullptr, false);
    REQUIRE(!result.is_discarded());
    CHECK(result.value("workers", 0) == 1);
    CHECK(result.value("intact", false));
}

TEST_CASE("demo without what it needs says so and ends with 1; INT ends it at once") {
    const Output poor = sluice({"demo", "--seconds", "1"}, Milliseconds(60'000),
                               {.environment = {}, .folder = {}, .input = {}, .before_exec = [] {
                                    const rlimit limit{14, 14};
                                    ::setrlimit(RLIMIT_NOFILE, &limit);
                                }});
    INFO(poor.error);
    CHECK(poor.exit.code == 1);
    CHECK(poor.error.contains("descriptor"));

    Process process({relay_binary(), "demo", "--seconds", "60"});
    REQUIRE(process.wait_for_text("trips/s"));
    process.signal(SIGINT);
    CHECK(process.wait(Milliseconds(5000)).signal == SIGINT);
}

TEST_CASE("the exit code is the same when stderr cannot be written to") {
    const TemporaryFolder folder;
    const std::string path = folder.write("wrong.yaml", wrong_yaml);
    const std::vector<std::vector<std::string>> usages = {
        {"run", "-c", path}, {"check", "-c", path}, {"forward", ":0", "nonsense"}, {"chekc"}};
    for (const auto& arguments : usages) {
        const Output output =
            sluice(arguments, patience, {.environment = {}, .folder = {}, .input = {}, .before_exec = [] {
                                             ::dup2(::open("/dev/full", O_WRONLY), STDERR_FILENO);
                                         }});
        CHECK_MESSAGE(output.exit.code == 2, arguments.front());
    }
}

TEST_CASE("doctor says what this machine grants") {
    const Output output = sluice({"doctor"});
    INFO(output.out << output.error);
    CHECK(output.exit.code == 0);
    CHECK(output.out.contains("io_uring"));
    CHECK(output.out.contains("pipe"));
    CHECK(output.out.contains("descriptors"));
    const Output json = sluice({"doctor", "--json"});
    CHECK(json.exit.code == 0);
    const auto parsed = nlohmann::json::parse(json.out, nullptr, false);
    CHECK(!parsed.is_discarded());
    CHECK((parsed.is_object() && !parsed.empty()));
}

// One session that says "hello" and hears it again.
void echo_once(const std::string& address, Listener& backend) {
    Socket client = connect_to(address);
    Socket upstream = backend.accept();
    client.send_all("hello");
    upstream.send_all(upstream.receive_exactly(5));
    CHECK(client.receive_exactly(5) == "hello");
    client.shutdown_write();
    CHECK(upstream.receive_to_end().ending == Ending::fin);
    upstream.close();
    CHECK(client.receive_to_end().ending == Ending::fin);
}

ENGINE_TEST("forward relays without a file, to each of its targets in turn") {
    Listener first;
    Listener second;
    const std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay = RelayProcess::forward(listen, {first.address(), second.address()}, here.engine,
                                               {.process = {}, .wrapper = {}, .flags = {"--workers", "1"}});
    std::vector<int> served(2);
    for (int session = 0; session < 4; ++session) {
        Socket client = connect_to(listen);
        REQUIRE(wait_until([&] { return first.waiting() || second.waiting(); }));
        const bool by_first = first.waiting();
        ++served.at(by_first ? 0 : 1);
        Socket upstream = (by_first ? first : second).accept();
        client.send_all("hello");
        upstream.send_all(upstream.receive_exactly(5));
        CHECK(client.receive_exactly(5) == "hello");
    }
    CHECK(served == std::vector{2, 2});
}

ENGINE_TEST("the access log as JSON has one object for each session, with the names of the text") {
    RelayLayout layout;
    layout.settings = "access_log: {format: json}\n";
    RelayWithBackend relay(here, layout);
    echo_once(relay.address(), relay.backend());
    echo_once(relay.address(), relay.backend());
    const auto objects = [&] {
        std::vector<nlohmann::json> result;
        std::istringstream stream(relay.relay().log());
        for (std::string line; std::getline(stream, line);) {
            if (!line.starts_with("{")) continue;
            auto object = nlohmann::json::parse(line, nullptr, false);
            if (!object.is_discarded() && object.contains("end")) result.push_back(std::move(object));
        }
        return result;
    };
    REQUIRE(wait_until([&] { return objects().size() == 2; }));
    for (const auto& object : objects()) {
        INFO(object.dump());
        for (const char* name : {"time", "listener", "client", "pool", "backend", "upload", "download",
                                 "duration", "connect", "path", "end"})
            CHECK_MESSAGE(object.contains(name), name << " is missing");
        CHECK(object.value("listener", "") == "front");
        CHECK(object.value("pool", "") == "back");
        CHECK(object.value("backend", "") == relay.backend().address());
        CHECK(object.value("upload", 0) == 5);
        CHECK(object.value("download", 0) == 5);
        CHECK(object.value("path", "") == "copy");
        CHECK(object.value("end", "") == "client_fin");
    }
}

ENGINE_TEST("a session that goes on tells how far it is, every interval") {
    Listener backend;
    const std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay = RelayProcess::with_config(
        "workers: 1\naccess_log: {events: [periodic, close], interval: 1s}\nlisteners:\n  - {name: front, "
        "bind: \"" +
            listen + "\", to: \"" + backend.address() + "\"}\n",
        here.engine);
    Socket client = connect_to(listen);
    Socket upstream = backend.accept();
    client.send_all("hello");
    CHECK(upstream.receive_exactly(5) == "hello");
    const std::vector<AccessLine> lines = relay.access_log(2);
    for (const AccessLine& line : lines) {
        CHECK(line.fields.at("event") == "periodic");
        CHECK(line.upload == 5);
        CHECK(line.end.empty());
    }
    client.close();
    upstream.close();
    CHECK(wait_until([&] { return relay.access_log().back().end == "client_fin"; }));
    // Nobody is there any more, and nothing is told of nobody.
    const std::size_t count = relay.access_log().size();
    std::this_thread::sleep_for(Milliseconds(1200));
    CHECK(relay.access_log().size() == count);
    relay.stop();
}

}  // namespace
}  // namespace sluice::test

#include "sluice/config/load.hpp"

#include "sluice/config/print.hpp"

#include "tests/support/doctest.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <thread>

// The build says where the source tree is; without it, tests are run from the top of the tree.
#ifndef SLUICE_SOURCE_DIR
#define SLUICE_SOURCE_DIR "."
#endif

namespace sluice::config {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

// The vocabulary: what loads, and what is said about what does not.

Config loaded(std::string_view text) {
    auto config = load_text(text, "t");
    REQUIRE_MESSAGE(config, (config ? std::string() : to_string(config.error().front())));
    return std::move(*config);
}

std::vector<std::string> complaints(std::string_view text) {
    const auto config = load_text(text, "t");
    std::vector<std::string> messages;
    if (config) return messages;
    CHECK_FALSE(config.error().empty());
    for (const Diagnostic& diagnostic : config.error()) messages.push_back(to_string(diagnostic));
    return messages;
}

// The only complaint about a text.
std::string complaint(std::string_view text) {
    const auto messages = complaints(text);
    std::string all;
    for (const std::string& message : messages) all += message + "\n";
    CHECK_MESSAGE(messages.size() == 1, all);
    return messages.empty() ? std::string() : messages.front();
}

bool begins(const std::string& message, std::string_view part) {
    return message.starts_with(part);
}
bool mentions(const std::string& message, std::string_view part) {
    return message.find(part) != std::string::npos;
}

// A good file in three lines, so that what a case adds begins in line 4.
const std::string good =
    "listeners: [{bind: \":5432\", pool: db}]\n"
    "pools: {db: {backends: [\"10.0.0.11:5432\"]}}\n"
    "workers: 1\n";

// One listener with more keys, beginning in line 2 column 5; one pool after it.
std::string listener(std::string_view keys) {
    return "listeners:\n  - " + std::string(keys) + "\npools: {db: {backends: [\"10.0.0.11:5432\"]}}\n";
}

std::string pool(std::string_view keys) {
    return "listeners: [{bind: \":1\", pool: db}]\npools:\n  db:\n    " + std::string(keys) + "\n";
}

std::filesystem::path source_dir() {
    return SLUICE_SOURCE_DIR;
}

// A folder that is gone with the test.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "sluice-config-XXXXXX").string();
        REQUIRE(mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    ~TemporaryFolder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

TEST_CASE("the minimal file of the contract loads with every default") {
    const Config config = loaded(
        "listeners:\n  - bind: :5432\n    pool: db\npools:\n  db:\n    backends: [10.0.0.11:5432, "
        "10.0.0.12:5432]\n");
    CHECK(config.workers == 0);
    CHECK(config.engine == Engine::automatic);
    CHECK(config.timeouts == Timeouts{});
    REQUIRE(config.listeners.size() == 1);
    CHECK(config.listeners[0].name == ":5432");
    CHECK(config.listeners[0].pool == "db");
    CHECK(config.listeners[0].tcp == Tcp{});
    CHECK(config.listeners[0].place.line == 2);
    REQUIRE(config.pools.size() == 1);
    REQUIRE(config.pools[0].backends.size() == 2);
    CHECK(config.pools[0].backends[1].name == "10.0.0.12:5432");
    CHECK(config.pools[0].backends[1].address.port == 5432);
}

TEST_CASE("the example files load, and the full one says what the defaults are") {
    for (const char* name : {"conf/sluice.yaml", "conf/sluice.minimal.yaml"}) {
        const auto config = load_file((source_dir() / name).string());
        REQUIRE_MESSAGE(config, (config ? std::string() : to_string(config.error().front())));
        CHECK(warnings(*config, name).empty());
        // What it writes as the default is the default.
        Config bare;
        bare.listeners = config->listeners;
        bare.pools = config->pools;
        CHECK(bare == *config);
        CHECK(config->listeners[0].tcp == Tcp{});
        CHECK(config->pools[0].tcp == Tcp{});
        CHECK(config->pools[0].retries == Pool{}.retries);
    }
}

TEST_CASE("every key is read") {
    const Config config = loaded(R"(
workers: 3
engine: epoll
sessions_max: 5000
log: {level: debug, format: json, output: "file:/var/log/sluice.log"}
access_log: {format: json, output: journal, events: [accept, close]}
drain_timeout: 0
timeouts: {connect: 1s, idle: 2m, half_closed: 3s, max_age: 1d}
listeners:
  - name: web
    bind: ["127.0.0.1:80", "[::1]:81", "unix:@web"]
    pool: web
    sessions_max: 7
    timeouts: {idle: 9s}
    tcp: {nodelay: off, keepalive: {idle: 0, interval: 1s, count: 2}, user_timeout: 30s, fastopen: on, backlog: 9,
          receive_buffer: 64KiB, send_buffer: 1MiB, congestion: bbr}
pools:
  web:
    balance: round_robin
    retries: 0
    backends: [{address: "db:1", name: one}, "unix:/run/two.sock"]
    tcp: {nodelay: false}
dns: {servers: [10.0.0.53, "[::1]:5353"], ttl_min: 2s, ttl_max: 2s, timeout: 100ms}
)");
    CHECK(config.workers == 3);
    CHECK(config.engine == Engine::epoll);
    CHECK(config.sessions_max == 5000);
    CHECK(config.log == Log{Level::debug, Format::json, {Output::Kind::file, "/var/log/sluice.log"}});
    CHECK(config.access_log.format == Format::json);
    CHECK(config.access_log.output.kind == Output::Kind::journal);
    CHECK(config.access_log.events ==
          AccessEvents{.accept = true, .connect = false, .periodic = false, .close = true});
    CHECK(config.drain_timeout == Milliseconds(0));
    CHECK(config.timeouts.max_age == std::chrono::hours(24));
    const Listener& web = config.listeners.at(0);
    CHECK(web.bind.size() == 3);
    CHECK(web.sessions_max == 7);
    CHECK(web.timeouts.idle == seconds(9));
    CHECK_FALSE(web.tcp.nodelay);
    CHECK(web.tcp.keepalive == Keepalive{Milliseconds(0), seconds(1), 2});
    CHECK(web.tcp.user_timeout == seconds(30));
    CHECK(web.tcp.fastopen);
    CHECK(web.tcp.backlog == 9);
    CHECK(web.tcp.receive_buffer == 65536);
    CHECK(web.tcp.send_buffer == 1048576);
    CHECK(web.tcp.congestion == "bbr");
    const Pool& backends = config.pools.at(0);
    CHECK(backends.retries == 0);
    CHECK_FALSE(backends.tcp.nodelay);
    CHECK(backends.backends.at(0).name == "one");
    CHECK(backends.backends.at(0).address.is_name());
    CHECK(backends.backends.at(1).address.kind == Endpoint::Kind::unix_stream);
    CHECK(config.dns.servers == std::vector<std::string>{"10.0.0.53:53", "[::1]:5353"});
    CHECK(config.dns.timeout == Milliseconds(100));
}

TEST_CASE("a listener inherits the timeouts that it does not name, wherever they stand in the file") {
    const Config config = loaded(
        "listeners: [{bind: \":1\", pool: db, timeouts: {idle: 7s}}, {bind: \":2\", pool: db}]\n"
        "pools: {db: {backends: [\"h:1\"]}}\n"
        "timeouts: {connect: 3s, idle: 4m}\n");
    CHECK(config.listeners[0].timeouts.idle == seconds(7));
    CHECK(config.listeners[0].timeouts.connect == seconds(3));
    CHECK(config.listeners[0].timeouts.half_closed == minutes(5));
    CHECK(config.listeners[1].timeouts == config.timeouts);
}

TEST_CASE("a tcp map overrides only the keys that it names") {
    const Config config = loaded(listener("{bind: \":1\", pool: db, tcp: {keepalive: {count: 3}}}"));
    Tcp expected;
    expected.keepalive.count = 3;
    CHECK(config.listeners[0].tcp == expected);
}

TEST_CASE("a single target becomes a pool with the listener's name and tcp settings") {
    const Config config =
        loaded("listeners: [{name: in, bind: \":1\", to: \"db:5432\", tcp: {nodelay: false}}]\n");
    REQUIRE(config.pools.size() == 1);
    CHECK(config.pools[0].name == "in");
    CHECK(config.pools[0].from_listener);
    CHECK(config.pools[0].backends.at(0).name == "db:5432");
    CHECK_FALSE(config.pools[0].tcp.nodelay);
    CHECK(config.listeners[0].pool == "in");
    CHECK(warnings(config, "t").empty());
}

TEST_CASE("a pool made for a single target may not meet a pool of the same name") {
    CHECK(begins(
        complaint("listeners:\n  - {name: db, bind: \":1\", to: \"h:1\"}\n  - {bind: \":2\", pool: db}\n"
                  "pools: {db: {backends: [\"h:1\"]}}\n"),
        "t:2:32: the listener \"db\" has \"to\""));
}

TEST_CASE("listeners on port 0 get different names") {
    const Config config =
        loaded("listeners: [{bind: \"127.0.0.1:0\", to: \"h:1\"}, {bind: \"127.0.0.1:0\", to: \"h:1\"}]");
    CHECK(config.listeners[0].name == "127.0.0.1:0");
    CHECK(config.listeners[1].name == "127.0.0.1:0#2");
}

TEST_CASE("the access log can be switched off in one word") {
    CHECK_FALSE(loaded(good + "access_log: off\n").access_log.enabled);
    CHECK_FALSE(loaded(good + "access_log: {enabled: false}\n").access_log.enabled);
    CHECK(loaded(good + "access_log: {events: off}\n").access_log.events ==
          AccessEvents{.accept = false, .connect = false, .periodic = false, .close = false});
    CHECK(loaded(good + "access_log: {events: connect}\n").access_log.events.connect);
    const AccessLog periodic = loaded(good + "access_log: {events: [periodic], interval: 5s}\n").access_log;
    CHECK(periodic.events.periodic);
    CHECK(periodic.interval == std::chrono::seconds(5));
    CHECK(mentions(complaint(good + "access_log: {interval: 10ms}\n"), "interval"));
}

TEST_CASE("anchors and aliases are good, and an error in one is reported once") {
    const Config config = loaded(
        "listeners:\n  - {bind: \":1\", pool: a, timeouts: &slow {idle: 2h}}\n  - {bind: \":2\", pool: a, "
        "timeouts: "
        "*slow}\npools: {a: {backends: [\"h:1\"]}}\n");
    CHECK(config.listeners[1].timeouts.idle == std::chrono::hours(2));
    CHECK(
        complaint(
            "listeners:\n  - {bind: \":1\", pool: a, timeouts: &slow {idle: 2}}\n  - {bind: \":2\", pool: a, "
            "timeouts: *slow}\npools: {a: {backends: [\"h:1\"]}}\n")
            .starts_with("t:2:50: \"idle\": the duration \"2\" has no unit"));
}

TEST_CASE("an unknown key is refused with its place and the key it resembles") {
    CHECK(complaint(pool("backends: [\"h:1\"]\n    ballance: round_robin")) ==
          "t:5:5: unknown key \"ballance\" (did you mean \"balance\"?)");
    CHECK(complaint(good + "zebra: 1\n") == "t:4:1: unknown key \"zebra\"");
    CHECK(complaint(listener("{bind: \":1\", pool: db, tcp: {keepalive: {idel: 1s}}}")) ==
          "t:2:46: unknown key \"idel\" (did you mean \"idle\"?)");
}

TEST_CASE("keys and words that a later build will know are refused as such") {
    const char* later = "not supported by this build yet";
    CHECK(mentions(complaint(good + "admin: {socket: /x}\n"), later));
    CHECK(mentions(complaint(good + "timeouts: {prelude: 5s}\n"), later));
    CHECK(mentions(complaint(listener("{bind: \":1\", pool: db, routes: []}")), later));
    CHECK(mentions(complaint(pool("backends: [{address: \"h:1\", weight: 2}]")), later));
    CHECK(mentions(complaint(pool("backends: [\"h:1\"]\n    health_check: {type: tcp}")), later));
    CHECK(mentions(complaint(pool("backends: [\"h:1\"]\n    balance: maglev")), later));
}

TEST_CASE("kinds that cannot be relayed to each other are refused where the listener says its address") {
    const auto between = [](std::string_view bind, std::string_view backend) {
        return "listeners:\n  - {bind: \"" + std::string(bind) + "\", pool: p}\npools: {p: {backends: [\"" +
               std::string(backend) + "\"]}}\n";
    };
    for (const auto& [bind, backend] : {std::pair{":53", "h:53"},
                                        {"unix:/a", "h:53"},
                                        {":53", "unix:/a"},
                                        {"udp://:53", "udp://h:53"},
                                        {"udp://:53", "unix-dgram:/a"},
                                        {"unix-seqpacket:/a", "unix-seqpacket:@b"},
                                        {":53", "file:/a"},
                                        {"unix:/a", "file:/b?append"},
                                        {":10-19", "h:10-19"},
                                        {"udp://:10-19", "udp://h:20-29"},
                                        {":10-19", "h:1"}})
        CHECK_NOTHROW(loaded(between(bind, backend)));
    for (const auto& [bind, backend, part] : {std::tuple{"udp://:53", "h:53", "cannot be relayed"},
                                              {":53", "udp://h:53", "cannot be relayed"},
                                              {"udp://:53", "file:/a", "is a file"},
                                              {"unix-dgram:/a", "file:/a", "is a file"},
                                              {"unix-seqpacket:/a", "unix:/b", "sequenced packets"},
                                              {"unix-seqpacket:/a", "file:/b", "is a file"},
                                              {":10-19", "h:10-18", "a range of the same size"},
                                              {":10", "h:10-11", "a range of the same size"}}) {
        const std::string message = complaint(between(bind, backend));
        CHECK(begins(message, "t:2:12: "));
        CHECK(mentions(message, part));
    }
    CHECK(begins(complaint(listener("{bind: [\":53\", \"udp://:53\"], pool: db}")), "t:2:20: \"udp://:53\""));
    CHECK(begins(complaint(pool("backends: [\"h:1\", \"udp://h:1\"]")), "t:4:23: \"udp://h:1\""));
    CHECK(begins(complaint(pool("backends: [\"h:1\", \"file:/a\"]")), "t:4:23: \"file:/a\""));
    CHECK(begins(complaint(listener("{bind: \"file:/a\", pool: db}")), "t:2:12: nobody can connect"));
    CHECK(begins(complaint(listener("{bind: \":53\", to: \"udp://h:1\"}")), "t:2:12: "));
    CHECK(begins(complaint(pool("backends: [\"udp://:53\"]")), "t:4:16: "));
    const std::vector<std::string> targets = {"udp://h:53"};
    CHECK(!forward(":53", targets));
    CHECK(forward("udp://:53", targets));
}

TEST_CASE("ranges of ports overlap where one port is in both") {
    const auto both = [](std::string_view one, std::string_view other) {
        return listener("{bind: [\"" + std::string(one) + "\", \"" + std::string(other) + "\"], pool: db}");
    };
    for (const auto& [one, other] : {std::pair{":10-20", ":20"},
                                     {":20", ":10-20"},
                                     {":10-20", "0.0.0.0:15"},
                                     {":10-20", ":15-25"},
                                     {":15-25", ":10-20"},
                                     {":10-20", ":12-13"}})
        CHECK(mentions(complaint(both(one, other)), "overlaps"));
    for (const auto& [one, other] :
         {std::pair{":10-20", ":21-30"}, {":10-20", "127.0.0.1:15"}, {":10", ":11"}, {"unix:@a", "unix:@b"}})
        CHECK_NOTHROW(loaded(both(one, other)));
    // A port of UDP is not the same port of TCP, but one listener has one kind.
    CHECK_NOTHROW(loaded(
        "listeners:\n  - {bind: \":53\", to: \"h:53\"}\n  - {bind: \"udp://:53\", to: \"udp://h:53\"}\n"));
}

TEST_CASE("what ends a session of datagrams is read, and responses without requests are warned of") {
    const std::string text =
        "timeouts: {udp_idle: 7s}\nlisteners:\n  - {bind: \"udp://:53\", to: \"udp://h:53\", udp: {requests: "
        "1, "
        "responses: 2}}\n";
    const Config config = loaded(text);
    CHECK(config.listeners.front().timeouts.udp_idle == std::chrono::seconds(7));
    CHECK(config.listeners.front().udp == Udp{.requests = 1, .responses = 2});
    CHECK(warnings(config, "t").empty());
    const Config odd =
        loaded("listeners:\n  - {bind: \"udp://:53\", to: \"udp://h:53\", udp: {responses: 2}}\n");
    REQUIRE(warnings(odd, "t").size() == 1);
    CHECK(begins(to_string(warnings(odd, "t").front()), "t:2:5: \"responses\" has no effect"));
}

TEST_CASE("values of a wrong kind are refused at their own place") {
    CHECK(complaint(good + "log: [a]\n") == "t:4:6: \"log\" must be a map of keys, not a list");
    CHECK(complaint(good + "drain_timeout: {a: b}\n") ==
          "t:4:16: \"drain_timeout\" must be a duration, not a map");
    CHECK(begins(complaint(good + "timeouts:\n"), "t:4:1: \"timeouts\" has no value"));
    CHECK(begins(complaint(good + "engine: uring\n"), "t:4:9: unknown value \"uring\" for \"engine\""));
    CHECK(begins(complaint(good + "engine: iouring\n"),
                 "t:4:9: unknown value \"iouring\" for \"engine\" (did you mean \"io_uring\"?)"));
    CHECK(begins(complaint(good + "log: {output: file:x}\n"), "t:4:15: "));
    CHECK(begins(complaint(good + "log: {output: file}\n"), "t:4:15: "));
    CHECK(begins(complaint(good + "log: {output: stdrr}\n"), "t:4:15: "));
    CHECK(begins(complaint(good + "access_log: maybe\n"), "t:4:13: "));
    CHECK(begins(complaint(good + "[a]: b\n"), "t:4:1: a key must be plain text"));
    CHECK(begins(complaint(listener("{bind: \":1\", pool: db, tcp: {nodelay: maybe}}")), "t:2:43: "));
    CHECK(begins(complaint("listeners: 5\n"), "t:1:12: \"listeners\" must be a list"));
    CHECK(begins(complaint("listeners: [5]\n"), "t:1:13: a listener must be a map"));
    CHECK(complaint("hello\n") == "t:1:1: the file must be a map of keys, not a single value");
}

TEST_CASE("numbers out of range are refused with the range") {
    CHECK(begins(complaint("listeners: [{bind: \":1\", to: \"h:1\"}]\nworkers: 0\n"),
                 "t:2:10: \"workers\" is out of range: 0 (from 1 to 1024)"));
    for (const char* value : {"-1", "1025", "99999999999999999999999", "1.5", "many", "\"\"", "0x10"})
        CHECK_MESSAGE(
            begins(complaint("listeners: [{bind: \":1\", to: \"h:1\"}]\nworkers: " + std::string(value)),
                   "t:2:10: "),
            value);
    CHECK(begins(complaint(pool("backends: [\"h:1\"]\n    retries: 101")), "t:5:14: "));
    CHECK(begins(complaint(listener("{bind: \":1\", pool: db, tcp: {keepalive: {count: 0}}}")), "t:2:53: "));
    CHECK(begins(complaint(listener("{bind: \":1\", pool: db, tcp: {keepalive: {idle: 1500ms}}}")),
                 "t:2:52: "));
    CHECK(begins(complaint(listener("{bind: \":1\", pool: db, tcp: {receive_buffer: 2GiB}}")), "t:2:50: "));
    CHECK(begins(complaint(listener("{bind: \":1\", pool: db, tcp: {congestion: longer_than_sixteen}}")),
                 "t:2:46: "));
}

TEST_CASE("addresses are refused where they cannot be meant") {
    CHECK(begins(complaint(pool("backends: [\":80\"]")), "t:4:16: the backend address \":80\" has no host"));
    CHECK(begins(complaint(pool("backends: [\"h:0\"]")), "t:4:16: the backend address \"h:0\" has port 0"));
    CHECK(begins(complaint(pool("backends: [{address: \"h\"}]")), "t:4:26: "));
    CHECK(begins(complaint(listener("{bind: \"localhost:1\", pool: db}")), "t:2:12: cannot bind the name"));
    CHECK(begins(complaint(listener("{bind: [\":1\", \":x\"], pool: db}")), "t:2:19: "));
    CHECK(
        begins(complaint(listener("{bind: \"[::ffff:127.0.0.1]:1\", pool: db}")),
               "t:2:12: cannot bind \"[::ffff:127.0.0.1]:1\", which is an IPv4 address (write 127.0.0.1:1)"));
    CHECK(begins(complaint(good + "dns: {servers: [example.org]}\n"), "t:4:17: "));
    CHECK(begins(complaint(good + "dns: {ttl_min: 2s, ttl_max: 1s}\n"), "t:4:29: "));
}

TEST_CASE("duplicates are refused at the second one") {
    CHECK(complaint(good + "workers: 2\n") == "t:4:1: duplicate key \"workers\" (first in line 3)");
    CHECK(begins(
        complaint("listeners: [{bind: \":1\", pool: a}]\npools:\n  a: {backends: [\"h:1\"]}\n  a: {backends: "
                  "[\"h:2\"]}\n"),
        "t:4:3: duplicate key \"a\""));
    CHECK(begins(
        complaint("listeners:\n  - {name: a, bind: \":1\", to: \"h:1\"}\n  - {name: a, bind: \":2\", to: "
                  "\"h:1\"}\n"),
        "t:3:12: duplicate listener name \"a\" (first in line 2)"));
    CHECK(begins(complaint(pool("backends:\n    - h:1\n    - H:1")), "t:6:7: duplicate backend \"h:1\""));
    CHECK(begins(complaint(pool("backends: [{address: \"h:1\", name: x}, {address: \"h:2\", name: x}]")),
                 "t:4:43: duplicate backend name \"x\""));
    CHECK(begins(
        complaint("listeners:\n  - {bind: \":1\", to: \"h:1\"}\n  - {bind: [\":2\", \":1\"], to: \"h:1\"}\n"),
        "t:3:19: duplicate bind address \":1\" (first in line 2)"));
    // [::] takes IPv4 as well; a path has many spellings.
    CHECK(begins(
        complaint(
            "listeners:\n  - {bind: \"0.0.0.0:80\", to: \"h:1\"}\n  - {bind: \"[::]:80\", to: \"h:1\"}\n"),
        "t:3:12: the bind address \"[::]:80\" overlaps \"0.0.0.0:80\" in line 2"));
    CHECK(begins(complaint(listener("{bind: [\"unix:/run/a\", \"unix:/run//./a\"], pool: db}")),
                 "t:2:28: the bind address \"unix:/run//./a\" overlaps \"unix:/run/a\" in line 2"));
    CHECK(complaints(listener("{bind: [\":80\", \"127.0.0.1:80\", \"unix:@a\", \"unix:@./a\"], pool: db}"))
              .empty());
    CHECK(begins(complaint(good + "access_log: {events: [close, accept, close]}\n"),
                 "t:4:38: duplicate event"));
    CHECK(begins(
        complaint("listeners:\n  - {bind: \":80\", to: \"h:1\"}\n  - {bind: \"0.0.0.0:80\", to: \"h:1\"}\n"),
        "t:3:12: the bind address \"0.0.0.0:80\" overlaps \":80\" in line 2"));
}

TEST_CASE("what is missing is named") {
    CHECK(mentions(complaint("workers: 1\n"), "there is no listener"));
    CHECK(mentions(complaint("listeners: []\n"), "empty list"));
    CHECK(mentions(complaint(listener("{pool: db}")), "needs the key \"bind\""));
    CHECK(mentions(complaint(listener("{bind: [], pool: db}")), "empty list"));
    CHECK(begins(complaint(listener("{bind: \":1\"}")), "t:2:5: a listener needs the key \"pool\""));
    CHECK(begins(complaint(listener("{bind: \":1\", pool: db, to: \"h:1\"}")),
                 "t:2:32: a listener has either"));
    CHECK(complaint(listener("{bind: \":1\", pool: bd}")) ==
          "t:2:24: no pool has the name \"bd\" (did you mean \"db\"?)");
    CHECK(mentions(complaint(pool("backends: []")), "without a backend"));
    CHECK(mentions(complaint(pool("retries: 1")), "needs the key \"backends\""));
    CHECK(mentions(complaint(pool("backends: [{name: x}]")), "needs the key \"address\""));
    CHECK(complaint(pool("backends: [~]")) == "t:4:15: item 1 of \"backends\" is empty");
    // The empty item's own place would be that of the next one.
    CHECK(complaint(pool("backends:\n      - h:1\n      -\n\n      - h:2")) ==
          "t:5:7: item 2 of \"backends\" is empty");
}

TEST_CASE("all errors of a file are reported in one go, in the order of the file") {
    const auto messages = complaints(
        "wrkers: 2\n"
        "timeouts: {idle: 5}\n"
        "pools:\n"
        "  web: {backends: [\":80\"], retries: lots}\n"
        "listeners:\n"
        "  - {bind: \"x\", pool: wbe}\n"
        "  - {to: \"h:1\"}\n");
    REQUIRE(messages.size() == 7);
    const std::array<std::string_view, 7> places{
        "t:1:1: ", "t:2:18: ", "t:4:20: ", "t:4:37: ", "t:6:12: ", "t:6:23: ", "t:7:5: "};
    for (std::size_t at = 0; at < places.size(); ++at)
        CHECK_MESSAGE(begins(messages[at], places[at]), messages[at]);
}

TEST_CASE("YAML that is no YAML is refused with its place") {
    CHECK(begins(complaint("listeners: [\n"), "t:2:1: YAML syntax: "));
    CHECK(begins(complaint("a: b: c\n"), "t:1:5: YAML syntax: "));
    CHECK(begins(complaint("a: *b\n"), "t:1:"));
    CHECK(mentions(complaint("listeners:\n  - bind: [::1]:80\n"), "needs quotes"));
    CHECK(mentions(complaint("listeners:\n  - bind: *:80\n"), "every interface is :PORT"));
    CHECK(mentions(complaint("a:\n\tb: c\n"), "not with tabs"));
    CHECK(begins(complaint(good + "---\na: b\n"), "t:4:1: a second YAML document"));
    CHECK(begins(complaint("- a\nb: c\n"), "t:2:1: YAML syntax: this belongs to nothing"));
    // These made yaml-cpp collect empty documents until the memory was full.
    for (const char* text : {",", "a: b\n---\n,", "# only\n, a: b\n"})
        CHECK_MESSAGE(!complaints(text).empty(), text);
}

TEST_CASE("empty files say what they need") {
    for (const char* text : {"", "\n", "# only a comment\n", "---\n", "~\n"})
        CHECK_MESSAGE(mentions(complaint(text), "the file is empty"), text);
}

TEST_CASE("bytes that are no text are refused and crash nothing") {
    CHECK(begins(complaint(std::string_view("workers: 1\nab\0c\n", 16)), "t:2:3: not text"));
    for (const char* text :
         {"\xff\xfe", "a: \xc3", "a: \xc0\x80", "a: \xed\xa0\x80", "a: \xf4\x90\x80\x80", "\x1b[0m"})
        CHECK_MESSAGE(mentions(complaint(text), "not text"), text);
    CHECK(mentions(complaint(good + "a: \xc3\xa4 \xe2\x82\xac \xf0\x9f\x98\x80\n"), "unknown key"));
    CHECK(complaints("\xef\xbb\xbf" + good).empty());  // a byte order mark
}

TEST_CASE("very deep nesting and aliases that contain themselves end in an error") {
    const std::size_t deep = 100'000;
    std::string dashes;
    std::string maps;
    for (std::size_t at = 0; at < deep; ++at) {
        dashes += "- ";
        maps += "{a: ";
    }
    CHECK_FALSE(complaints(std::string(deep, '[')).empty());
    CHECK(mentions(complaint(std::string(deep, '[')), "nested too deeply"));
    CHECK_FALSE(complaints(dashes).empty());
    CHECK_FALSE(complaints(maps).empty());
    CHECK_FALSE(complaints("&a [*a, *a]").empty());
    CHECK_FALSE(complaints("listeners: &a [*a, {bind: *a, pool: *a}]\npools: &p {x: *p}\n").empty());
}

std::string example() {
    std::ifstream stream(source_dir() / "conf/sluice.yaml");
    std::stringstream content;
    content << stream.rdbuf();
    REQUIRE_FALSE(content.str().empty());
    return content.str();
}

// Loaded or refused, never more; and what is loaded means something that can be said.
void check_survives(const std::string& text) {
    const auto config = load_text(text, "t");
    if (!config) {
        CHECK_FALSE(config.error().empty());
        return;
    }
    const auto again = load_text(print(*config), "printed");
    REQUIRE_MESSAGE(again, (again ? std::string() : to_string(again.error().front()) + "\n" + text));
    CHECK_MESSAGE(*again == *config, text);
}

TEST_CASE("any file cut off or changed anywhere is loaded or refused, never more") {
    const std::string text = example();
    for (std::size_t at = 0; at < text.size(); at += 13) check_survives(text.substr(0, at));
    for (std::size_t at = 0; at < text.size(); at += 17) {
        std::string changed = text;
        changed[at] = "[]{}:,&*!|>'\"%@`-?#\t\xff"[at % 21];
        check_survives(changed);
    }
}

#ifndef SLUICE_CONFIG_MUTATIONS  // more by hand, with sanitizers
#define SLUICE_CONFIG_MUTATIONS 300
#endif

TEST_CASE("random changes of a file crash nothing, and what still loads can be printed and loaded") {
    auto random = test::generator("changes of a configuration");
    const auto below = [&](std::size_t bound) {
        return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random);
    };
    // What YAML and our own forms are sensitive to.
    const std::vector<std::string> words{
        "[",      "]",    "{",       "}",          ": ",     "- ",     "\n",
        "  ",     "&a ",  "*a",      "<<: ",       "!x ",    "|",      ">",
        "\"",     "'",    "#",       "%",          "---\n",  "~",      "null",
        "\t",     "\r\n", "\xc3",    "\xc3\xa4",   "\\x85",  "\\0",    "off",
        "-1",     "010",  "1e3",     "65536",      ":0",     "0",      "99999999999999999999",
        "36500d", "2GiB", "[::]:80", "0.0.0.0:80", "unix:@", "file:/", "\\e[0m"};
    const std::string text = example();
    for (int mutation = 0; mutation < SLUICE_CONFIG_MUTATIONS; ++mutation) {
        CAPTURE(mutation);
        std::string changed = text;
        for (std::size_t changes = 1 + below(4); changes > 0; --changes) {
            const std::size_t at = below(changed.size());
            const std::size_t length = std::min(below(40), changed.size() - at);
            switch (below(5)) {
                case 0: changed.erase(at, length); break;
                case 1: changed.insert(at, words[below(words.size())]); break;
                case 2: changed.replace(at, length, words[below(words.size())]); break;
                case 3: changed.insert(below(changed.size()), changed.substr(at, length)); break;
                default: changed[at] = static_cast<char>(below(256)); break;
            }
            if (changed.empty()) changed = text;
        }
        check_survives(changed);
    }
}

// Time is asked of the processor, so that a busy machine cannot fail it.
double seconds_spent(const std::string& text) {
    const std::clock_t begin = std::clock();
    const auto config = load_text(text, "t");
    const std::clock_t end = std::clock();
    CHECK((config || !config.error().empty()));
    return static_cast<double>(end - begin) / CLOCKS_PER_SEC;
}

std::string repeated(std::size_t count, const auto& part) {
    std::string text;
    for (std::size_t at = 0; at < count; ++at) text += part(at);
    return text;
}

// Each of these took from ten seconds to hours while something was compared with everything.
TEST_CASE("a large file takes time in proportion to its size") {
    constexpr std::size_t count = 10'000;
    const std::string zero =
        repeated(count, [](std::size_t) { return "  - {bind: \"127.0.0.1:0\", to: \"h:1\"}\n"; });
    CHECK(seconds_spent("listeners:\n" + zero) < 4.0);
    const std::string unknown = repeated(count, [](std::size_t at) {
        return "  - {bind: \":" + std::to_string(at + 1) + "\", pool: x" + std::to_string(at) + "}\n";
    });
    const std::string pools = repeated(
        count, [](std::size_t at) { return "  p" + std::to_string(at) + ": {backends: [\"h:1\"]}\n"; });
    CHECK(seconds_spent("listeners:\n" + unknown + "pools:\n" + pools) < 4.0);
}

TEST_CASE("aliases of aliases are refused before they fill the memory") {
    const std::string binds =
        repeated(3000, [](std::size_t at) { return ":" + std::to_string(at + 1) + ", "; });
    const std::string again = repeated(3000, [](std::size_t) { return "  - {bind: *all, to: \"h:1\"}\n"; });
    const auto messages =
        complaints("listeners:\n  - {bind: &all [" + binds + "\":4000\"], to: \"h:1\"}\n" + again);
    REQUIRE_FALSE(messages.empty());
    CHECK(mentions(messages.front(), "the file's aliases repeat too much of it"));
}

TEST_CASE("a file that cannot be read is refused with the reason") {
    const TemporaryFolder folder;
    const auto reason = [](const std::filesystem::path& path) {
        const auto config = load_file(path.string());
        REQUIRE_FALSE(config);
        REQUIRE(config.error().size() == 1);
        return to_string(config.error().front());
    };
    CHECK(reason(folder.path() / "none") ==
          (folder.path() / "none").string() + ": cannot read the file: No such file or directory");
    CHECK(mentions(reason(folder.path()), "Is a directory"));

    const std::filesystem::path empty = folder.path() / "empty";
    std::ofstream(empty).close();
    CHECK(mentions(reason(empty), "the file is empty"));
    CHECK(mentions(reason("/dev/zero"), "larger than"));

    const std::filesystem::path pipe = folder.path() / "pipe";
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    CHECK(mentions(reason(pipe), "nobody writes"));

    if (geteuid() != 0) {  // root may read everything
        std::filesystem::permissions(empty, std::filesystem::perms::none);
        CHECK(mentions(reason(empty), "Permission denied"));
    }
}

TEST_CASE("a pipe is read until its end, whoever comes first") {
    const TemporaryFolder folder;
    const std::filesystem::path pipe = folder.path() / "pipe";
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    int held = open(pipe.c_str(), O_RDWR | O_CLOEXEC);  // a writer that is there before the reader
    REQUIRE(held >= 0);
    std::thread writer([&] {
        REQUIRE(write(held, good.data(), good.size()) == static_cast<ssize_t>(good.size()));
        REQUIRE(close(held) == 0);
    });
    const auto config = load_file(pipe.string());
    writer.join();
    CHECK(config);
}

TEST_CASE("a key that would have no effect is refused or warned of") {
    CHECK(complaint(pool("backends: [\"h:1\"]\n    tcp: {fastopen: on}")) ==
          "t:5:10: \"fastopen\" for backends is not supported by this build yet");
    const Config shared = loaded(
        "listeners: [{bind: \":1\", pool: p, tcp: &tcp {backlog: 9}}]\npools:\n  p: {backends: [\"h:1\"], "
        "tcp: "
        "*tcp}\n");
    const auto found = warnings(shared, "t");
    REQUIRE(found.size() == 1);
    CHECK(to_string(found[0]) ==
          "t:3:3: \"backlog\" has no effect in the pool \"p\": a pool does not listen");
    CHECK(warnings(loaded("listeners: [{bind: \":1\", to: \"h:1\", tcp: {backlog: 9, fastopen: on}}]"), "t")
              .empty());
}

TEST_CASE("what YAML readers understand differently is refused") {
    for (const char* value :
         {"workers: 010", "sessions_max: 0755", "timeouts: {idle: 010s}", "drain_timeout: 00"})
        CHECK_MESSAGE(mentions(complaint("listeners: [{bind: \":1\", to: \"h:1\"}]\n" + std::string(value)),
                               "begins with a zero"),
                      value);
    CHECK(mentions(complaint(listener("{bind: \":1\", pool: db, tcp: {send_buffer: 010}}")),
                   "begins with a zero"));
    CHECK(complaint(listener("{name: !env NAME, bind: \":1\", pool: db}")) ==
          "t:2:12: \"name\" has the YAML tag \"!env\", which means nothing here");
    CHECK(mentions(complaint(good + "log: !x {level: info}\n"), "YAML tag"));
    CHECK(begins(complaint(good + "log: &l {level: info}\naccess_log: {<<: *l}\n"),
                 "t:5:14: merge keys (<<) are not supported"));
}

TEST_CASE("bounds of the name resolution are those of its clocks") {
    CHECK(begins(complaint(good + "dns: {timeout: 36500d}\n"), "t:4:16: \"timeout\" is too long"));
    CHECK(begins(complaint(good + "dns: {ttl_max: 25d}\n"), "t:4:16: \"ttl_max\" is too long"));
    CHECK(begins(complaint(good + "dns: {servers: [10.0.0.53, \"10.0.0.53:53\"]}\n"),
                 "t:4:28: duplicate name server"));
    // What could not be read is not also compared.
    CHECK(begins(complaint(good + "dns: {ttl_min: 10m, ttl_max: x}\n"), "t:4:30: \"ttl_max\": \"x\" is not"));
}

TEST_CASE("control characters reach neither names nor messages") {
    CHECK(complaint(good + "\"\\e[31mred\\nline\": 1\n") == "t:4:1: unknown key \"\\x1b[31mred\\nline\"");
    for (const char* name : {"a\\0b", "a\\x85b", "a\\u2028b", "a\\tb", "a b"})
        CHECK_MESSAGE(
            begins(complaint(listener("{name: \"" + std::string(name) + "\", bind: \":1\", pool: db}")),
                   "t:2:12: \"name\" contains blanks or control characters"),
            name);
    const std::string message = complaint(good + "drain_timeout: " + std::string(100'000, 'x') + "\n");
    CHECK(message == "t:4:16: \"drain_timeout\" is 100000 bytes long");
}

TEST_CASE("columns count characters, as editors do") {
    CHECK(begins(complaints(good + "log: {\"\xc3\xa4\xe2\x82\xac\": 1, level: x}\n").at(1),
                 "t:4:23: unknown value \"x\""));
    CHECK(complaints("\xef\xbb\xbfwrkers: 1\n").at(0).starts_with("t:1:1: "));
    CHECK(
        begins(complaint("listeners:\r\n  - {bind: \":1\", to: \"h:1\", x: 1}\r\n"), "t:2:29: unknown key"));
    CHECK(begins(complaint("workers: 1\rengine: auto\r"), "t:1:11: not text"));
}

TEST_CASE("a file with more errors than anybody reads says that it has more") {
    const auto messages =
        complaints(repeated(2000, [](std::size_t at) { return "k" + std::to_string(at) + ": 1\n"; }));
    CHECK(messages.size() == 1001);
    CHECK(messages.back() == "t: there are too many errors: the rest was not looked at");
}

TEST_CASE("a pool that no listener uses is a warning") {
    const Config config = loaded(
        "listeners: [{bind: \":1\", pool: a}]\npools:\n  a: {backends: [\"h:1\"]}\n  b: {backends: "
        "[\"h:1\"]}\n");
    const auto found = warnings(config, "t");
    REQUIRE(found.size() == 1);
    CHECK(to_string(found[0]) == "t:4:3: no listener uses the pool \"b\"");
}

TEST_CASE("a forward of addresses is a configuration with every default") {
    const std::vector<std::string> targets{"db1:5432", "[::1]:5432", "unix:@db"};
    const auto config = forward(":5432", targets);
    REQUIRE(config);
    CHECK(config->pools.at(0).backends.size() == 3);
    CHECK(config->listeners.at(0).pool == "forward");
    CHECK(load_text(print(*config), "t").value() == *config);

    const auto refused = [](std::string_view listen, std::vector<std::string> to) {
        const auto result = forward(listen, to);
        REQUIRE_FALSE(result);
        return result.error();
    };
    CHECK(mentions(refused("x", {"h:1"}), "cannot listen on \"x\""));
    CHECK(mentions(refused("localhost:1", {"h:1"}), "cannot bind the name"));
    CHECK(mentions(refused(":1", {"h:1", "h"}), "cannot forward to \"h\""));
    CHECK(mentions(refused(":1", {":1"}), "no host"));
    CHECK(mentions(refused(":1", {"h:0"}), "port 0"));
    CHECK(mentions(refused(":1", {"h:1", "h:1"}), "given twice"));
    CHECK(mentions(refused(":1", {}), "no target"));
}

}  // namespace
}  // namespace sluice::config

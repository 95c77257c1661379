#include "sluice/config/print.hpp"

#include "sluice/config/fields.hpp"
#include "sluice/config/load.hpp"

#include <doctest/doctest.h>

#ifndef SLUICE_SOURCE_DIR
#define SLUICE_SOURCE_DIR "."
#endif

namespace sluice::config {
namespace {

Config loaded(std::string_view text) {
    auto config = load_text(text, "t");
    REQUIRE_MESSAGE(config, (config ? std::string() : to_string(config.error().front())));
    return std::move(*config);
}

void check_round_trip(const Config& config) {
    const std::string text = print(config);
    const auto again = load_text(text, "printed");
    REQUIRE_MESSAGE(again, (again ? std::string() : to_string(again.error().front()) + "\n" + text));
    CHECK_MESSAGE(*again == config, text);
    CHECK(print(*again) == text);
}

TEST_CASE("the printed configuration loads to an equal one") {
    for (const char* name : {"/conf/sluice.yaml", "/conf/sluice.minimal.yaml"}) {
        const auto config = load_file(std::string(SLUICE_SOURCE_DIR) + name);
        REQUIRE(config);
        check_round_trip(*config);
    }
}

TEST_CASE("nothing that differs from the defaults is lost in printing") {
    check_round_trip(loaded(R"(
workers: 3
engine: io_uring
sessions_max: 5000
log: {level: error, format: json, output: "file:/var/log/a b \"c\" \\ d.log"}
access_log: {enabled: off, format: json, output: stdout, events: [accept, connect]}
drain_timeout: 1500ms
timeouts: {connect: 0, idle: 2m, half_closed: 3s, max_age: 1d}
listeners:
  - {name: "yes", bind: ["127.0.0.1:80", "[::1]:81", "unix:@web"], pool: "null", sessions_max: 7,
     timeouts: {max_age: 90s}, tcp: {nodelay: off, keepalive: {idle: 0, interval: 1s, count: 2}, user_timeout: 30s,
     fastopen: on, backlog: 9, receive_buffer: 1500, send_buffer: 1MiB, congestion: bbr}}
  - {bind: "unix:/run/in.sock", to: "unix:@\"quoted\\", tcp: {send_buffer: 1KiB}}
  - {bind: "127.0.0.1:0", to: "[::1]:9"}
  - {bind: "127.0.0.1:0", pool: "1.5"}
pools:
  "null": {retries: 0, backends: [{address: "db:1", name: "~"}, "unix:/run/two.sock"], tcp: {nodelay: false}}
  "1.5": {backends: ["h:1"]}
dns: {servers: [10.0.0.53, "::1", "[::1]:5353"], ttl_min: 2s, ttl_max: 2s, timeout: 100ms}
)"));
}

TEST_CASE("silence about sessions survives printing") {
    const std::string base = "listeners: [{bind: \":1\", to: \"h:1\"}]\n";
    check_round_trip(loaded(base + "access_log: off\n"));
    check_round_trip(loaded(base + "access_log: {events: []}\n"));
}

TEST_CASE("a listener with a single target is printed with it and without a pool") {
    const std::string text = print(loaded("listeners: [{bind: \":1\", to: \"h:1\"}]\n"));
    CHECK(text.find("    to: \"h:1\"\n") != std::string::npos);
    CHECK(text.find("pool") == std::string::npos);
}

TEST_CASE("every key of every table is printed") {
    const std::string text =
        print(loaded("listeners: [{bind: \":1\", pool: p}, {bind: \":2\", to: \"h:1\"}]\npools: {p: "
                     "{backends: [\"h:1\"]}}\n"));
    const auto printed = [&](const auto& keys) {
        for (const std::string_view key : keys)
            CHECK_MESSAGE(text.find(std::string(key) + ":") != std::string::npos, std::string(key));
    };
    printed(keys_of<ConfigDraft>());
    printed(keys_of<ListenerDraft>());
    printed(keys_of<Pool>());
    printed(keys_of<Backend>());
    printed(keys_of<Timeouts>());
    printed(keys_of<Tcp>());
    printed(keys_of<Keepalive>());
    printed(keys_of<Log>());
    printed(keys_of<AccessLog>());
    printed(keys_of<Dns>());
}

}  // namespace
}  // namespace sluice::config

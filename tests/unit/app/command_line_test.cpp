#include "sluice/app/command_line.hpp"

#include <doctest/doctest.h>

namespace sluice {
namespace {

Answer answer_to(const std::vector<std::string>& arguments) {
    const auto parsed = parse_command_line(arguments);
    REQUIRE(std::holds_alternative<Answer>(parsed));
    return std::get<Answer>(parsed);
}

template <class Options>
Options options_of(const std::vector<std::string>& arguments) {
    auto parsed = parse_command_line(arguments);
    REQUIRE(std::holds_alternative<Command>(parsed));
    return std::get<Options>(std::get<Command>(std::move(parsed)));
}

TEST_CASE("help and version are answers with code 0") {
    CHECK(answer_to({"--version"}).text == "sluice " SLUICE_VERSION "\n");
    CHECK(answer_to({"--version"}).exit_code == 0);
    CHECK(answer_to({"--help"}).exit_code == 0);
    CHECK(answer_to({"--help"}).text.find("forward") != std::string::npos);
    CHECK(answer_to({"forward", "--help"}).text.find("--idle-timeout") != std::string::npos);
}

TEST_CASE("run takes a file and what overrides it") {
    const auto options =
        options_of<RunOptions>({"run", "-c", "a.yaml", "--engine", "epoll", "--workers", "3",
                                "--log-level=debug", "--log-format", "json", "--access-log", "off"});
    CHECK(options.file == "a.yaml");
    CHECK(options.overrides.engine == config::Engine::epoll);
    CHECK(options.overrides.workers == 3);
    CHECK(options.overrides.log_level == config::Level::debug);
    CHECK(options.overrides.log_format == config::Format::json);
    CHECK(options.overrides.access_log == false);
    CHECK(options_of<RunOptions>({"run", "-c", "a.yaml", "--workers", "auto"}).overrides.workers == 0);
}

TEST_CASE("forward takes one listening address and any number of targets") {
    const auto options = options_of<ForwardOptions>({"forward", ":1", "a:1", "b:1", "--idle-timeout", "5m"});
    CHECK(options.listen == ":1");
    CHECK(options.targets == std::vector<std::string>{"a:1", "b:1"});
    CHECK(options.overrides.idle_timeout == std::chrono::minutes(5));
}

TEST_CASE("bad usage has code 2, names what was found and what was probably meant") {
    const auto refused = [](const std::vector<std::string>& arguments, std::string_view words) {
        const Answer answer = answer_to(arguments);
        CHECK(answer.exit_code == 2);
        CHECK_MESSAGE(answer.text.find(words) != std::string::npos, answer.text);
    };
    refused({}, "no command");
    refused({"-c", "x"}, "no command");
    refused({"forwrd"}, "unknown command \"forwrd\" (did you mean \"forward\"?)");
    refused({"run"}, "--config");
    refused({"run", "-c", "x", "--engin", "epoll"}, "(did you mean \"--engine\"?)");
    refused({"forward", ":1"}, "TARGET");
    refused({"forward", ":1", "a:1", "--engine", "epol"}, "(did you mean \"epoll\"?)");
    refused({"forward", ":1", "a:1", "--workers", "0"}, "from 1 to 1024");
    refused({"forward", ":1", "a:1", "--idle-timeout", "5"}, "has no unit");
    refused({"demo", "--seconds", "0"}, "from 1 to 3600");
    refused({"demo", "doctor"}, "doctor");
}

TEST_CASE("overrides reach the listeners, which inherited before") {
    config::Config config;
    config.listeners.emplace_back();
    Overrides overrides;
    overrides.idle_timeout = std::chrono::seconds(7);
    overrides.access_log = false;
    apply(overrides, config);
    CHECK(config.timeouts.idle == std::chrono::seconds(7));
    CHECK(config.listeners.front().timeouts.idle == std::chrono::seconds(7));
    CHECK(config.listeners.front().timeouts.connect == config::Timeouts{}.connect);
    CHECK_FALSE(config.access_log.enabled);
}

}  // namespace
}  // namespace sluice

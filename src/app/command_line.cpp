#include "sluice/app/command_line.hpp"

#include "sluice/app/exit_code.hpp"
#include "sluice/base/suggest.hpp"
#include "sluice/base/units.hpp"
#include "sluice/config/fields.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>

namespace sluice {

namespace {

constexpr std::array<std::string_view, 5> command_names = {"run", "forward", "check", "demo", "doctor"};

[[noreturn]] void refuse(const std::string& option, const std::string& why) {
    throw CLI::ValidationError(option, why);  // caught where CLI11 is called
}

// An option whose words are those of the configuration.
// REQUIRES: option is a literal (here and below). Two pointers fit into a std::function; a string would be
// put on the heap, which clang-tidy, tracking it through CLI11, takes for a leak.
template <class Enum>
void add_choice(CLI::App& app, const char* option, std::optional<Enum>& value, const std::string& help) {
    static constexpr auto names = config::names_of<Enum>();
    app.add_option_function<std::string>(
           option,
           [option, &value](const std::string& word) {
               for (const auto& choice : config::Choices<Enum>::names)
                   if (choice.name == word) value = choice.value;
               if (!value)
                   refuse(option, fmt::format("\"{}\" is none of {}{}", word, fmt::join(names, ", "),
                                              did_you_mean(word, names)));
           },
           help)
        ->type_name(fmt::format("{}", fmt::join(names, "|")));
}

void add_duration(CLI::App& app, const char* option, std::optional<Milliseconds>& value,
                  const std::string& help) {
    app.add_option_function<std::string>(
           option,
           [option, &value](const std::string& text) {
               const auto duration = parse_duration(text);
               if (!duration) refuse(option, duration.error());
               value = *duration;
           },
           help)
        ->type_name("DURATION");
}

std::uint32_t parse_count(const std::string& option, const std::string& text, std::uint32_t max) {
    std::uint32_t count = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc{} || end != text.data() + text.size() || count < 1 || count > max)
        refuse(option, fmt::format("\"{}\" is not a whole number from 1 to {}", text, max));
    return count;
}

void add_workers(CLI::App& app, std::optional<std::uint32_t>& value) {
    app.add_option_function<std::string>(
           "--workers",
           [&value](const std::string& text) {
               value = text == "auto" ? 0 : parse_count("--workers", text, config::workers_max);
           },
           "Worker threads")
        ->type_name("auto|NUMBER");
}

void add_access_log(CLI::App& app, Overrides& overrides) {
    static constexpr std::array<std::string_view, 3> words = {"off", "text", "json"};
    app.add_option_function<std::string>(
           "--access-log",
           [&overrides](const std::string& word) {
               if (std::ranges::find(words, word) == words.end())
                   refuse("--access-log", fmt::format("\"{}\" is none of {}{}", word, fmt::join(words, ", "),
                                                      did_you_mean(word, words)));
               overrides.access_log = word != "off";
               if (word == "text") overrides.access_log_format = config::Format::text;
               if (word == "json") overrides.access_log_format = config::Format::json;
           },
           "A line for each session")
        ->type_name("off|text|json");
}

void add_overrides(CLI::App& app, Overrides& overrides) {
    add_choice(app, "--engine", overrides.engine, "How the kernel is asked");
    add_workers(app, overrides.workers);
    add_choice(app, "--log-level", overrides.log_level, "The least important lines still written");
    add_choice(app, "--log-format", overrides.log_format, "How log lines are written");
    add_access_log(app, overrides);
    add_duration(app, "--drain-timeout", overrides.drain_timeout, "How long sessions may go on after TERM");
}

// The options of every command, and which command was given.
struct Parsed {
    RunOptions run;
    ForwardOptions forward;
    CheckOptions check;
    DemoOptions demo;
    std::optional<config::Engine> demo_engine;
    DoctorOptions doctor;
};

void describe_run(CLI::App& app, Parsed& parsed) {
    CLI::App& command = *app.add_subcommand("run", "Relay as a file says, until TERM or INT");
    command.add_option("-c,--config", parsed.run.file, "The configuration")->required()->type_name("FILE");
    add_overrides(command, parsed.run.overrides);
}

void describe_forward(CLI::App& app, Parsed& parsed) {
    CLI::App& command = *app.add_subcommand("forward", "Relay without a file: from one address to others");
    command
        .add_option("LISTEN", parsed.forward.listen, "Where clients come, such as :5432 or unix:/run/db.sock")
        ->required()
        ->type_name("");
    command.add_option("TARGET", parsed.forward.targets, "Where they are sent, such as db1:5432 db2:5432")
        ->required()
        ->type_name("");
    Overrides& overrides = parsed.forward.overrides;
    add_overrides(command, overrides);
    add_duration(command, "--connect-timeout", overrides.connect_timeout, "How long one dial may take");
    add_duration(command, "--idle-timeout", overrides.idle_timeout, "Ends a session in which no byte moves");
    add_duration(command, "--half-closed-timeout", overrides.half_closed_timeout,
                 "The same once one direction has finished");
}

void describe_check(CLI::App& app, Parsed& parsed) {
    CLI::App& command =
        *app.add_subcommand("check", "Validate a configuration: all errors, with line and column");
    command.add_option("-c,--config", parsed.check.file, "The configuration")->required()->type_name("FILE");
    command.add_flag("--print", parsed.check.print, "Print the effective configuration, with every default");
    command.add_flag("--json", parsed.check.json, "For programs");
}

void describe_demo(CLI::App& app, Parsed& parsed) {
    CLI::App& command =
        *app.add_subcommand("demo", "Relay real traffic on loopback for a few seconds, and tell");
    command
        .add_option_function<std::string>(
            "--seconds",
            [&parsed](const std::string& text) {
                parsed.demo.seconds = parse_count("--seconds", text, 3600);
            },
            "How long (5)")
        ->type_name("NUMBER");
    add_choice(command, "--engine", parsed.demo_engine, "How the kernel is asked");
    command.add_flag("--json", parsed.demo.json, "For programs");
}

void describe_doctor(CLI::App& app, Parsed& parsed) {
    CLI::App& command =
        *app.add_subcommand("doctor", "What this machine grants, and what to do about the rest");
    command.add_flag("--json", parsed.doctor.json, "For programs");
}

void describe(CLI::App& app, Parsed& parsed) {
    app.name("sluice");
    app.set_version_flag("--version", "sluice " SLUICE_VERSION);
    app.require_subcommand(1);
    app.footer("Exit codes: 0 success, 1 failed at run time, 2 bad usage or configuration.");
    describe_run(app, parsed);
    describe_forward(app, parsed);
    describe_check(app, parsed);
    describe_demo(app, parsed);
    describe_doctor(app, parsed);
}

Answer bad_usage(std::string_view what, std::string_view command) {
    return {exit_usage, fmt::format("sluice: {}\nsluice: for help: sluice {}{}--help\n", what, command,
                                    command.empty() ? "" : " ")};
}

// The given command's name; empty if there is none.
std::string command_in(const CLI::App& app) {
    const auto given = app.get_subcommands();
    return given.empty() ? "" : given.front()->get_name();
}

// ` (did you mean "--engine"?)` for the first argument that no option of the command takes.
std::string suggest_option(const CLI::App& app, const std::vector<std::string>& arguments) {
    const auto given = app.get_subcommands();
    const CLI::App& command = given.empty() ? app : *given.front();
    std::vector<std::string> names;
    for (const CLI::Option* option : command.get_options())
        for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    const std::vector<std::string_view> views(names.begin(), names.end());
    for (const std::string& argument : arguments) {
        const std::string word = argument.substr(0, argument.find('='));
        if (word.starts_with("--") && std::ranges::find(names, word) == names.end())
            return did_you_mean(word, views);
    }
    return "";
}

Command chosen(const CLI::App& app, Parsed& parsed) {
    if (app.got_subcommand("run")) return std::move(parsed.run);
    if (app.got_subcommand("forward")) return std::move(parsed.forward);
    if (app.got_subcommand("check")) return std::move(parsed.check);
    if (app.got_subcommand("demo")) {
        parsed.demo.engine = parsed.demo_engine.value_or(config::Engine::automatic);
        return parsed.demo;
    }
    return parsed.doctor;
}

}  // namespace

std::variant<Command, Answer> parse_command_line(const std::vector<std::string>& arguments) {
    // CLI11 would only say that an argument was not expected.
    if (!arguments.empty() && !arguments.front().starts_with('-') &&
        std::ranges::find(command_names, arguments.front()) == command_names.end())
        return bad_usage(
            fmt::format("unknown command \"{}\"{}; the commands are {}", arguments.front(),
                        did_you_mean(arguments.front(), command_names), fmt::join(command_names, ", ")),
            "");
    Parsed parsed;
    CLI::App app("sluice: a relay for TCP and unix sockets that moves bytes through the kernel");
    describe(app, parsed);
    try {
        app.parse(
            std::vector<std::string>(arguments.rbegin(), arguments.rend()));  // CLI11 takes them reversed
        return chosen(app, parsed);
    } catch (const CLI::CallForHelp&) {
        const auto given = app.get_subcommands();
        return Answer{exit_success, given.empty() ? app.help() : given.front()->help()};
    } catch (const CLI::CallForVersion& version) {
        return Answer{exit_success, std::string(version.what()) + "\n"};
    } catch (const CLI::ExtrasError& error) {
        return bad_usage(error.what() + suggest_option(app, arguments), command_in(app));
    } catch (const CLI::ParseError& error) {
        const std::string command = command_in(app);
        return bad_usage(command.empty()
                             ? fmt::format("no command; the commands are {}", fmt::join(command_names, ", "))
                             : error.what(),
                         command);
    }
}

}  // namespace sluice

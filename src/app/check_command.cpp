#include "sluice/app/check_command.hpp"

#include "sluice/app/complain.hpp"
#include "sluice/app/exit_code.hpp"
#include "sluice/config/load.hpp"
#include "sluice/config/print.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <vector>

namespace sluice {

namespace {

using Json = nlohmann::ordered_json;
using Diagnostics = std::vector<config::Diagnostic>;

Json to_json(const Diagnostics& diagnostics) {
    Json list = Json::array();
    for (const config::Diagnostic& each : diagnostics)
        list.push_back({{"file", each.file},
                        {"line", each.place.line},
                        {"column", each.place.column},
                        {"message", each.message}});
    return list;
}

Json scalar_to_json(const YAML::Node& node) {
    const std::string& text = node.Scalar();
    if (node.Tag() == "!") return text;  // was quoted
    if (text == "true") return true;
    if (text == "false") return false;
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc{} && end == text.data() + text.size()) return number;
    return text;
}

Json node_to_json(const YAML::Node& node) {
    switch (node.Type()) {
        case YAML::NodeType::Undefined:
        case YAML::NodeType::Null: return nullptr;
        case YAML::NodeType::Scalar: return scalar_to_json(node);
        case YAML::NodeType::Sequence: {
            Json list = Json::array();
            for (const YAML::Node& item : node) list.push_back(node_to_json(item));
            return list;
        }
        case YAML::NodeType::Map: {
            Json object = Json::object();
            for (const auto& item : node) object[item.first.Scalar()] = node_to_json(item.second);
            return object;
        }
    }
    return nullptr;
}

void write_json(const Json& object) {
    fmt::print("{}\n", object.dump(2, ' ', false, Json::error_handler_t::replace));
}

int say_invalid(const CheckOptions& options, const Diagnostics& errors) {
    if (options.json)
        write_json({{"file", options.file}, {"valid", false}, {"errors", to_json(errors)}});
    else
        for (const config::Diagnostic& error : errors) complain_bare(to_string(error));
    return exit_usage;
}

std::string counted(std::size_t count, const char* noun) {
    return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace

Json yaml_to_json(std::string_view text) {
    return node_to_json(YAML::Load(std::string(text)));
}

int check_command(const CheckOptions& options) {
    const auto config = config::load_file(options.file);
    if (!config) return say_invalid(options, config.error());
    const Diagnostics warnings = config::warnings(*config, options.file);
    if (options.json) {
        Json answer = {{"file", options.file},
                       {"valid", true},
                       {"errors", Json::array()},
                       {"warnings", to_json(warnings)}};
        if (options.print) answer["config"] = yaml_to_json(config::print(*config));
        write_json(answer);
        return exit_success;
    }
    for (const config::Diagnostic& warning : warnings) complain_bare("warning: " + to_string(warning));
    if (options.print)
        fmt::print("{}", config::print(*config));
    else
        fmt::print("{}: valid ({}, {})\n", options.file, counted(config->listeners.size(), "listener"),
                   counted(config->pools.size(), "pool"));
    return exit_success;
}

}  // namespace sluice

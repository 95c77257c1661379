#pragma once

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <string_view>

namespace sluice {

struct CheckOptions {
    std::string file;
    bool print = false;  // the effective configuration
    bool json = false;
};

// `sluice check`: everything that is wrong with a file (on stderr; with --json on stdout). The exit code.
int check_command(const CheckOptions& options);

// YAML text as JSON. Quoted scalars are strings; plain ones are flags and whole numbers where they read so.
// REQUIRES: text is YAML that config::print() wrote
nlohmann::ordered_json yaml_to_json(std::string_view text);

}  // namespace sluice

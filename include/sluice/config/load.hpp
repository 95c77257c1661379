#pragma once

#include "sluice/config/config.hpp"
#include "sluice/config/diagnostic.hpp"

#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::config {

// Reads a YAML file, or text with `name` in the place of a file's path. Success is a configuration in which
// everything holds that config.hpp promises; failure is everything that is wrong with the file, never an
// empty list, in the order of the lines and columns at fault. Nothing throws, whatever the bytes are.
[[nodiscard]] std::expected<Config, std::vector<Diagnostic>> load_file(const std::string& path);
[[nodiscard]] std::expected<Config, std::vector<Diagnostic>> load_text(std::string_view text,
                                                                       std::string_view name);

// What is allowed but probably not meant, such as a pool that no listener uses. `file` names the file again.
[[nodiscard]] std::vector<Diagnostic> warnings(const Config& config, std::string_view file);

// The configuration of `sluice forward LISTEN TARGET...`: one listener, one pool named `forward`, every
// default. The error is a whole sentence that names the argument at fault.
[[nodiscard]] std::expected<Config, std::string> forward(std::string_view listen,
                                                         std::span<const std::string> targets);

}  // namespace sluice::config

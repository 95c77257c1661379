#include "sluice/config/load.hpp"

#include "sluice/config/addresses.hpp"
#include "sluice/config/assemble.hpp"
#include "sluice/config/document.hpp"
#include "sluice/config/kinds.hpp"
#include "sluice/config/reader.hpp"
#include "sluice/config/source.hpp"

#include <fmt/format.h>

#include <exception>
#include <set>
#include <utility>

namespace sluice::config {
namespace {

using Loaded = std::expected<Config, std::vector<Diagnostic>>;

Loaded load(const std::expected<Source, Diagnostic>& source) {
    if (!source) return std::unexpected(std::vector<Diagnostic>{source.error()});
    Complaints complaints(source->name());
    Config config;
    try {
        Document document(*source, complaints);
        if (const auto file = document.parse()) {
            ConfigDraft draft;
            read(document, *file, draft);
            config = assemble(std::move(draft), complaints);
        }
    } catch (const std::exception& error) {
        complaints.add({}, fmt::format("cannot be read: {}", error.what()));
    }
    if (!complaints.empty()) return std::unexpected(complaints.take());
    return config;
}

}  // namespace

Loaded load_text(std::string_view text, std::string_view name) {
    return load(Source::of(text, name));
}

Loaded load_file(const std::string& path) {
    return load(Source::read(path));
}

std::vector<Diagnostic> warnings(const Config& config, std::string_view file) {
    std::set<std::string_view> used;
    for (const Listener& listener : config.listeners) used.insert(listener.pool);
    std::vector<Diagnostic> found;
    const auto warn = [&](Place place, std::string message) {
        found.push_back({.file = std::string(file), .place = place, .message = std::move(message)});
    };
    for (const Listener& listener : config.listeners)
        if (listener.udp.responses > 0 && listener.udp.requests == 0)
            warn(listener.place,
                 fmt::format("\"responses\" has no effect in the listener {} without \"requests\"",
                             in_quotes(listener.name)));
    for (const Pool& pool : config.pools) {
        if (!used.contains(pool.name))
            warn(pool.place, fmt::format("no listener uses the pool {}", in_quotes(pool.name)));
        // Taken, because a pool's tcp may be an alias of a listener's.
        if (!pool.from_listener && pool.tcp.backlog != Tcp{}.backlog)
            warn(pool.place, fmt::format("\"backlog\" has no effect in the pool {}: a pool does not listen",
                                         in_quotes(pool.name)));
    }
    return found;
}

std::expected<Config, std::string> forward(std::string_view listen, std::span<const std::string> targets) {
    const auto bind = parse_bind(listen);
    if (!bind)
        return std::unexpected(fmt::format("cannot listen on {}: {}", in_quotes(listen), bind.error()));
    if (targets.empty()) return std::unexpected(std::string("there is no target to forward to"));

    Pool pool;
    pool.name = "forward";
    std::set<std::string> names;
    for (const std::string& target : targets) {
        const auto address = parse_target(target);
        if (!address)
            return std::unexpected(
                fmt::format("cannot forward to {}: {}", in_quotes(target), address.error()));
        const std::string name = to_string(*address);
        if (!names.insert(name).second)
            return std::unexpected(fmt::format("the target {} is given twice", in_quotes(target)));
        if (const auto fault = fault_towards(*bind, *address))
            return std::unexpected(fmt::format("cannot forward: {}", *fault));
        pool.backends.push_back({.name = name, .address = *address, .place = {}});
    }

    Config config;
    Listener listener;
    listener.name = to_string(*bind);
    listener.bind = {*bind};
    listener.pool = pool.name;
    config.listeners.push_back(std::move(listener));
    config.pools.push_back(std::move(pool));
    return config;
}

}  // namespace sluice::config

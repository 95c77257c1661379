#include "sluice/config/load.hpp"

#include "sluice/base/suggest.hpp"
#include "sluice/config/reader.hpp"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/yaml.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <set>
#include <system_error>
#include <utility>

namespace sluice::config {
namespace {

// Room for a hundred thousand backends; what is larger was not meant to be a configuration.
constexpr std::size_t file_bytes_max = std::size_t{16} << 20;

using Diagnostics = std::vector<Diagnostic>;

Diagnostics one(std::string_view file, Place place, std::string message) {
    return {Diagnostic{.file = std::string(file), .place = place, .message = std::move(message)}};
}

// The length of the character at the front, 0 when it is no UTF-8 or a control character that YAML forbids.
std::size_t character_bytes(std::string_view text) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const auto follows = [&](std::size_t at, unsigned low, unsigned high) {
        return at < text.size() && byte(at) >= low && byte(at) <= high;
    };
    const unsigned lead = byte(0);
    if (lead < 0x80)
        return (lead < 0x20 && lead != '\t' && lead != '\n' && lead != '\r') || lead == 0x7f ? 0 : 1;
    // The bounds of the second byte leave out what has a shorter form, surrogates, and what lies past
    // U+10FFFF (Unicode standard, table 3-7).
    if (lead >= 0xc2 && lead <= 0xdf) return follows(1, 0x80, 0xbf) ? 2 : 0;
    if (lead >= 0xe0 && lead <= 0xef) {
        const bool second = follows(1, lead == 0xe0 ? 0xa0 : 0x80, lead == 0xed ? 0x9f : 0xbf);
        return second && follows(2, 0x80, 0xbf) ? 3 : 0;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        const bool second = follows(1, lead == 0xf0 ? 0x90 : 0x80, lead == 0xf4 ? 0x8f : 0xbf);
        return second && follows(2, 0x80, 0xbf) && follows(3, 0x80, 0xbf) ? 4 : 0;
    }
    return 0;
}

// The place of the first character that cannot stand in a configuration, line 0 = all are good.
Place find_garbage(std::string_view text) {
    Place place{1, 1};
    while (!text.empty()) {
        const std::size_t bytes = character_bytes(text);
        if (bytes == 0) return place;
        if (text.front() == '\n')
            place = {place.line + 1, 1};
        else
            ++place.column;
        text.remove_prefix(bytes);
    }
    return {};
}

std::string_view line_of(std::string_view text, int line) {
    for (int at = 1; at < line; ++at) {
        const std::size_t end = text.find('\n');
        if (end == std::string_view::npos) return {};
        text.remove_prefix(end + 1);
    }
    return text.substr(0, text.find('\n'));
}

Diagnostic syntax_error(const YAML::Exception& error, std::string_view text, std::string_view file) {
    Place place;
    if (!error.mark.is_null()) place = {error.mark.line + 1, error.mark.column + 1};
    std::string message = "YAML syntax: " + error.msg;
    if (dynamic_cast<const YAML::DeepRecursion*>(&error) != nullptr)
        message = "YAML syntax: nested too deeply";
    // The commonest slip in a file of addresses: YAML takes the bracket for the beginning of a list.
    const std::string_view line = line_of(text, place.line);
    if (line.find("]:") != std::string_view::npos && line.find('"') == std::string_view::npos)
        message += " (an address that begins with a bracket needs quotes)";
    else if (line.find('\t') != std::string_view::npos)
        message += " (YAML is indented with blanks, not with tabs)";
    return {.file = std::string(file), .place = place, .message = std::move(message)};
}

// The first of `name`, `name#2`, `name#3`... that is not taken: only listeners on port 0 can need it.
std::string free_name(const std::string& name, const std::set<std::string>& taken) {
    std::string candidate = name;
    for (std::size_t number = 2; taken.contains(candidate); ++number)
        candidate = fmt::format("{}#{}", name, number);
    return candidate;
}

void name_listeners(std::vector<ListenerDraft>& drafts, Reader& reader) {
    std::set<std::string> taken;
    std::map<std::string, int> lines;
    for (const ListenerDraft& draft : drafts) {
        if (draft.name.value.empty()) continue;
        taken.insert(draft.name.value);
        const auto [first, fresh] = lines.emplace(draft.name.value, draft.name.place.line);
        if (!fresh)
            reader.complain(draft.name.place, fmt::format("duplicate listener name \"{}\" (first in line {})",
                                                          draft.name.value, first->second));
    }
    for (ListenerDraft& draft : drafts) {
        if (!draft.name.value.empty() || draft.bind.empty()) continue;
        draft.name.value = free_name(to_string(draft.bind.front().value), taken);
        taken.insert(draft.name.value);
    }
}

void check_binds(const std::vector<ListenerDraft>& drafts, Reader& reader) {
    // Only binds of one port, or of one path, can overlap.
    std::map<std::pair<std::uint16_t, std::string>, std::vector<const Placed<Endpoint>*>> groups;
    for (const ListenerDraft& draft : drafts) {
        for (const Placed<Endpoint>& bind : draft.bind) {
            auto& group = groups[{bind.value.port, bind.value.path}];
            for (const Placed<Endpoint>* earlier : group) {
                if (!binds_overlap(earlier->value, bind.value)) continue;
                const std::string text = to_string(bind.value);
                const std::string earlier_text = to_string(earlier->value);
                if (text == earlier_text)
                    reader.complain(bind.place,
                                    fmt::format("duplicate bind address \"{}\" (first in line {})", text,
                                                earlier->place.line));
                else
                    reader.complain(bind.place,
                                    fmt::format("the bind address \"{}\" overlaps \"{}\" in line {}", text,
                                                earlier_text, earlier->place.line));
                break;
            }
            group.push_back(&bind);
        }
    }
}

void check_pools_named(const ConfigDraft& draft, Reader& reader) {
    std::vector<std::string_view> names;
    for (const Pool& pool : draft.pools) names.emplace_back(pool.name);
    for (const ListenerDraft& listener : draft.drafts) {
        const std::string& name = listener.pool.value;
        if (!name.empty() && find_pool(draft, name) == nullptr)
            reader.complain(listener.pool.place,
                            fmt::format("no pool has the name \"{}\"{}", name, did_you_mean(name, names)));
    }
}

// Turns the drafts into listeners, and each `to` into a pool of the listener's name.
void finish(ConfigDraft& draft, Reader& reader) {
    name_listeners(draft.drafts, reader);
    check_binds(draft.drafts, reader);
    check_pools_named(draft, reader);

    for (ListenerDraft& listener : draft.drafts) {
        if (listener.to.value) {
            if (const Pool* namesake = find_pool(draft, listener.name.value);
                namesake != nullptr && !namesake->from_listener)
                reader.complain(
                    listener.to.place,
                    fmt::format("the listener \"{0}\" has \"to\", which makes a pool of its name, but there "
                                "is a pool \"{0}\" in line {1} (rename one)",
                                listener.name.value, namesake->place.line));
            const Backend backend{.name = to_string(*listener.to.value),
                                  .address = *listener.to.value,
                                  .place = listener.to.place};
            Pool pool;
            pool.name = listener.name.value;
            pool.from_listener = true;
            pool.backends = {backend};
            pool.tcp = listener.tcp;
            pool.place = listener.to.place;
            draft.pools.push_back(std::move(pool));
            listener.pool.value = listener.name.value;
        }
        std::vector<Endpoint> bind;
        for (const Placed<Endpoint>& placed : listener.bind) bind.push_back(placed.value);
        draft.listeners.push_back({.name = std::move(listener.name.value),
                                   .bind = std::move(bind),
                                   .pool = std::move(listener.pool.value),
                                   .timeouts = listener.timeouts,
                                   .sessions_max = listener.sessions_max,
                                   .tcp = std::move(listener.tcp),
                                   .place = listener.place});
    }
}

std::expected<Config, Diagnostics> load_document(std::string_view text, std::string_view name) {
    const std::vector<YAML::Node> documents = YAML::LoadAll(std::string(text));
    if (documents.size() > 1) {
        const YAML::Mark mark = documents[1].Mark();
        return std::unexpected(one(name, {mark.line + 1, mark.column + 1},
                                   "a second YAML document begins here (a file may hold one)"));
    }
    Reader reader(name);
    ConfigDraft draft;
    const YAML::Node document = documents.empty() ? YAML::Node() : documents.front();
    reader.read(document, draft);
    if (document.IsMap() && !document["listeners"])
        reader.complain({1, 1}, "there is no listener (the file needs the key \"listeners\")");
    finish(draft, reader);
    if (!reader.content()) return std::unexpected(reader.take_diagnostics());
    return static_cast<Config&&>(std::move(draft));
}

struct FileCloser {
    void operator()(std::FILE* file) const { (void)std::fclose(file); }
};

}  // namespace

std::string to_string(const Diagnostic& diagnostic) {
    if (diagnostic.place.line == 0) return fmt::format("{}: {}", diagnostic.file, diagnostic.message);
    return fmt::format("{}:{}:{}: {}", diagnostic.file, diagnostic.place.line, diagnostic.place.column,
                       diagnostic.message);
}

std::expected<Config, Diagnostics> load_text(std::string_view text, std::string_view name) {
    if (text.size() > file_bytes_max)
        return std::unexpected(
            one(name, {}, fmt::format("the file is larger than {} bytes", file_bytes_max)));
    if (const Place garbage = find_garbage(text); garbage.line != 0)
        return std::unexpected(
            one(name, garbage, "not text: a control character, or a byte that is not UTF-8"));
    try {
        return load_document(text, name);
    } catch (const YAML::Exception& error) {
        return std::unexpected(Diagnostics{syntax_error(error, text, name)});
    } catch (const std::exception& error) {
        return std::unexpected(one(name, {}, fmt::format("cannot be read: {}", error.what())));
    }
}

std::expected<Config, Diagnostics> load_file(const std::string& path) {
    const auto failed = [&](int error) {
        return std::unexpected(
            one(path, {}, fmt::format("cannot read the file: {}", std::generic_category().message(error))));
    };
    // Standard C, because it reports an errno where a stream only fails: a directory opens, and then says
    // EISDIR.
    const std::unique_ptr<std::FILE, FileCloser> file(std::fopen(path.c_str(), "rbe"));
    if (file == nullptr) return failed(errno);

    std::string text;
    std::array<char, 65536> chunk{};
    while (text.size() <= file_bytes_max) {
        errno = 0;
        const std::size_t bytes = std::fread(chunk.data(), 1, chunk.size(), file.get());
        text.append(chunk.data(), bytes);
        if (std::ferror(file.get()) != 0) return failed(errno);
        if (bytes < chunk.size()) break;
    }
    return load_text(text, path);
}

std::vector<Diagnostic> warnings(const Config& config, std::string_view file) {
    std::set<std::string_view> used;
    for (const Listener& listener : config.listeners) used.insert(listener.pool);
    std::vector<Diagnostic> found;
    for (const Pool& pool : config.pools)
        if (!used.contains(pool.name))
            found.push_back({.file = std::string(file),
                             .place = pool.place,
                             .message = fmt::format("no listener uses the pool \"{}\"", pool.name)});
    return found;
}

std::expected<Config, std::string> forward(std::string_view listen, std::span<const std::string> targets) {
    const auto bind = parse_endpoint(listen);
    if (!bind) return std::unexpected(fmt::format("cannot listen on \"{}\": {}", listen, bind.error()));
    if (bind->is_name())
        return std::unexpected(
            fmt::format("cannot listen on \"{}\": it is a name (write an address, such as "
                        "127.0.0.1:{} or :{})",
                        listen, bind->port, bind->port));
    if (targets.empty()) return std::unexpected(std::string("there is no target to forward to"));

    Pool pool;
    pool.name = "forward";
    for (const std::string& target : targets) {
        const auto address = parse_endpoint(target);
        if (!address)
            return std::unexpected(fmt::format("cannot forward to \"{}\": {}", target, address.error()));
        if (address->kind == Endpoint::Kind::tcp && (address->host.empty() || address->port == 0))
            return std::unexpected(fmt::format("cannot forward to \"{}\": it has no {}", target,
                                               address->host.empty() ? "host" : "port to dial"));
        for (const Backend& earlier : pool.backends)
            if (earlier.address == *address)
                return std::unexpected(fmt::format("the target \"{}\" is given twice", target));
        pool.backends.push_back({.name = to_string(*address), .address = *address, .place = {}});
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

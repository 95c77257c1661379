#include "sluice/config/reader.hpp"

#include "sluice/base/suggest.hpp"
#include "sluice/base/units.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <utility>

namespace sluice::config {
namespace {

// A broken file of a thousand lines may be wrong in every one; nobody reads further than this.
constexpr std::size_t diagnostics_max = 1000;
constexpr std::size_t name_bytes_max =
    300;  // longer than any DNS name with its port, which is a default name
constexpr std::size_t path_bytes_max = 4095;  // PATH_MAX with its NUL
constexpr std::size_t quoted_bytes_max = 120;

Place place_of(const YAML::Node& node) {
    const YAML::Mark mark = node.Mark();
    return mark.is_null() ? Place{} : Place{mark.line + 1, mark.column + 1};
}

std::string_view kind_of(const YAML::Node& node) {
    switch (node.Type()) {
        case YAML::NodeType::Undefined:
        case YAML::NodeType::Null: return "nothing";
        case YAML::NodeType::Scalar: return "a single value";
        case YAML::NodeType::Sequence: return "a list";
        case YAML::NodeType::Map: return "a map";
    }
    return {};
}

// A word from the file, fit for a message: a whole file in a wrong place should not become one.
std::string quoted(std::string_view word) {
    if (word.size() <= quoted_bytes_max) return fmt::format("\"{}\"", word);
    std::size_t end = quoted_bytes_max;
    while (end > 0 && (static_cast<unsigned char>(word[end]) & 0xc0) == 0x80)
        --end;  // not inside a character
    return fmt::format("\"{}...\"", word.substr(0, end));
}

bool contains(std::span<const std::string_view> words, std::string_view word) {
    return std::ranges::find(words, word) != words.end();
}

// The words for a flag in YAML 1.1, which people go on using.
std::optional<bool> parse_flag(std::string_view text) {
    if (text == "true" || text == "on" || text == "yes") return true;
    if (text == "false" || text == "off" || text == "no") return false;
    return std::nullopt;
}

// Empty when the text is no number; saturated when it is a large one.
std::optional<std::uint64_t> parse_count(std::string_view text) {
    constexpr std::uint64_t saturated = std::uint64_t{1} << 53;
    if (text.empty()) return std::nullopt;
    std::uint64_t number = 0;
    for (const char letter : text) {
        if (letter < '0' || letter > '9') return std::nullopt;
        number = std::min(saturated, number * 10 + static_cast<std::uint64_t>(letter - '0'));
    }
    return number;
}

}  // namespace

void Reader::complain(Place place, std::string message) {
    if (diagnostics_.size() < diagnostics_max)
        diagnostics_.push_back({.file = file_, .place = place, .message = std::move(message)});
}

std::vector<Diagnostic> Reader::take_diagnostics() {
    const auto position = [](const Diagnostic& diagnostic) {
        return std::tie(diagnostic.place.line, diagnostic.place.column, diagnostic.message);
    };
    std::ranges::sort(diagnostics_, {}, position);
    // An anchored map is read once for each of its aliases, and is wrong at the same place each time.
    const auto repeated = std::ranges::unique(diagnostics_, {}, position);
    diagnostics_.erase(repeated.begin(), repeated.end());
    return std::exchange(diagnostics_, {});
}

void Reader::read(const YAML::Node& document, ConfigDraft& draft) {
    read_struct({.node = document, .place = {1, 1}, .key = "the file"}, draft);
}

std::vector<Reader::Entry> Reader::entries_of(const Value& map) {
    std::vector<Entry> entries;
    std::map<std::string, int, std::less<>> lines;
    for (const auto& pair : map.node) {
        const Place key_place = place_of(pair.first);
        if (!pair.first.IsScalar()) {
            complain(key_place, fmt::format("a key must be plain text, not {}", kind_of(pair.first)));
            continue;
        }
        const std::string& key = pair.first.Scalar();
        const auto [first, fresh] = lines.emplace(key, key_place.line);
        if (!fresh) {
            complain(key_place,
                     fmt::format("duplicate key {} (first in line {})", quoted(key), first->second));
            continue;
        }
        // An empty value's own mark is that of whatever comes next.
        const Place place = pair.second.IsNull() ? key_place : place_of(pair.second);
        // The value's key is set by whoever knows a text that outlives this entry.
        entries.push_back({.key = key, .key_place = key_place, .value = {pair.second, place, {}}});
    }
    return entries;
}

Reader::Value Reader::item_of(const YAML::Node& node, const Value& list) const {
    const Place place = place_of(node);
    return {.node = node, .place = place.line == 0 ? list.place : place, .key = list.key};
}

template <class Struct>
void Reader::read_struct(const Value& value, Struct& into) {
    if (!expect_map(value, "a map of keys")) return;
    const std::vector<Entry> entries = entries_of(value);
    const auto read_field = [&](const auto& field) {
        const auto found = std::ranges::find(entries, field.key, &Entry::key);
        if (found == entries.end()) return;
        Value field_value = found->value;
        field_value.key = field.key;
        read_value(field_value, field.form, into.*field.member);
        if constexpr (std::is_same_v<Struct, ConfigDraft>) inherited_timeouts_ = into.timeouts;
    };
    std::apply([&](const auto&... field) { (read_field(field), ...); }, Fields<Struct>::table);
    constexpr auto keys = keys_of<Struct>();
    report_unknown(entries, keys, Fields<Struct>::later);
}

void Reader::report_unknown(const std::vector<Entry>& entries, std::span<const std::string_view> keys,
                            std::span<const std::string_view> later) {
    for (const Entry& entry : entries) {
        if (contains(keys, entry.key)) continue;
        if (contains(later, entry.key))
            complain(entry.key_place,
                     fmt::format("the key {} is not supported by this build yet", quoted(entry.key)));
        else
            complain(entry.key_place,
                     fmt::format("unknown key {}{}", quoted(entry.key), did_you_mean(entry.key, keys)));
    }
}

void Reader::complain_type(const Value& value, std::string_view expected) {
    if (value.node.IsNull())
        complain(value.place,
                 value.key == "the file"
                     ? std::string("the file is empty (it needs at least the key \"listeners\")")
                     : fmt::format("{} has no value (leave the key out for its default)", quoted(value.key)));
    else
        complain(value.place,
                 fmt::format("{} must be {}, not {}",
                             value.key == "the file" ? std::string(value.key) : quoted(value.key), expected,
                             kind_of(value.node)));
}

const std::string* Reader::text_of(const Value& value, std::string_view expected) {
    if (value.node.IsScalar()) return &value.node.Scalar();
    complain_type(value, expected);
    return nullptr;
}

bool Reader::expect_list(const Value& value, std::string_view expected) {
    if (value.node.IsSequence()) return true;
    complain_type(value, expected);
    return false;
}

bool Reader::expect_map(const Value& value, std::string_view expected) {
    if (value.node.IsMap()) return true;
    complain_type(value, expected);
    return false;
}

void Reader::complain_word(const Value& value, std::string_view word, std::span<const std::string_view> words,
                           std::span<const std::string_view> later) {
    if (contains(later, word)) {
        complain(value.place, fmt::format("{} for {} is not supported by this build yet", quoted(word),
                                          quoted(value.key)));
        return;
    }
    const std::string guess = did_you_mean(word, words);
    complain(value.place,
             fmt::format("unknown value {} for {}{}", quoted(word), quoted(value.key),
                         guess.empty() ? fmt::format(" (one of: {})", fmt::join(words, ", ")) : guess));
}

bool Reader::check_text(const Value& value, std::string_view text, std::size_t bytes_max, bool blanks) {
    if (text.size() > bytes_max) {
        complain(value.place,
                 fmt::format("{} is {} bytes long (at most {})", quoted(value.key), text.size(), bytes_max));
        return false;
    }
    const bool spoilt = std::ranges::any_of(text, [&](char letter) {
        const auto byte = static_cast<unsigned char>(letter);
        return byte < 0x20 || byte == 0x7f || (!blanks && byte == 0x20);
    });
    if (spoilt)
        complain(value.place, fmt::format("{} contains {}control characters", quoted(value.key),
                                          blanks ? "" : "blanks or "));
    return !spoilt;
}

std::optional<Endpoint> Reader::dialled(const Value& value) {
    const std::string* text = text_of(value, "an address");
    if (text == nullptr) return std::nullopt;
    auto endpoint = parse_endpoint(*text);
    if (!endpoint) {
        complain(value.place, endpoint.error());
    } else if (endpoint->kind == Endpoint::Kind::tcp && endpoint->host.empty()) {
        complain(value.place, fmt::format("the backend address {} has no host (write HOST{})", quoted(*text),
                                          to_string(*endpoint)));
    } else if (endpoint->kind == Endpoint::Kind::tcp && endpoint->port == 0) {
        complain(value.place,
                 fmt::format("the backend address {} has port 0, which cannot be dialled", quoted(*text)));
    } else {
        return *endpoint;
    }
    return std::nullopt;
}

void Reader::read_value(const Value& value, Flag, bool& into) {
    const std::string* text = text_of(value, "true or false");
    if (text == nullptr) return;
    if (const auto flag = parse_flag(*text))
        into = *flag;
    else
        complain(value.place,
                 fmt::format("{} must be true or false, not {}", quoted(value.key), quoted(*text)));
}

void Reader::read_value(const Value& value, Count form, std::uint32_t& into) {
    const std::string* text = text_of(value, "a number");
    if (text == nullptr) return;
    const auto number = parse_count(*text);
    if (!number && !(text->starts_with('-') && parse_count(std::string_view(*text).substr(1))))
        complain(value.place,
                 fmt::format("{} must be a whole number, not {}", quoted(value.key), quoted(*text)));
    else if (!number || *number < form.min || *number > form.max)
        complain(value.place, fmt::format("{} is out of range: {} (from {} to {})", quoted(value.key), *text,
                                          form.min, form.max));
    else
        into = static_cast<std::uint32_t>(*number);
}

void Reader::read_value(const Value& value, CountOrAuto form, std::uint32_t& into) {
    const std::string* text = text_of(value, "a number or auto");
    if (text == nullptr) return;
    constexpr std::array<std::string_view, 1> words{"auto"};
    if (*text == "auto")
        into = 0;
    else if (const std::string guess = did_you_mean(*text, words); !guess.empty())
        complain(value.place,
                 fmt::format("unknown value {} for {}{}", quoted(*text), quoted(value.key), guess));
    else
        read_value(value, Count{.min = 1, .max = form.max}, into);
}

void Reader::read_value(const Value& value, Duration form, Milliseconds& into) {
    const std::string* text = text_of(value, "a duration");
    if (text == nullptr) return;
    const auto duration = parse_duration(*text);
    if (!duration)
        complain(value.place, fmt::format("{}: {}", quoted(value.key), duration.error()));
    else if (*duration < form.min)
        complain(value.place, fmt::format("{} is too short: {} (at least {})", quoted(value.key), *text,
                                          format_duration(form.min)));
    else if (*duration > form.max)
        complain(value.place, fmt::format("{} is too long: {} (at most {})", quoted(value.key), *text,
                                          format_duration(form.max)));
    else if (*duration % form.step != Milliseconds(0))
        complain(value.place, fmt::format("{} must be a multiple of {}: {}", quoted(value.key),
                                          format_duration(form.step), *text));
    else
        into = *duration;
}

void Reader::read_value(const Value& value, Size form, std::uint64_t& into) {
    const std::string* text = text_of(value, "a size");
    if (text == nullptr) return;
    const auto size = parse_size(*text);
    if (!size)
        complain(value.place, fmt::format("{}: {}", quoted(value.key), size.error()));
    else if (*size > form.max)
        complain(value.place, fmt::format("{} is too large: {} (at most {})", quoted(value.key), *text,
                                          format_size(form.max)));
    else
        into = *size;
}

void Reader::read_value(const Value& value, Text form, std::string& into) {
    const std::string* text = text_of(value, "text");
    if (text != nullptr && check_text(value, *text, form.bytes_max, false)) into = *text;
}

void Reader::read_value(const Value& value, Name, std::string& into) {
    const std::string* text = text_of(value, "text");
    if (text == nullptr || !check_text(value, *text, name_bytes_max, false)) return;
    if (text->empty())
        complain(value.place,
                 fmt::format("{} is empty (leave the key out for its default)", quoted(value.key)));
    into = *text;
}

void Reader::read_value(const Value& value, Name form, Placed<std::string>& into) {
    into.place = value.place;
    read_value(value, form, into.value);
}

void Reader::read_value(const Value& value, PoolName, Placed<std::string>& into) {
    into.place = value.place;
    const std::string* text = text_of(value, "the name of a pool");
    if (text == nullptr) return;
    if (text->empty()) complain(value.place, fmt::format("{} is empty", quoted(value.key)));
    into.value = *text;
}

void Reader::read_value(const Value& value, BindList, std::vector<Placed<Endpoint>>& into) {
    const auto read_one = [&](const Value& item) {
        const std::string* text = text_of(item, "an address or a list of addresses");
        if (text == nullptr) return;
        const auto endpoint = parse_endpoint(*text);
        if (!endpoint)
            complain(item.place, endpoint.error());
        else if (endpoint->is_name())
            // What a name stands for can change while nobody looks; where to listen must not.
            complain(item.place,
                     fmt::format("cannot bind the name {} (write an address, such as 127.0.0.1:{} or :{})",
                                 quoted(endpoint->host), endpoint->port, endpoint->port));
        else
            into.push_back({.value = *endpoint, .place = item.place});
    };
    if (!value.node.IsSequence()) {
        read_one(value);
        return;
    }
    if (value.node.size() == 0) complain(value.place, "\"bind\" is an empty list");
    for (const auto& node : value.node) read_one(item_of(node, value));
}

void Reader::read_value(const Value& value, Target, Placed<std::optional<Endpoint>>& into) {
    into.place = value.place;
    into.value = dialled(value);
}

void Reader::read_value(const Value& value, Target, Endpoint& into) {
    if (auto endpoint = dialled(value)) into = *endpoint;
}

template <class Enum>
void Reader::read_value(const Value& value, Choice, Enum& into) {
    constexpr auto words = names_of<Enum>();
    const std::string* text = text_of(value, "a word");
    if (text == nullptr) return;
    const auto found = std::ranges::find(Choices<Enum>::names, *text, &ChoiceName<Enum>::name);
    if (found == Choices<Enum>::names.end())
        complain_word(value, *text, words, Choices<Enum>::later);
    else
        into = found->value;
}

void Reader::read_value(const Value& value, OutputForm, Output& into) {
    const std::string* text = text_of(value, "a word");
    if (text == nullptr) return;
    constexpr std::string_view file = name_of(Output::Kind::file);
    if (text->starts_with(file)) {
        const std::string_view path = std::string_view(*text).substr(file.size());
        if (!path.starts_with('/') || path.ends_with('/'))
            complain(value.place, fmt::format("{} must name a file by its absolute path (file:/path), not {}",
                                              quoted(value.key), quoted(*text)));
        else if (check_text(value, path, path_bytes_max, true))
            into = {.kind = Output::Kind::file, .path = std::string(path)};
        return;
    }
    Output output;
    const std::size_t before = diagnostics_.size();
    if (*text == "file") {
        complain(value.place, fmt::format("{} needs a path (file:/path)", quoted(value.key)));
        return;
    }
    read_value(value, Choice{}, output.kind);
    if (diagnostics_.size() == before) into = output;
}

void Reader::read_value(const Value& value, EventList, AccessEvents& into) {
    constexpr auto words = names_of<AccessEvents>();
    AccessEvents events{.accept = false, .connect = false, .close = false};
    const auto read_one = [&](const Value& item) {
        const std::string* text = text_of(item, "a list of events");
        if (text == nullptr) return;
        for (const auto& event : Choices<AccessEvents>::names) {
            if (event.name != *text) continue;
            events.*event.value = true;
            return;
        }
        complain_word(item, *text, words, Choices<AccessEvents>::later);
    };
    if (value.node.IsSequence())
        for (const auto& node : value.node) read_one(item_of(node, value));
    else if (!value.node.IsScalar() || parse_flag(value.node.Scalar()) != false)
        read_one(value);
    into = events;
}

void Reader::read_value(const Value& value, ServerList, std::vector<std::string>& into) {
    if (!expect_list(value, "a list of addresses")) return;
    into.clear();
    for (const auto& node : value.node) {
        const Value item = item_of(node, value);
        const std::string* text = text_of(item, "a list of addresses");
        if (text == nullptr) continue;
        // A name server may be written without its port; an IPv6 address then needs no brackets.
        constexpr std::uint16_t dns_port = 53;
        auto endpoint = parse_endpoint(*text);
        if (!endpoint) endpoint = parse_endpoint(fmt::format("{}:{}", *text, dns_port));
        if (!endpoint) endpoint = parse_endpoint(fmt::format("[{}]:{}", *text, dns_port));
        if (!endpoint || endpoint->kind != Endpoint::Kind::tcp || endpoint->host.empty() ||
            endpoint->is_name() || endpoint->port == 0 || text->starts_with("tcp://")) {
            complain(item.place,
                     fmt::format("{} is not the address of a name server (write 10.0.0.53, 10.0.0.53:53 "
                                 "or [2001:db8::53]:53)",
                                 quoted(*text)));
            continue;
        }
        into.push_back(*text);
    }
}

template <class Struct>
void Reader::read_value(const Value& value, Nested, Struct& into) {
    read_struct(value, into);
}

void Reader::read_value(const Value& value, Nested, Dns& into) {
    read_struct(value, into);
    if (into.ttl_min <= into.ttl_max) return;
    const YAML::Node& map = value.node;
    const YAML::Node culprit = map["ttl_max"] ? map["ttl_max"] : map["ttl_min"];
    complain(place_of(culprit), fmt::format("\"ttl_min\" ({}) is longer than \"ttl_max\" ({})",
                                            format_duration(into.ttl_min), format_duration(into.ttl_max)));
}

void Reader::read_value(const Value& value, NestedOrOff, AccessLog& into) {
    if (value.node.IsScalar()) {
        if (const auto flag = parse_flag(value.node.Scalar())) {
            into.enabled = *flag;
            return;
        }
    }
    if (expect_map(value, "a map of keys, or off")) read_struct(value, into);
}

void Reader::read_value(const Value& value, DraftList, std::vector<ListenerDraft>& into) {
    if (!expect_list(value, "a list of listeners")) return;
    if (value.node.size() == 0) complain(value.place, "\"listeners\" is an empty list");
    for (const auto& node : value.node) {
        const Value item = item_of(node, {.node = value.node, .place = value.place, .key = "a listener"});
        ListenerDraft draft;
        draft.timeouts = inherited_timeouts_;
        draft.place = item.place;
        const std::size_t before = diagnostics_.size();
        read_struct(item, draft);
        // What could not be read is not also missing.
        const auto missing = [&](std::string_view key) {
            return !node.IsMap() ? false : !node[std::string(key)];
        };
        if (missing("bind")) complain(item.place, "a listener needs the key \"bind\"");
        if (missing("pool") && missing("to"))
            complain(item.place, "a listener needs the key \"pool\" (or \"to\" for a single backend)");
        if (node.IsMap() && !missing("pool") && !missing("to"))
            complain(draft.to.place, "a listener has either \"pool\" or \"to\", not both");
        if (diagnostics_.size() == before || node.IsMap()) into.push_back(std::move(draft));
    }
}

void Reader::read_value(const Value& value, PoolMap, std::vector<Pool>& into) {
    if (!expect_map(value, "a map from names to pools")) return;
    for (const Entry& entry : entries_of(value)) {
        Value pool_value = entry.value;
        pool_value.key = entry.key;
        Pool pool;
        pool.name = entry.key;
        pool.place = entry.key_place;
        Value name = entry.value;
        name.place = entry.key_place;
        name.key = "a pool's name";
        if (entry.key.empty())
            complain(entry.key_place, "a pool's name is empty");
        else
            (void)check_text(name, entry.key, name_bytes_max, false);
        read_struct(pool_value, pool);
        if (entry.value.node.IsMap() && !entry.value.node["backends"])
            complain(entry.key_place,
                     fmt::format("the pool {} needs the key \"backends\"", quoted(entry.key)));
        into.push_back(std::move(pool));
    }
}

void Reader::read_value(const Value& value, BackendList, std::vector<Backend>& into) {
    if (!expect_list(value, "a list of backends")) return;
    if (value.node.size() == 0)
        complain(value.place, "a pool without a backend: \"backends\" is an empty list");
    std::map<std::string, int> names;
    std::map<std::string, int> addresses;
    for (const auto& node : value.node) {
        const Value item = item_of(node, {.node = value.node, .place = value.place, .key = "a backend"});
        Backend backend;
        backend.place = item.place;
        const std::size_t before = diagnostics_.size();
        if (node.IsMap()) {
            read_struct(item, backend);
            if (!node["address"]) complain(item.place, "a backend needs the key \"address\"");
        } else if (text_of(item, "an address, or a map with the key \"address\"") != nullptr) {
            read_value(item, Target{}, backend.address);
        }
        if (diagnostics_.size() != before) continue;

        const std::string address = to_string(backend.address);
        if (backend.name.empty()) backend.name = address;
        const auto [same_address, fresh_address] = addresses.emplace(address, item.place.line);
        const auto [same_name, fresh_name] = names.emplace(backend.name, item.place.line);
        if (!fresh_address)
            complain(item.place, fmt::format("duplicate backend {} in this pool (first in line {})",
                                             quoted(address), same_address->second));
        else if (!fresh_name)
            complain(item.place, fmt::format("duplicate backend name {} in this pool (first in line {})",
                                             quoted(backend.name), same_name->second));
        into.push_back(std::move(backend));
    }
}

}  // namespace sluice::config

#include "sluice/config/print.hpp"

#include "sluice/base/units.hpp"
#include "sluice/config/fields.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

namespace sluice::config {
namespace {

// One writer for each form of fields.hpp. Each appends what stands after `key:`, with the blank or the line
// break before it and the line break after it; maps and lists are indented by `depth` blanks.

template <class Struct>
void write_struct(std::string& out, std::size_t depth, const Struct& from);

// Always in double quotes: then no word of a user can turn into a number, a flag or a list.
std::string quote(std::string_view text) {
    std::string out = "\"";
    for (const char letter : text) {
        if (letter == '"' || letter == '\\') out += '\\';
        out += letter;
    }
    return out + '"';
}

void line(std::string& out, std::string_view text) {
    fmt::format_to(std::back_inserter(out), " {}\n", text);
}

void write(std::string& out, std::size_t, Flag, bool value) {
    line(out, value ? "true" : "false");
}
void write(std::string& out, std::size_t, Count, std::uint32_t value) {
    line(out, std::to_string(value));
}
void write(std::string& out, std::size_t, CountOrAuto, std::uint32_t value) {
    line(out, value == 0 ? "auto" : std::to_string(value));
}
void write(std::string& out, std::size_t, const Duration&, Milliseconds value) {
    line(out, format_duration(value));
}
void write(std::string& out, std::size_t, Size, std::uint64_t value) {
    line(out, format_size(value));
}
void write(std::string& out, std::size_t, Text, const std::string& value) {
    line(out, quote(value));
}
void write(std::string& out, std::size_t, Name, const std::string& value) {
    line(out, quote(value));
}
void write(std::string& out, std::size_t, Name, const Placed<std::string>& name) {
    line(out, quote(name.value));
}
void write(std::string& out, std::size_t, PoolName, const Placed<std::string>& name) {
    line(out, quote(name.value));
}
void write(std::string& out, std::size_t, Target, const Endpoint& address) {
    line(out, quote(to_string(address)));
}
void write(std::string& out, std::size_t depth, Target form, const Placed<std::optional<Endpoint>>& target) {
    if (target.value) write(out, depth, form, *target.value);
}

void write(std::string& out, std::size_t, BindList, const std::vector<Placed<Endpoint>>& binds) {
    std::vector<std::string> texts;
    texts.reserve(binds.size());
    for (const auto& bind : binds) texts.push_back(quote(to_string(bind.value)));
    line(out, fmt::format("[{}]", fmt::join(texts, ", ")));
}

template <class Enum>
void write(std::string& out, std::size_t, Choice, Enum value) {
    line(out, name_of(value));
}

void write(std::string& out, std::size_t, OutputForm, const Output& output) {
    const std::string word(name_of(output.kind));
    line(out, output.kind == Output::Kind::file ? quote(word + output.path) : word);
}

void write(std::string& out, std::size_t, EventList, const AccessEvents& events) {
    std::vector<std::string_view> words;
    for (const auto& event : Choices<AccessEvents>::names)
        if (events.*event.value) words.push_back(event.name);
    line(out, fmt::format("[{}]", fmt::join(words, ", ")));
}

void write(std::string& out, std::size_t, ServerList, const std::vector<std::string>& servers) {
    std::vector<std::string> texts;
    texts.reserve(servers.size());
    for (const std::string& server : servers) texts.push_back(quote(server));
    line(out, fmt::format("[{}]", fmt::join(texts, ", ")));
}

template <class Struct>
void write(std::string& out, std::size_t depth, Nested, const Struct& value) {
    out += '\n';
    write_struct(out, depth + 2, value);
}

void write(std::string& out, std::size_t depth, NestedOrOff, const AccessLog& value) {
    write(out, depth, Nested{}, value);
}

// A list of maps: each map is indented, and its first line gets the dash.
template <class Struct>
void write_list(std::string& out, std::size_t depth, const std::vector<Struct>& items) {
    out += '\n';
    for (const Struct& item : items) {
        const std::size_t begin = out.size();
        write_struct(out, depth + 4, item);
        out[begin + depth + 2] = '-';
    }
}

void write(std::string& out, std::size_t depth, DraftList, const std::vector<ListenerDraft>& drafts) {
    write_list(out, depth, drafts);
}

void write(std::string& out, std::size_t depth, BackendList, const std::vector<Backend>& backends) {
    write_list(out, depth, backends);
}

void write(std::string& out, std::size_t depth, PoolMap, const std::vector<Pool>& pools) {
    out += '\n';
    for (const Pool& pool : pools) {
        fmt::format_to(std::back_inserter(out), "{:{}}{}:\n", "", depth + 2, quote(pool.name));
        write_struct(out, depth + 4, pool);
    }
}

// What has no default and was not said is left out.
template <class Form, class Member>
bool is_said(Form, const Member&) {
    return true;
}
bool is_said(PoolName, const Placed<std::string>& name) {
    return !name.value.empty();
}
bool is_said(Target, const Placed<std::optional<Endpoint>>& target) {
    return target.value.has_value();
}
bool is_said(PoolMap, const std::vector<Pool>& pools) {
    return !pools.empty();
}

template <class Struct>
void write_struct(std::string& out, std::size_t depth, const Struct& from) {
    const auto write_field = [&](const auto& field) {
        const auto& member = from.*field.member;
        if (!is_said(field.form, member)) return;
        fmt::format_to(std::back_inserter(out), "{:{}}{}:", "", depth, field.key);
        write(out, depth, field.form, member);
    };
    std::apply([&](const auto&... field) { (write_field(field), ...); }, Fields<Struct>::table);
}

// Back to what a file says: pools made for a listener's `to` become `to` again.
ConfigDraft draft_of(const Config& config) {
    ConfigDraft draft;
    static_cast<Config&>(draft) = config;
    std::erase_if(draft.pools, [](const Pool& pool) { return pool.from_listener; });
    draft.listeners.clear();
    for (const Listener& listener : config.listeners) {
        ListenerDraft said;
        said.name.value = listener.name;
        for (const Endpoint& bind : listener.bind) said.bind.push_back({.value = bind, .place = {}});
        const Pool* pool = find_pool(config, listener.pool);
        if (pool != nullptr && pool->from_listener)
            said.to.value = pool->backends.front().address;
        else
            said.pool.value = listener.pool;
        said.timeouts = listener.timeouts;
        said.sessions_max = listener.sessions_max;
        said.udp = listener.udp;
        said.tcp = listener.tcp;
        draft.drafts.push_back(std::move(said));
    }
    return draft;
}

}  // namespace

std::string print(const Config& config) {
    std::string out;
    write_struct(out, 0, draft_of(config));
    return out;
}

}  // namespace sluice::config

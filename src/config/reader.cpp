#include "sluice/config/reader.hpp"

#include "sluice/base/suggest.hpp"
#include "sluice/base/units.hpp"
#include "sluice/config/scalars.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <span>
#include <tuple>
#include <utility>

namespace sluice::config {
namespace {

void complain_unknown(Document& document, const Entry& entry, std::span<const std::string_view> keys,
                      std::span<const std::string_view> later) {
    const auto say = [&](std::string_view message) { document.complain(entry.key_place, message); };
    if (std::ranges::find(keys, entry.key) != keys.end()) return;
    if (std::ranges::find(later, entry.key) != later.end())
        say(fmt::format("the key {} is not supported by this build yet", in_quotes(entry.key)));
    else if (entry.key == "<<")
        say("merge keys (<<) are not supported: an alias must be the whole value of a key");
    else
        say(fmt::format("unknown key {}{}", in_quotes(entry.key), did_you_mean(entry.key, keys)));
}

class Reader {
  public:
    explicit Reader(Document& document) : document_(document) {}

    // The entries of the map that was read, for what the table cannot say; none if it is no map.
    template <class Struct>
    std::optional<std::vector<Entry>> read_struct(const Value& value, Struct& into,
                                                  std::string_view expected = "a map of keys") {
        auto entries = document_.entries(value, expected);
        if (!entries) return entries;
        const auto read_field = [&](const auto& field) {
            if (const Value* found = find(*entries, field.key))
                read_value(*found, field.form, into.*field.member);
            // A listener inherits them: in the table they come before the listeners.
            if constexpr (std::is_same_v<Struct, ConfigDraft>) inherited_timeouts_ = into.timeouts;
        };
        std::apply([&](const auto&... field) { (read_field(field), ...); }, Fields<Struct>::table);
        constexpr auto keys = keys_of<Struct>();
        for (const Entry& entry : *entries) {
            if (document_.complaints().full()) break;
            complain_unknown(document_, entry, keys, Fields<Struct>::later);
        }
        return entries;
    }

  private:
    void complain(Place place, std::string_view message) { document_.complain(place, message); }

    // One for each form that has parts; the others are in scalars.hpp.
    template <class Form, class Member>
    void read_value(const Value& value, Form form, Member& into) {
        read_scalar(document_, value, form, into);
    }

    template <class Struct>
    void read_value(const Value& value, Nested, Struct& into) {
        (void)read_struct(value, into);
    }

    void read_value(const Value& value, Nested, Dns& into) {
        const std::size_t before = document_.complaints().size();
        const auto entries = read_struct(value, into);
        if (!entries || document_.complaints().size() != before || into.ttl_min <= into.ttl_max) return;
        const Value* culprit = find(*entries, "ttl_max");
        if (culprit == nullptr) culprit = find(*entries, "ttl_min");
        complain(culprit->place, fmt::format("\"ttl_min\" ({}) is longer than \"ttl_max\" ({})",
                                             format_duration(into.ttl_min), format_duration(into.ttl_max)));
    }

    void read_value(const Value& value, NestedOrOff, AccessLog& into) {
        const auto flag = value.node.IsScalar() ? parse_flag(value.node.Scalar()) : std::nullopt;
        if (flag)
            into.enabled = *flag;
        else
            (void)read_struct(value, into, "a map of keys, or off");
    }

    void read_value(const Value& value, DraftList, std::vector<ListenerDraft>& into) {
        const auto items = document_.items(value, "a list of listeners", "a listener");
        if (!items) return;
        if (value.node.size() == 0) complain(value.place, "\"listeners\" is an empty list");
        for (const Value& item : *items) {
            ListenerDraft draft;
            draft.timeouts = inherited_timeouts_;
            draft.place = item.place;
            const auto entries = read_struct(item, draft);
            if (!entries) continue;
            // What could not be read is not also missing.
            const bool pool = find(*entries, "pool") != nullptr;
            const bool to = find(*entries, "to") != nullptr;
            if (find(*entries, "bind") == nullptr) complain(item.place, "a listener needs the key \"bind\"");
            if (!pool && !to)
                complain(item.place, "a listener needs the key \"pool\" (or \"to\" for a single backend)");
            if (pool && to) complain(draft.to.place, "a listener has either \"pool\" or \"to\", not both");
            into.push_back(std::move(draft));
        }
    }

    void read_value(const Value& value, PoolMap, std::vector<Pool>& into) {
        const auto pools = document_.entries(value, "a map from names to pools");
        if (!pools) return;
        for (const Entry& entry : *pools) {
            (void)check_name(document_, entry.key_place, "a pool's name", entry.key);
            Pool pool;
            pool.name = entry.key;
            pool.place = entry.key_place;
            const auto entries = read_struct(entry.value, pool);
            if (entries && find(*entries, "backends") == nullptr)
                complain(entry.key_place,
                         fmt::format("the pool {} needs the key \"backends\"", in_quotes(entry.key)));
            // A listener may have it. To take it here and not to do it would be a lie.
            if (entries && pool.tcp.fastopen)
                complain(find(*entries, "tcp")->place,
                         "\"fastopen\" for backends is not supported by this build yet");
            into.push_back(std::move(pool));
        }
    }

    void read_value(const Value& value, BackendList, std::vector<Backend>& into) {
        const auto items = document_.items(value, "a list of backends", "a backend");
        if (!items) return;
        if (value.node.size() == 0)
            complain(value.place, "a pool without a backend: \"backends\" is an empty list");
        std::map<std::string, int> names;
        std::map<std::string, int> addresses;
        for (const Value& item : *items) {
            const std::size_t before = document_.complaints().size();
            Backend backend = read_backend(item);
            if (document_.complaints().size() != before || document_.complaints().full()) continue;

            const std::string address = to_string(backend.address);
            if (backend.name.empty()) backend.name = address;
            const auto [same_address, fresh_address] = addresses.emplace(address, item.place.line);
            const auto [same_name, fresh_name] = names.emplace(backend.name, item.place.line);
            if (!fresh_address)
                complain(item.place, fmt::format("duplicate backend {} in this pool (first in line {})",
                                                 in_quotes(address), same_address->second));
            else if (!fresh_name)
                complain(item.place, fmt::format("duplicate backend name {} in this pool (first in line {})",
                                                 in_quotes(backend.name), same_name->second));
            into.push_back(std::move(backend));
        }
    }

    Backend read_backend(const Value& item) {
        Backend backend;
        backend.place = item.place;
        if (item.node.IsMap()) {
            const auto entries = read_struct(item, backend);
            if (entries && find(*entries, "address") == nullptr)
                complain(item.place, "a backend needs the key \"address\"");
        } else if (document_.text(item, "an address, or a map with the key \"address\"") != nullptr) {
            read_scalar(document_, item, Target{}, backend.address);
        }
        return backend;
    }

    Document& document_;
    Timeouts inherited_timeouts_;  // of the whole file, once they are read
};

}  // namespace

void read(Document& document, const Value& file, ConfigDraft& draft) {
    if (file.node.IsNull())
        return document.complain(file.place, "the file is empty (it needs at least the key \"listeners\")");
    const auto entries = Reader(document).read_struct(file, draft);
    if (entries && find(*entries, "listeners") == nullptr)
        document.complain(file.place, "there is no listener (the file needs the key \"listeners\")");
}

}  // namespace sluice::config

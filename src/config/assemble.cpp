#include "sluice/config/assemble.hpp"

#include "sluice/base/suggest.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <set>
#include <tuple>
#include <utility>

namespace sluice::config {
namespace {

// A hundred thousand listeners are no mistake, so nothing here compares each with every other.

// Among more pools, looking for the one that resembles a word would take longer than anybody waits.
constexpr std::size_t suggestions_max = 1000;

using Lines = std::map<std::string, int, std::less<>>;  // where each name was first said

Lines check_names(const std::vector<ListenerDraft>& drafts, Complaints& complaints) {
    Lines lines;
    for (const ListenerDraft& draft : drafts) {
        if (draft.name.value.empty()) continue;
        const auto [first, fresh] = lines.emplace(draft.name.value, draft.name.place.line);
        if (!fresh)
            complaints.add(draft.name.place, fmt::format("duplicate listener name {} (first in line {})",
                                                         in_quotes(draft.name.value), first->second));
    }
    return lines;
}

// The first address, and where that is taken `ADDRESS#2`, `ADDRESS#3`...: only port 0 can need it.
void name_the_others(std::vector<ListenerDraft>& drafts, Lines taken) {
    std::map<std::string, std::size_t> numbers;  // the last one given for each address
    for (ListenerDraft& draft : drafts) {
        if (!draft.name.value.empty() || draft.bind.empty()) continue;
        const std::string address = to_string(draft.bind.front().value);
        std::size_t& number = numbers[address];
        do {
            ++number;
            draft.name.value = number == 1 ? address : fmt::format("{}#{}", address, number);
        } while (!taken.emplace(draft.name.value, 0).second);
    }
}

// Two addresses take each other's clients exactly when this is equal: with SO_REUSEPORT the kernel would not
// refuse the second one, but share the clients out. `[::]` takes IPv4 as well (net/socket.cpp). An address
// beside the one that means every interface takes its own clients only, and may be meant so.
std::tuple<std::uint16_t, std::string, std::string> clients_of(const Endpoint& bind) {
    const bool everywhere = bind.host.empty() || bind.host == "0.0.0.0" || bind.host == "::";
    return {bind.port, everywhere ? "" : bind.host,
            bind.is_abstract() ? bind.path : std::filesystem::path(bind.path).lexically_normal().string()};
}

void check_binds(const std::vector<ListenerDraft>& drafts, Complaints& complaints) {
    std::map<std::tuple<std::uint16_t, std::string, std::string>, const Placed<Endpoint>*> earlier;
    for (const ListenerDraft& draft : drafts) {
        for (const Placed<Endpoint>& bind : draft.bind) {
            // The kernel picks a different port for each.
            if (bind.value.kind == Endpoint::Kind::tcp && bind.value.port == 0) continue;
            const auto [first, fresh] = earlier.emplace(clients_of(bind.value), &bind);
            if (fresh) continue;
            const Placed<Endpoint>& other = *first->second;
            const std::string text = to_string(bind.value);
            if (other.value == bind.value)
                complaints.add(bind.place, fmt::format("duplicate bind address {} (first in line {})",
                                                       in_quotes(text), other.place.line));
            else
                complaints.add(bind.place,
                               fmt::format("the bind address {} overlaps {} in line {}", in_quotes(text),
                                           in_quotes(to_string(other.value)), other.place.line));
        }
    }
}

// What the file calls pools, and where.
Lines pools_of(const ConfigDraft& draft) {
    Lines lines;
    for (const Pool& pool : draft.pools) lines.emplace(pool.name, pool.place.line);
    return lines;
}

void check_pools(const ConfigDraft& draft, const Lines& pools, Complaints& complaints) {
    std::vector<std::string_view> names;
    if (pools.size() <= suggestions_max)
        for (const Pool& pool : draft.pools) names.emplace_back(pool.name);
    for (const ListenerDraft& listener : draft.drafts) {
        if (complaints.full()) return;
        if (listener.to.value) {
            if (const auto namesake = pools.find(listener.name.value); namesake != pools.end())
                complaints.add(
                    listener.to.place,
                    fmt::format("the listener {0} has \"to\", which makes a pool of its name, but there is a "
                                "pool {0} in line {1} (rename one)",
                                in_quotes(listener.name.value), namesake->second));
        } else if (const std::string& name = listener.pool.value; !name.empty() && !pools.contains(name)) {
            complaints.add(listener.pool.place, fmt::format("no pool has the name {}{}", in_quotes(name),
                                                            did_you_mean(name, names)));
        }
    }
}

Pool pool_for(const ListenerDraft& listener, const Endpoint& target) {
    Pool pool;
    pool.name = listener.name.value;
    pool.from_listener = true;
    pool.backends = {{.name = to_string(target), .address = target, .place = listener.to.place}};
    pool.tcp = listener.tcp;
    pool.place = listener.to.place;
    return pool;
}

}  // namespace

Config assemble(ConfigDraft draft, Complaints& complaints) {
    name_the_others(draft.drafts, check_names(draft.drafts, complaints));
    check_binds(draft.drafts, complaints);
    check_pools(draft, pools_of(draft), complaints);

    for (ListenerDraft& listener : draft.drafts) {
        if (listener.to.value) {
            draft.pools.push_back(pool_for(listener, *listener.to.value));
            listener.pool.value = listener.name.value;
        }
        std::vector<Endpoint> bind;
        bind.reserve(listener.bind.size());
        for (Placed<Endpoint>& placed : listener.bind) bind.push_back(std::move(placed.value));
        draft.listeners.push_back({.name = std::move(listener.name.value),
                                   .bind = std::move(bind),
                                   .pool = std::move(listener.pool.value),
                                   .timeouts = listener.timeouts,
                                   .sessions_max = listener.sessions_max,
                                   .tcp = std::move(listener.tcp),
                                   .place = listener.place});
    }
    return static_cast<Config&&>(std::move(draft));
}

}  // namespace sluice::config

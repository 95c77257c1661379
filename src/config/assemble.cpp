#include "sluice/config/assemble.hpp"

#include "sluice/base/suggest.hpp"
#include "sluice/config/kinds.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
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

// Two addresses take each other's clients exactly when these are equal and their ports overlap: with
// SO_REUSEPORT the kernel would not refuse the second one, but share the clients out. `[::]` takes IPv4 as
// well (net/socket.cpp). An address beside the one that means every interface takes its own clients only, and
// may be meant so. A path is one file, whatever the kind of its socket; abstract names are counted for each
// kind.
std::tuple<Endpoint::Kind, std::string, std::string> clients_of(const Endpoint& bind) {
    const bool everywhere = bind.host.empty() || bind.host == "0.0.0.0" || bind.host == "::";
    const bool path = bind.is_unix() && !bind.is_abstract();
    return {path ? Endpoint::Kind::unix_stream : bind.kind, everywhere ? "" : bind.host,
            path ? std::filesystem::path(bind.path).lexically_normal().string() : bind.path};
}

std::uint16_t last_port(const Endpoint& endpoint) {
    return std::max(endpoint.port, endpoint.port_last);
}

using ByPort = std::map<std::uint16_t, const Placed<Endpoint>*>;  // by the first port of each

// Of those that were said before, one whose ports this one has too; null if there is none.
const Placed<Endpoint>* overlapped(const ByPort& earlier, const Endpoint& bind) {
    const auto after = earlier.upper_bound(last_port(bind));
    if (after == earlier.begin()) return nullptr;
    // They do not overlap each other, so only the last that begins before our end can reach into us.
    const Placed<Endpoint>* before = std::prev(after)->second;
    return last_port(before->value) >= bind.port ? before : nullptr;
}

void check_binds(const std::vector<ListenerDraft>& drafts, Complaints& complaints) {
    std::map<std::tuple<Endpoint::Kind, std::string, std::string>, ByPort> all;
    for (const ListenerDraft& draft : drafts) {
        for (const Placed<Endpoint>& bind : draft.bind) {
            // The kernel picks a different port for each.
            if (bind.value.is_internet() && bind.value.port == 0) continue;
            ByPort& earlier = all[clients_of(bind.value)];
            const Placed<Endpoint>* other = overlapped(earlier, bind.value);
            if (other == nullptr) {
                earlier.emplace(bind.value.port, &bind);
                continue;
            }
            const std::string text = to_string(bind.value);
            if (other->value == bind.value)
                complaints.add(bind.place, fmt::format("duplicate bind address {} (first in line {})",
                                                       in_quotes(text), other->place.line));
            else
                complaints.add(bind.place,
                               fmt::format("the bind address {} overlaps {} in line {}", in_quotes(text),
                                           in_quotes(to_string(other->value)), other->place.line));
        }
    }
}

void check_kinds(const std::vector<Placed<Endpoint>>& binds, const Pool& pool, Complaints& complaints) {
    for (const Placed<Endpoint>& bind : binds) {
        if (const auto fault = fault_beside(binds.front().value, bind.value))
            return complaints.add(bind.place, *fault);
        for (const Backend& backend : pool.backends) {
            // Those that mix have been complained of.
            if (fault_beside(pool.backends.front().address, backend.address)) continue;
            if (const auto fault = fault_towards(bind.value, backend.address))
                return complaints.add(bind.place, *fault);
        }
    }
}

// One complaint for each listener and each pool: the first pair that does not go together.
void check_kinds(const Config& config, const std::vector<ListenerDraft>& drafts, Complaints& complaints) {
    std::map<std::string_view, const Pool*> pools;
    for (const Pool& pool : config.pools) {
        pools.emplace(pool.name, &pool);
        for (const Backend& backend : pool.backends) {
            const auto fault = fault_beside(pool.backends.front().address, backend.address);
            if (!fault) continue;
            complaints.add(backend.place, *fault);
            break;
        }
    }
    for (const ListenerDraft& draft : drafts) {
        const auto pool = pools.find(draft.pool.value);
        if (pool != pools.end()) check_kinds(draft.bind, *pool->second, complaints);
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
    }
    check_kinds(draft, draft.drafts, complaints);
    for (ListenerDraft& listener : draft.drafts) {
        std::vector<Endpoint> bind;
        bind.reserve(listener.bind.size());
        for (Placed<Endpoint>& placed : listener.bind) bind.push_back(std::move(placed.value));
        draft.listeners.push_back({.name = std::move(listener.name.value),
                                   .bind = std::move(bind),
                                   .pool = std::move(listener.pool.value),
                                   .timeouts = listener.timeouts,
                                   .sessions_max = listener.sessions_max,
                                   .udp = listener.udp,
                                   .tcp = std::move(listener.tcp),
                                   .place = listener.place});
    }
    return static_cast<Config&&>(std::move(draft));
}

}  // namespace sluice::config

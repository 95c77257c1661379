#include "sluice/upstream/pool.hpp"

#include "sluice/base/check.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace sluice {

AddressList literal_addresses(const Endpoint& endpoint) {
    if (endpoint.is_unix())
        return std::make_shared<const std::vector<SocketAddress>>(
            1, SocketAddress::from_unix_path(endpoint.path));
    if (endpoint.kind == Endpoint::Kind::file) return std::make_shared<const std::vector<SocketAddress>>(1);
    if (const auto address = SocketAddress::from_literal(endpoint.host, endpoint.port))
        return std::make_shared<const std::vector<SocketAddress>>(1, *address);
    return nullptr;
}

Pool::Pool(const config::Pool& settings) : settings_(&settings) {
    SLUICE_CHECK(!settings.backends.empty() && settings.backends.size() < Attempt::none);
    for (const config::Backend& backend : settings.backends) {
        AddressList addresses = literal_addresses(backend.address);
        const bool known = addresses != nullptr;
        backends_.push_back({&backend, std::move(addresses), known});
    }
}

void Pool::learn(std::uint32_t backend, AddressList addresses) noexcept {
    SLUICE_CHECK(backend < backends_.size());
    backends_[backend].asked = true;
    if (addresses != nullptr) backends_[backend].addresses = std::move(addresses);
}

Pool::Choice Pool::choose(Attempt& attempt) noexcept {
    if (attempt.backend != Attempt::none) {
        const AddressList& addresses = backends_[attempt.backend].addresses;
        // The list may have changed since the last attempt; the index then still names some address of it.
        if (addresses != nullptr && ++attempt.address < addresses->size())
            return {Next::address, current(attempt)};
        if (attempt.backends_tried > settings_->retries || attempt.backends_tried >= backends_.size())
            return {Next::none, {}};
    }
    const auto count = static_cast<std::uint32_t>(backends_.size());
    const bool first = attempt.backend == Attempt::none;
    const std::uint32_t start = first ? turn_ : (attempt.backend + 1U) % count;
    if (first) turn_ = (turn_ + 1) % count;
    bool hope = false;
    // A retry stops short of the backend that has just failed.
    for (std::uint32_t step = 0; step < (first ? count : count - 1); ++step) {
        const std::uint32_t index = (start + step) % count;
        const Backend& candidate = backends_[index];
        if (!candidate.asked) hope = true;
        if (candidate.addresses == nullptr || candidate.addresses->empty()) continue;
        attempt.backend = static_cast<std::uint16_t>(index);
        attempt.address = 0;
        ++attempt.backends_tried;
        return {Next::address, current(attempt)};
    }
    return {hope && first ? Next::pending : Next::none, {}};
}

bool Pool::has_address() const noexcept {
    return std::ranges::any_of(backends_, [](const Backend& backend) {
        return backend.addresses != nullptr && !backend.addresses->empty();
    });
}

SocketAddress Pool::current(const Attempt& attempt) const noexcept {
    SLUICE_CHECK(attempt.backend < backends_.size());
    const AddressList& addresses = backends_[attempt.backend].addresses;
    if (attempt.address >= addresses->size()) return {};
    SocketAddress address = (*addresses)[attempt.address];
    // The n-th port of a range goes to the n-th port of a range, or to the one port there is.
    if (chosen(attempt).address.ports() > 1)
        address.set_port(static_cast<std::uint16_t>(address.port() + attempt.port_offset));
    return address;
}

}  // namespace sluice

#pragma once

#include "sluice/config/config.hpp"
#include "sluice/upstream/resolver.hpp"

#include <cstdint>
#include <vector>

namespace sluice {

// One member of a pool as one worker knows it.
struct Backend {
    const config::Backend* settings;  // in the configuration that the worker holds
    AddressList addresses;            // null: not resolved; then `asked` says whether there is still hope
    bool asked = false;               // the resolver has answered at least once
};

// The members of a named pool, as one worker knows them: nothing here is shared. One thread.
class Pool {
  public:
    // Backends with a literal or unix address are known at once. REQUIRES: settings outlives the pool
    explicit Pool(const config::Pool& settings);

    const config::Pool& settings() const noexcept { return *settings_; }
    const Backend& backend(std::uint32_t index) const noexcept { return backends_[index]; }

    // News from the resolver.
    void learn(std::uint32_t backend, AddressList addresses) noexcept;

    // Where one session has got to in its attempts. A value that lives in the session.
    struct Attempt {
        static constexpr std::uint16_t none = UINT16_MAX;
        std::uint16_t backend = none;  // the one being tried
        std::uint16_t address = 0;     // of its addresses, the one being tried
        std::uint16_t backends_tried = 0;
        std::uint16_t port_offset = 0;  // of the port that the client reached, in its listener's range
    };

    enum class Next : std::uint8_t {
        address,  // dial `target`
        pending,  // no backend has an address yet, but a name is still being resolved: wait for learn()
        none,     // nothing is left to try
    };
    struct Choice {
        Next next;
        SocketAddress target;
    };

    // The next address for a session to dial: the first one of a backend in its turn; after a failure the
    // backend's other addresses, then those of up to `retries` other backends.
    Choice choose(Attempt& attempt) noexcept;

    // Whether choose() has an address for a session that has tried none.
    bool has_address() const noexcept;

    // What the attempt is at. REQUIRES: choose() has answered `address`
    const config::Backend& chosen(const Attempt& attempt) const noexcept {
        return *backends_[attempt.backend].settings;
    }

    // The address that the attempt is at, to dial it once more; a default one if it is gone from the list.
    SocketAddress current(const Attempt& attempt) const noexcept;

  private:
    const config::Pool* settings_;
    std::vector<Backend> backends_;
    std::uint32_t turn_ = 0;  // round robin: the next session begins here
};

// The one address of an endpoint that needs no resolver (of a file: one of no family); null for a DNS name.
AddressList literal_addresses(const Endpoint& endpoint);

}  // namespace sluice

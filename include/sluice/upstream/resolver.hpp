#pragma once

#include "sluice/base/clock.hpp"
#include "sluice/config/config.hpp"
#include "sluice/net/address.hpp"

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace sluice {

// The addresses of one backend as they are known now. Immutable; shared by all who read it.
using AddressList = std::shared_ptr<const std::vector<SocketAddress>>;

// Keeps DNS names resolved, on a thread of its own (c-ares), for as long as it lives.
//
// Each name is asked for again when its TTL is over (between ttl_min and ttl_max). An answer from /etc/hosts
// has no TTL and is read again every ttl_max. While the servers fail, the last good answer stays in force and
// the question is repeated, ever more slowly.
class Resolver {
  public:
    struct Name {
        std::string host;
        std::uint16_t port;
    };

    // Called on the resolver's thread: at the first answer, good or bad, and then whenever it changed.
    // `addresses` is null when the name could not be resolved and never was.
    using OnAnswer = std::function<void(std::size_t name, AddressList addresses)>;

    // The error says what c-ares or the system refused.
    static std::expected<std::unique_ptr<Resolver>, std::string> start(const config::Dns& settings,
                                                                       std::vector<Name> names,
                                                                       OnAnswer on_answer);

    virtual ~Resolver() = default;  // stops and joins the thread
};

}  // namespace sluice

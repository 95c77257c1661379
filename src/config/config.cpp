#include "sluice/config/config.hpp"

#include <algorithm>

namespace sluice::config {

const Pool* find_pool(const Config& config, std::string_view name) {
    const auto found = std::ranges::find(config.pools, name, &Pool::name);
    return found == config.pools.end() ? nullptr : &*found;
}

}  // namespace sluice::config

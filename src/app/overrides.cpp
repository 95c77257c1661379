#include "sluice/app/overrides.hpp"

namespace sluice {

namespace {

template <class Value>
void replace(Value& value, const std::optional<Value>& with) {
    if (with) value = *with;
}

void apply(const Overrides& overrides, config::Timeouts& timeouts) {
    replace(timeouts.connect, overrides.connect_timeout);
    replace(timeouts.idle, overrides.idle_timeout);
    replace(timeouts.half_closed, overrides.half_closed_timeout);
}

}  // namespace

void apply(const Overrides& overrides, config::Config& config) {
    replace(config.engine, overrides.engine);
    replace(config.workers, overrides.workers);
    replace(config.log.level, overrides.log_level);
    replace(config.log.format, overrides.log_format);
    replace(config.access_log.enabled, overrides.access_log);
    replace(config.access_log.format, overrides.access_log_format);
    replace(config.drain_timeout, overrides.drain_timeout);
    apply(overrides, config.timeouts);
    // Listeners are complete: what they inherited when they were read would no longer follow.
    for (config::Listener& listener : config.listeners) apply(overrides, listener.timeouts);
}

}  // namespace sluice

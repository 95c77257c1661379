#include "sluice/account/seat.hpp"

namespace sluice {

Seat::Seat(Count& process, std::uint32_t process_max, Count& listener, std::uint32_t listener_max) noexcept {
    if (process.fetch_add(1, std::memory_order_relaxed) >= process_max) {
        process.fetch_sub(1, std::memory_order_relaxed);
        return;
    }
    if (listener.fetch_add(1, std::memory_order_relaxed) >= listener_max) {
        listener.fetch_sub(1, std::memory_order_relaxed);
        process.fetch_sub(1, std::memory_order_relaxed);
        return;
    }
    process_ = &process;
    listener_ = &listener;
}

Seat::~Seat() {
    if (process_ == nullptr) return;
    listener_->fetch_sub(1, std::memory_order_relaxed);
    process_->fetch_sub(1, std::memory_order_relaxed);
}

}  // namespace sluice

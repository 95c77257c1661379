#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace sluice {

// A bounded queue of values from exactly one thread to exactly one other. Never blocks, never allocates after
// it was made: what finds no room is counted as lost.
template <class T>
class Ring {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    explicit Ring(std::size_t capacity_min)
        : mask_(std::bit_ceil(capacity_min) - 1), items_(std::make_unique<T[]>(mask_ + 1)) {}

    // The sender's. False when there is no room; then the loss is counted.
    bool push(const T& item) noexcept {
        const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
        if (tail - head_.load(std::memory_order_acquire) > mask_) {
            lost_.store(lost_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
            return false;
        }
        items_[tail & mask_] = item;
        tail_.store(tail + 1, std::memory_order_release);
        return true;
    }

    // The receiver's. False when the queue is empty.
    bool pop(T& item) noexcept {
        const std::uint64_t head = head_.load(std::memory_order_relaxed);
        if (head == tail_.load(std::memory_order_acquire)) return false;
        item = items_[head & mask_];
        head_.store(head + 1, std::memory_order_release);
        return true;
    }

    // Anybody's: how many items found no room so far.
    std::uint64_t lost() const noexcept { return lost_.load(std::memory_order_relaxed); }

  private:
    const std::size_t mask_;
    const std::unique_ptr<T[]> items_;
    alignas(64) std::atomic<std::uint64_t> tail_{0};  // the sender's cache line
    std::atomic<std::uint64_t> lost_{0};
    alignas(64) std::atomic<std::uint64_t> head_{0};  // the receiver's
};

}  // namespace sluice

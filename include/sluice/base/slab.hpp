#pragma once

#include "sluice/base/check.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

namespace sluice {

// The name of one tenancy of one slot. A slot's generation grows each time it is taken, so a name outlives
// what it named without ever meaning something else (2^32 tenancies of the same slot aside).
struct SlotName {
    std::uint32_t slot = 0;
    std::uint32_t generation = 0;  // 0 names nothing: the first tenancy of a slot is 1
    bool operator==(const SlotName&) const = default;
};

// A fixed number of places for T that never move and are found by name. One thread.
//
// The places are reserved address space: memory is spent on the first use of a page, so a large capacity
// costs nothing until it is needed. Places are taken last-freed-first to keep the touched pages few.
template <class T>
class Slab {
  public:
    // REQUIRES: capacity < 2^32 - 2. Throws std::bad_alloc when the address space cannot be had (start-up
    // only).
    explicit Slab(std::uint32_t capacity) : capacity_(capacity) {
        void* memory = ::mmap(nullptr, bytes(), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        places_ = static_cast<Place*>(memory);
    }

    // Something that still lives here is known to somebody: a bug of the owner.
    ~Slab() {
        SLUICE_CHECK(size_ == 0);
        ::munmap(places_, bytes());
    }

    Slab(const Slab&) = delete;
    Slab& operator=(const Slab&) = delete;

    std::uint32_t size() const noexcept { return size_; }
    std::uint32_t capacity() const noexcept { return capacity_; }

    // A new T in a free place, built from its own name and the arguments; null when all places are taken.
    template <class... Arguments>
    T* take(Arguments&&... arguments) noexcept {
        std::uint32_t slot;
        if (free_ != none) {
            slot = free_;
            free_ = places_[slot].next;
        } else if (untouched_ < capacity_) {
            slot = untouched_++;
        } else {
            return nullptr;
        }
        Place& place = places_[slot];
        if (++place.generation == 0) place.generation = 1;
        place.next = taken_mark;
        ++size_;
        return std::construct_at(place.object(), SlotName{slot, place.generation},
                                 std::forward<Arguments>(arguments)...);
    }

    // What lives under this name, or null if that tenancy is over (or never was).
    T* find(SlotName name) noexcept {
        if (name.slot >= untouched_) return nullptr;
        Place& place = places_[name.slot];
        return place.next == taken_mark && place.generation == name.generation ? place.object() : nullptr;
    }

    // Destroys what lives under the name and frees its place.
    // REQUIRES: find(name) != nullptr
    void retire(SlotName name) noexcept {
        T* object = find(name);
        SLUICE_CHECK(object != nullptr);
        std::destroy_at(object);
        Place& place = places_[name.slot];
        place.next = free_;
        free_ = name.slot;
        --size_;
    }

    // Calls visit(T&) for each inhabitant; visit may retire the one it is given.
    template <class Visit>
    void for_each(Visit&& visit) {
        for (std::uint32_t slot = 0; slot < untouched_; ++slot)
            if (places_[slot].next == taken_mark) visit(*places_[slot].object());
    }

    // A walk over all that live, a bounded number of slots at a time: begins and goes on at `slot`. True once
    // it has come to the end, and `slot` is 0 again. Who comes or goes between the steps may be missed.
    template <class Visit>
    bool visit_next(std::uint32_t& slot, std::uint32_t slots_max, Visit&& visit) {
        const std::uint32_t end = slot + std::min(slots_max, untouched_ - std::min(slot, untouched_));
        for (; slot < end; ++slot)
            if (places_[slot].next == taken_mark) visit(*places_[slot].object());
        if (slot < untouched_) return false;
        slot = 0;
        return true;
    }

  private:
    static constexpr std::uint32_t none = UINT32_MAX;
    static constexpr std::uint32_t taken_mark = UINT32_MAX - 1;

    // Zero bytes, as mmap gives them, are a valid free place that was never taken.
    struct Place {
        std::uint32_t generation;
        std::uint32_t next;  // `taken_mark` while taken, else the next free slot once it was freed
        alignas(T) std::byte storage[sizeof(T)];
        T* object() noexcept { return std::launder(reinterpret_cast<T*>(storage)); }
    };

    std::size_t bytes() const noexcept { return sizeof(Place) * (capacity_ > 0 ? capacity_ : 1); }

    Place* places_ = nullptr;
    std::uint32_t capacity_;
    std::uint32_t untouched_ = 0;  // places from here on were never taken
    std::uint32_t free_ = none;
    std::uint32_t size_ = 0;
};

}  // namespace sluice

#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace sluice {

// A seat under the limits of the process and of a listener, freed when it dies. Shared by all workers.
class Seat {
  public:
    using Count = std::atomic<std::uint32_t>;

    // A seat if there are fewer than the given maxima; `taken()` says.
    Seat(Count& process, std::uint32_t process_max, Count& listener, std::uint32_t listener_max) noexcept;
    ~Seat();
    Seat(Seat&& other) noexcept
        : process_(std::exchange(other.process_, nullptr)),
          listener_(std::exchange(other.listener_, nullptr)) {}
    Seat& operator=(Seat&&) = delete;

    bool taken() const noexcept { return process_ != nullptr; }

  private:
    Count* process_ = nullptr;
    Count* listener_ = nullptr;
};

}  // namespace sluice

#pragma once

#include "sluice/net/owned_fd.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace sluice {

// A kernel pipe, non-blocking at both ends. A resource: one owner, closed when it dies.
class Pipe {
  public:
    // Nullopt when the system grants no pipe of at least `size` bytes (descriptors, or the budget of
    // pipe-user-pages-soft: a pipe beyond that has two slots and is of no use).
    static std::optional<Pipe> open(std::size_t size) noexcept;

    int read_end() const noexcept { return read_end_.get(); }
    int write_end() const noexcept { return write_end_.get(); }
    std::size_t size() const noexcept { return size_; }  // bytes: one slot for each page

  private:
    Pipe(OwnedFd read_end, OwnedFd write_end, std::size_t size) noexcept
        : read_end_(std::move(read_end)),
          write_end_(std::move(write_end)),
          size_(static_cast<std::uint32_t>(size)) {}
    OwnedFd read_end_;
    OwnedFd write_end_;
    std::uint32_t size_;
};

// What this process may spend on pipes, in bytes of pipe size.
//
// The kernel gives every user pipe-user-pages-soft pages for all its processes together, unless the process
// has CAP_SYS_RESOURCE or CAP_SYS_ADMIN in the first user namespace. Three quarters of it, so that the
// user's other programs still get pipes; with the capability, a bound that no load here comes near.
struct PipeBudget {
    std::size_t bytes = 0;
    bool exempt = false;  // from pipe-user-pages-soft
    static PipeBudget of_this_system();
};

// The pipes of one worker, leased to flows for as long as bytes rest in them. One thread.
//
// Large pipes make splicing cheap (239 CPU ms/GiB with 1 MiB against 392 with 64 KiB, KERNEL.md) and there
// are few of them, so the size follows the pressure: the more is leased, the smaller the next pipe.
class PipePool {
  public:
    static constexpr std::array<std::size_t, 3> sizes = {std::size_t{1024} * 1024, std::size_t{256} * 1024,
                                                         std::size_t{64} * 1024};

    // May spend this many bytes; 0: never a pipe. Reserves its lists here, so that leasing allocates nothing.
    explicit PipePool(std::size_t budget);

    // An empty pipe, or nullopt when there is none to be had: then copy.
    std::optional<Pipe> lease() noexcept;

    // Takes an *empty* pipe back. A pipe that still holds bytes must be destroyed instead (forfeit()):
    // they would reach another client.
    void give_back(Pipe pipe) noexcept;

    // Destroys a leased pipe with what it holds.
    void forfeit(Pipe pipe) noexcept;

    // Closes the pipes that nobody leases: somebody needs their descriptors more.
    void drop_idle() noexcept;

    std::size_t leased_bytes() const noexcept { return leased_; }
    std::size_t idle_bytes() const noexcept { return idle_bytes_; }
    std::uint64_t refusals() const noexcept { return refusals_; }  // leases that found no pipe

  private:
    static constexpr std::size_t idle_max_of_a_size = 16;

    std::size_t wanted_size_index() const noexcept;
    std::optional<Pipe> take_idle(std::size_t index) noexcept;
    void drop_idle_until_fits(std::size_t size) noexcept;

    std::size_t budget_;
    std::size_t leased_ = 0;
    std::size_t idle_bytes_ = 0;
    std::array<std::vector<Pipe>, sizes.size()> idle_;  // the last one back is the next one out: warm
    std::uint64_t refusals_ = 0;
    std::uint32_t leases_until_retry_ = 0;  // after the kernel said no, so many leases do not ask it again
};

}  // namespace sluice

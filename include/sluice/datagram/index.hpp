#pragma once

#include "sluice/datagram/session.hpp"
#include "sluice/net/datagram_batch.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice {

// Whom a datagram belongs to: client, the address of ours it was sent to, listener.
struct DatagramKey {
    std::uint32_t listener;
    std::span<const std::byte> client;  // its sockaddr
    ReachedAddress reached;
};

// Finds sessions by key. The sessions are the chains' links, so nothing is allocated; the buckets are
// reserved address space and grow by one with each session (linear hashing), so that a table for a million
// sessions costs a page while there are few, and no insertion ever pays for all that were before.
class DatagramIndex {
  public:
    // Throws std::bad_alloc when the address space cannot be had.
    explicit DatagramIndex(std::uint32_t sessions_max);
    ~DatagramIndex();
    DatagramIndex(const DatagramIndex&) = delete;
    DatagramIndex& operator=(const DatagramIndex&) = delete;

    // With a secret of this process: nobody can aim at one bucket.
    std::uint64_t hash(const DatagramKey& key) const noexcept;
    DatagramSession* find(const DatagramKey& key, std::uint64_t hash) noexcept;

    // REQUIRES: session.hash is that of its key; not indexed
    void insert(DatagramSession& session) noexcept;
    // REQUIRES: indexed
    void erase(DatagramSession& session) noexcept;

    std::uint32_t size() const noexcept { return size_; }

  private:
    std::size_t bucket_of(std::uint64_t hash) const noexcept;
    void grow() noexcept;

    DatagramSession** buckets_;
    std::size_t capacity_;   // a power of two
    std::size_t count_ = 1;  // buckets in use
    std::size_t base_ = 1;   // the largest power of two that is not above count_
    std::uint32_t size_ = 0;
    std::array<std::uint64_t, 2> secret_;
};

}  // namespace sluice

#include "sluice/datagram/index.hpp"

#include "sluice/base/check.hpp"

#include <sys/mman.h>
#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <new>

namespace sluice {

namespace {

// Multiplies and folds: each bit of the result depends on all of both. (The core of wyhash.)
std::uint64_t mix(std::uint64_t one, std::uint64_t other) noexcept {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(one) * other;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t word_at(const std::byte* bytes, std::size_t count) noexcept {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes, count);
    return word;
}

std::array<std::uint64_t, 2> fresh_secret() noexcept {
    std::array<std::uint64_t, 2> secret{};
    if (::getrandom(secret.data(), sizeof(secret), GRND_NONBLOCK) != static_cast<ssize_t>(sizeof(secret)))
        secret = {static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()),
                  reinterpret_cast<std::uintptr_t>(&secret)};
    // Odd, and so not zero: a product keeps its bits.
    return {secret[0] | 1, secret[1] | 1};
}

std::span<const std::byte> client_of(const DatagramSession& session) noexcept {
    // No address at all is written with a length of its family by us, and with none by the kernel.
    if (session.client.family() == AF_UNSPEC) return {};
    return {reinterpret_cast<const std::byte*>(session.client.get()), session.client.length()};
}

}  // namespace

DatagramIndex::DatagramIndex(std::uint32_t sessions_max)
    : capacity_(std::bit_ceil(std::max<std::size_t>(sessions_max, 1))), secret_(fresh_secret()) {
    void* memory = ::mmap(nullptr, capacity_ * sizeof(DatagramSession*), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    buckets_ = static_cast<DatagramSession**>(memory);
}

DatagramIndex::~DatagramIndex() {
    ::munmap(buckets_, capacity_ * sizeof(DatagramSession*));
}

std::uint64_t DatagramIndex::hash(const DatagramKey& key) const noexcept {
    std::uint64_t state = mix(key.listener ^ secret_[0], key.client.size() ^ secret_[1]);
    std::size_t offset = 0;
    for (; offset + 8 <= key.client.size(); offset += 8)
        state = mix(state ^ word_at(key.client.data() + offset, 8), secret_[0]);
    if (offset < key.client.size())
        state = mix(state ^ word_at(key.client.data() + offset, key.client.size() - offset), secret_[0]);
    const auto* host = reinterpret_cast<const std::byte*>(&key.reached.host);
    state = mix(state ^ word_at(host, 8), secret_[1]);
    return mix(state ^ word_at(host + 8, 8), secret_[0] ^ key.reached.interface);
}

DatagramSession* DatagramIndex::find(const DatagramKey& key, std::uint64_t hash) noexcept {
    for (DatagramSession* session = buckets_[bucket_of(hash)]; session != nullptr;
         session = session->next_in_bucket)
        if (session->hash == hash && session->listener->index == key.listener &&
            session->reached == key.reached && std::ranges::equal(client_of(*session), key.client))
            return session;
    return nullptr;
}

void DatagramIndex::insert(DatagramSession& session) noexcept {
    SLUICE_CHECK(!session.indexed);
    if (size_ >= count_ && count_ < capacity_) grow();
    DatagramSession*& bucket = buckets_[bucket_of(session.hash)];
    session.next_in_bucket = bucket;
    session.indexed = true;
    bucket = &session;
    ++size_;
}

void DatagramIndex::erase(DatagramSession& session) noexcept {
    SLUICE_CHECK(session.indexed);
    DatagramSession** link = &buckets_[bucket_of(session.hash)];
    while (*link != &session) {
        SLUICE_CHECK(*link != nullptr);
        link = &(*link)->next_in_bucket;
    }
    *link = session.next_in_bucket;
    session.next_in_bucket = nullptr;
    session.indexed = false;
    --size_;
}

// Those below count_ - base_ were split already, and their sessions are told apart by one bit more.
std::size_t DatagramIndex::bucket_of(std::uint64_t hash) const noexcept {
    const std::size_t bucket = hash & (2 * base_ - 1);
    return bucket < count_ ? bucket : bucket - base_;
}

// One bucket more: the next one in turn is split in two.
void DatagramIndex::grow() noexcept {
    const std::size_t old = count_ - base_;
    ++count_;
    DatagramSession* session = buckets_[old];
    buckets_[old] = nullptr;
    while (session != nullptr) {
        DatagramSession* const next = session->next_in_bucket;
        DatagramSession*& bucket = buckets_[session->hash & (2 * base_ - 1)];
        session->next_in_bucket = bucket;
        bucket = session;
        session = next;
    }
    if (count_ == 2 * base_) base_ = count_;
}

}  // namespace sluice

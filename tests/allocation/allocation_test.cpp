// "Steady state allocates nothing": a relay inside this process, and an operator new that counts what the
// workers ask of it. A program of its own, because the operators are replaced for all of it.

#include "sluice/config/config.hpp"
#include "sluice/relay/relay.hpp"

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"
#include "tests/support/waiting.hpp"

#include <pthread.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

std::atomic<bool> counting = false;
std::atomic<std::uint64_t> worker_allocations = 0;
std::atomic<std::uint64_t> worker_releases = 0;
std::atomic<bool> refusing = false;  // a worker that asks politely (std::nothrow) gets nothing

// Asked at every call while it counts: a thread takes its name only after its start, perhaps after a first
// allocation.
bool on_a_worker() {
    std::array<char, 16> name{};
    if (::pthread_getname_np(::pthread_self(), name.data(), name.size()) != 0) return false;
    return std::strncmp(name.data(), "sluice-worker", 13) == 0;
}

void* allocate(std::size_t size, std::size_t alignment) {
    if (counting.load(std::memory_order_relaxed) && on_a_worker())
        worker_allocations.fetch_add(1, std::memory_order_relaxed);
    void* memory = alignment <= alignof(std::max_align_t)
                       ? std::malloc(size)
                       : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    return memory;
}

void* allocate_or_throw(std::size_t size, std::size_t alignment) {
    void* memory = allocate(size == 0 ? 1 : size, alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

void release(void* memory) noexcept {
    if (memory != nullptr && counting.load(std::memory_order_relaxed) && on_a_worker())
        worker_releases.fetch_add(1, std::memory_order_relaxed);
    std::free(memory);
}

}  // namespace

void* operator new(std::size_t size) {
    return allocate_or_throw(size, 1);
}
void* operator new[](std::size_t size) {
    return allocate_or_throw(size, 1);
}
void* operator new(std::size_t size, std::align_val_t alignment) {
    return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
    return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    return allocate(size == 0 ? 1 : size, 1);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
    if (refusing.load(std::memory_order_relaxed) && on_a_worker()) return nullptr;
    return allocate(size == 0 ? 1 : size, 1);
}
void operator delete(void* memory) noexcept {
    release(memory);
}
void operator delete[](void* memory) noexcept {
    release(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    release(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
    release(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    release(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
    release(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    release(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
    release(memory);
}
void operator delete(void* memory, const std::nothrow_t&) noexcept {
    release(memory);
}
void operator delete[](void* memory, const std::nothrow_t&) noexcept {
    release(memory);
}

namespace sluice::test {
namespace {

constexpr std::size_t sessions_at_once = 50;

struct Load {
    std::uint64_t sessions;  // that say a little each way and end
    std::uint64_t bytes;     // that one more session moves each way in bulk
};

// Reads the records as the access log would, so that the workers' rings have room.
class RecordReader {
  public:
    explicit RecordReader(Records& records) : records_(records), thread_([this] { read(); }) {}
    ~RecordReader() { stop(); }
    RecordReader(const RecordReader&) = delete;
    RecordReader& operator=(const RecordReader&) = delete;

    // Reads the rest, and no more. Returns the last record of all.
    SessionRecord stop() {
        records_.stop();
        if (thread_.joinable()) thread_.join();
        return last_;
    }

  private:
    void read() {
        for (bool last = false; !last;) {
            records_.wait();
            last = records_.stopped();
            while (records_.pop(last_)) continue;
        }
    }
    Records& records_;
    SessionRecord last_;
    std::thread thread_;
};

void small_sessions(const std::string& address, Listener& backend, std::uint64_t count) {
    for (std::uint64_t done = 0; done < count; done += sessions_at_once) {
        std::vector<std::pair<Socket, Socket>> sessions;
        for (std::size_t index = 0; index < sessions_at_once; ++index) {
            Socket client = connect_to(address);
            sessions.emplace_back(std::move(client), backend.accept());
        }
        for (auto& [client, upstream] : sessions) client.send_all("question");
        for (auto& [client, upstream] : sessions) {
            upstream.receive_exactly(8);
            upstream.send_all("answer");
        }
        for (auto& [client, upstream] : sessions) {
            client.receive_exactly(6);
            client.shutdown_write();
        }
        // Every third is broken instead of ended.
        std::size_t index = 0;
        for (auto& [client, upstream] : sessions) {
            upstream.receive_to_end();
            if (++index % 3 == 0)
                upstream.reset();
            else
                upstream.close();
        }
        for (auto& [client, upstream] : sessions) client.receive_to_end();
    }
}

void bulk_session(const std::string& address, Listener& backend, std::uint64_t bytes) {
    Socket client = connect_to(address);
    Socket upstream = backend.accept();
    const std::string block(1024 * 1024, 'x');
    // They run on threads of their own, which no exception may leave.
    const auto send = [&](Socket& socket) {
        try {
            for (std::uint64_t sent = 0; sent < bytes; sent += block.size()) socket.send_all(block);
            socket.shutdown_write();
        } catch (const std::runtime_error& error) {
            FAIL_CHECK(error.what());
        }
    };
    const auto receive = [&](Socket& socket) {
        std::uint64_t received = 0;
        try {
            for (std::size_t size = 1; size > 0; received += size)
                size = socket.receive_some(block.size()).size();
        } catch (const std::runtime_error& error) {
            FAIL_CHECK(error.what());
        }
        CHECK(received == bytes);
    };
    std::thread uploading(send, std::ref(client));
    std::thread downloading(send, std::ref(upstream));
    std::thread downloaded(receive, std::ref(client));
    receive(upstream);
    uploading.join();
    downloading.join();
    downloaded.join();
}

void run_load(const std::string& address, Listener& backend, Load load) {
    small_sessions(address, backend, load.sessions);
    bulk_session(address, backend, load.bytes);
}

// A relay on two workers before this backend, on a free port.
std::unique_ptr<Relay> relay_to(const Listener& backend, RelayCase here) {
    auto settings = std::make_shared<config::Config>();
    settings->workers = 2;
    settings->engine = here.engine == Engine::epoll ? config::Engine::epoll : config::Engine::io_uring;
    config::Listener listener;
    listener.name = "front";
    listener.pool = "back";
    listener.bind.push_back(parse_endpoint("127.0.0.1:0").value());
    settings->listeners.push_back(listener);
    config::Pool pool;
    pool.name = "back";
    pool.backends.push_back({"only", parse_endpoint(backend.address()).value(), {}});
    settings->pools.push_back(pool);

    std::unique_ptr<Relay> relay = Relay::open(settings).value();
    REQUIRE(relay->start().has_value());
    CHECK(relay->engine() == std::string(to_string(here.engine)));
    return relay;
}

std::string address_of(const Relay& relay) {
    return "127.0.0.1:" + std::to_string(relay.addresses().front().port());
}

ENGINE_TEST("10,000 sessions and 1 GiB allocate nothing on the workers") {
    Listener backend;
    const std::unique_ptr<Relay> owner = relay_to(backend, here);
    Relay& relay = *owner;
    const std::string address = address_of(relay);
    const RecordReader reader(relay.records());

    run_load(address, backend, {1000, 64 * 1024 * 1024});
    const auto no_session_left = [&] { return relay.counters().sessions_now == 0; };
    REQUIRE(wait_until(no_session_left));
    worker_allocations = worker_releases = 0;
    counting = true;
    run_load(address, backend, sanitized ? Load{2000, 64 * 1024 * 1024} : Load{10'000, 512 * 1024 * 1024});
    CHECK(wait_until(no_session_left));
    counting = false;
    CHECK(worker_allocations == 0);
    CHECK(worker_releases == 0);
    std::printf("allocations %s: %llu on the workers\n", to_string(here.engine),
                static_cast<unsigned long long>(worker_allocations.load()));
    const RelayCounters counters = relay.counters();
    CHECK(counters.spliced_bytes > 0);
    CHECK(counters.stale_completions == 0);
    relay.drain(Clock::now() + std::chrono::seconds(10));
    CHECK(relay.wait_until_idle(Clock::now() + std::chrono::seconds(10)));
}

// The bytes of a slow reader leave the scratch memory for a block. To a unix backend, because that is copied.
ENGINE_TEST("without memory for a slow reader's bytes its session ends as exhausted, and no other") {
    const TemporaryFolder folder;
    Listener backend("unix:" + folder.file("backend"));
    const std::unique_ptr<Relay> relay = relay_to(backend, here);
    RecordReader reader(relay->records());
    Socket other = connect_to(address_of(*relay));
    Socket other_upstream = backend.accept();
    Socket client = connect_to(address_of(*relay));
    Socket upstream = backend.accept();
    refusing = true;
    bool reset = false;
    try {
        client.send_until_full(64 * 1024 * 1024);
        reset = client.receive_to_end().ending == Ending::reset;
    } catch (const std::runtime_error&) {
        reset = true;  // before the way was full: a send was the one to be told
    }
    CHECK(reset);
    refusing = false;
    other.send_all("still there");
    CHECK(other_upstream.receive_exactly(11) == "still there");
    CHECK(relay->counters().ends[static_cast<std::size_t>(End::exhausted)] == 1);
    const SessionRecord record = reader.stop();
    CHECK(record.end == End::exhausted);
    CHECK(record.error == ENOMEM);
}

// A test that cannot fail is worth nothing: the counter sees an allocation on a thread of a worker's name.
TEST_CASE("an allocation on a worker is seen") {
    counting = true;
    worker_allocations = 0;
    std::thread worker([] {
        ::pthread_setname_np(::pthread_self(), "sluice-worker7");
        const std::unique_ptr<int> seen(new int(1));
        CHECK(*seen == 1);
    });
    worker.join();
    counting = false;
    CHECK(worker_allocations >= 1);
}

}  // namespace
}  // namespace sluice::test

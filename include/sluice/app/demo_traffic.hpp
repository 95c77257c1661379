#pragma once

#include "sluice/app/demo_payload.hpp"
#include "sluice/app/latencies.hpp"
#include "sluice/net/address.hpp"

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace sluice {

// The demo's clients, a thread for each. They work until stop(), which lets every stream end in order and
// joins them; what went wrong on the way is in failures().
class DemoTraffic {
  public:
    // REQUIRES: payload outlives it
    explicit DemoTraffic(const DemoPayload& payload) : payload_(payload) {}
    ~DemoTraffic() { stop(); }
    DemoTraffic(const DemoTraffic&) = delete;
    DemoTraffic& operator=(const DemoTraffic&) = delete;

    void start_downloads(const SocketAddress& source, std::size_t count);
    void start_uploads(const SocketAddress& sink, std::size_t count);
    void start_round_trips(const SocketAddress& echo, std::size_t count);
    void stop();

    std::uint64_t downloaded() const noexcept { return downloaded_.load(); }
    std::uint64_t uploaded() const noexcept { return uploaded_.load(); }  // sent, of streams that ended
    std::uint64_t round_trips() const noexcept { return round_trips_.load(); }

    // REQUIRES: after stop()
    const std::vector<std::string>& failures() const noexcept { return failures_; }
    const Latencies& latencies() const noexcept { return latencies_; }

  private:
    void start(std::size_t count, const SocketAddress& address, void (DemoTraffic::*work)(int socket));
    void download(int socket);
    void upload(int socket);
    void exchange(int socket);
    void fail(std::string what);

    const DemoPayload& payload_;
    std::atomic<bool> stopping_{false};
    std::vector<std::thread> threads_;
    std::atomic<std::uint64_t> downloaded_{0};
    std::atomic<std::uint64_t> uploaded_{0};
    std::atomic<std::uint64_t> round_trips_{0};
    std::mutex mutex_;
    std::vector<std::string> failures_;  // under mutex_ while threads run
    Latencies latencies_;                // likewise
};

}  // namespace sluice

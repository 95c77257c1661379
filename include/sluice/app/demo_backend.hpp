#pragma once

#include "sluice/app/demo_payload.hpp"
#include "sluice/net/owned_fd.hpp"

#include <atomic>
#include <cstdint>
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace sluice {

inline constexpr std::size_t demo_message_bytes = 64;

// No socket of the demo waits longer than this: whatever fails, it ends.
inline constexpr int demo_patience_s = 10;
void set_demo_patience(int socket) noexcept;

// Receives exactly so many bytes; false at an end (errno 0) or error before that.
bool receive_exactly(int socket, void* bytes, std::size_t count) noexcept;

// The demo's backend, with threads of its own, on three ports of 127.0.0.1:
//   source: sends the payload until the client says FIN, then FIN
//   sink:   takes the payload until the client says FIN, then answers the number of bytes (8 bytes) and FIN
//   echo:   sends each message of 64 bytes back
class DemoBackend {
  public:
    // REQUIRES: payload outlives it
    static std::expected<std::unique_ptr<DemoBackend>, std::string> start(const DemoPayload& payload);

    // Stops accepting, and joins all threads. REQUIRES: the clients are gone
    ~DemoBackend();
    DemoBackend(const DemoBackend&) = delete;
    DemoBackend& operator=(const DemoBackend&) = delete;

    std::uint16_t source_port() const noexcept { return services_[0].port; }
    std::uint16_t sink_port() const noexcept { return services_[1].port; }
    std::uint16_t echo_port() const noexcept { return services_[2].port; }

    std::uint64_t sent() const noexcept { return sent_.load(); }          // by source, to clients that ended
    std::uint64_t received() const noexcept { return received_.load(); }  // by sink, until now
    bool intact() const noexcept { return intact_.load(); }               // what sink compared

  private:
    using Serve = void (DemoBackend::*)(int socket);
    struct Service {
        Serve serve = nullptr;
        OwnedFd listening;
        std::uint16_t port = 0;
        std::thread thread;
    };

    explicit DemoBackend(const DemoPayload& payload) : payload_(payload) {}
    std::string listen();  // empty, or what failed
    void accept(Service& service);
    void serve_source(int socket);
    void serve_sink(int socket);
    void serve_echo(int socket);

    const DemoPayload& payload_;
    std::vector<Service> services_;
    std::mutex mutex_;
    std::vector<std::thread> sessions_;  // under mutex_
    std::atomic<std::uint64_t> sent_{0};
    std::atomic<std::uint64_t> received_{0};
    std::atomic<bool> intact_{true};
};

}  // namespace sluice

#pragma once

// Datagrams as a client or a backend sees them. Like sockets.hpp, it uses none of the code under test; what
// cannot be done throws std::runtime_error.

#include "tests/support/waiting.hpp"

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace sluice::test {

struct Datagram {
    std::string bytes;
    std::string sender;  // as DatagramSocket::address(); empty: nameless
};

// One datagram socket, non-blocking and close-on-exec; each call waits with a deadline.
class DatagramSocket {
  public:
    // "127.0.0.1:0", "[::1]:0", "unix-dgram:/path", "unix-dgram:@name", "unix-dgram:" (nameless); port 0 =
    // any free one. `receive_buffer`: SO_RCVBUF, beyond rmem_max where we may; 0 = the system's.
    explicit DatagramSocket(const std::string& address = "127.0.0.1:0", int receive_buffer = 8 << 20);
    ~DatagramSocket();
    DatagramSocket(DatagramSocket&& other) noexcept
        : descriptor_(std::exchange(other.descriptor_, -1)), address_(std::move(other.address_)) {}
    DatagramSocket& operator=(DatagramSocket&&) = delete;

    int descriptor() const { return descriptor_; }
    // In the grammar of the constructor, with the port that was given.
    const std::string& address() const { return address_; }

    // From now on only this peer is talked to, and ICMP errors are told.
    void connect(const std::string& peer);
    // Waits while the queue is full; throws on errors.
    void send(std::string_view bytes, Milliseconds deadline = patience);
    void send_to(const std::string& target, std::string_view bytes, Milliseconds deadline = patience);
    // The errno of one try; 0 = taken.
    int try_send_to(const std::string& target, std::string_view bytes);

    // The next one; nothing if there is none before the deadline.
    std::optional<Datagram> receive(Milliseconds deadline = patience);
    // The same, where there must be one.
    Datagram expect(Milliseconds deadline = patience);
    bool silent(Milliseconds duration = glance);
    void close();

  private:
    int descriptor_ = -1;
    std::string address_;
};

// A UDP port that was free a moment ago, on every address.
std::uint16_t free_udp_port();
// One that TCP did not have either.
std::uint16_t free_port_of_both();

}  // namespace sluice::test

#pragma once

// A small vocabulary for talking to the relay from both of its ends. It uses none of the code under test.
// What cannot be done throws std::runtime_error, which doctest reports as the failure of the test case.

#include "tests/support/waiting.hpp"

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <utility>

namespace sluice::test {

// How a stream was seen to end.
enum class Ending {
    fin,      // an orderly end: recv answered 0
    reset,    // ECONNRESET, or on a unix socket the peer closed with unread bytes
    timeout,  // nothing came, and no end, until the deadline
};
const char* to_string(Ending ending);
std::ostream& operator<<(std::ostream& stream, Ending ending);  // for doctest's messages

struct Received {
    std::string bytes;
    Ending ending = Ending::timeout;
};

// Sizes for SO_RCVBUF and SO_SNDBUF, set before connect or listen so that the window is small from the start;
// 0 leaves what the system gives.
struct Buffers {
    int receive = 0;
    int send = 0;
};

// One end of a connection. Non-blocking and close-on-exec; each call waits with a deadline.
class Socket {
  public:
    Socket() = default;
    explicit Socket(int descriptor) : descriptor_(descriptor) {}  // owns it from now on
    ~Socket() { close(); }
    Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
    Socket& operator=(Socket&& other) noexcept;

    int descriptor() const { return descriptor_; }
    bool open() const { return descriptor_ >= 0; }
    int release() { return std::exchange(descriptor_, -1); }

    // Sends every byte, or throws: on an error, or at the deadline.
    void send_all(std::string_view bytes, Milliseconds deadline = patience);
    // What the kernel takes now without waiting: 0 when its buffer is full. Throws on an error.
    std::size_t send_some(std::string_view bytes);
    // Sends until the kernel takes no more for a glance: the whole way to a reader who does not read is full.
    // Returns how many bytes that took; they are those of `pattern(size, 0)`.
    std::size_t send_until_full(std::size_t limit);

    // Exactly so many bytes; throws when the stream ends or the deadline comes first.
    std::string receive_exactly(std::size_t size, Milliseconds deadline = patience);
    // What is there, at most `limit`; waits for the first byte; empty at the end of the stream.
    std::string receive_some(std::size_t limit, Milliseconds deadline = patience);
    // Everything until the stream ends; the deadline is for each wait, not for the whole.
    Received receive_to_end(Milliseconds deadline = patience);
    // True when neither a byte nor an end arrives during the glance.
    bool silent(Milliseconds duration = glance) const;

    void shutdown_write();  // our FIN
    void reset();           // SO_LINGER {1, 0} and close: a RST on TCP
    void close();           // an orderly close, unless unread bytes make the kernel send a RST

    void set_buffers(Buffers buffers);
    std::string local_address() const;
    std::string peer_address() const;

  private:
    int descriptor_ = -1;
};

class Listener {
  public:
    // `address`: "127.0.0.1:0", "[::1]:0", "unix:/path", "unix:@name", "unix-seqpacket:/path"; port 0 = any
    // free one.
    explicit Listener(const std::string& address = "127.0.0.1:0", Buffers buffers = {}, int backlog = 4096);

    // In the grammar of the configuration, with the port that was given.
    const std::string& address() const { return address_; }
    std::uint16_t port() const { return port_; }
    int descriptor() const { return socket_.descriptor(); }

    Socket accept(Milliseconds deadline = patience);
    // True when somebody is waiting to be accepted before the deadline.
    bool waiting(Milliseconds deadline = Milliseconds(0)) const;
    void close() { socket_.close(); }

  private:
    Socket socket_;
    std::string address_;
    std::uint16_t port_ = 0;
};

// Connects, or throws; to an address as Listener::address() gives it.
Socket connect_to(const std::string& address, Buffers buffers = {}, Milliseconds deadline = patience);
// The errno that connecting ended with; 0 = it worked.
int try_connect(const std::string& address, Milliseconds deadline = patience);

// Two connected TCP sockets on loopback, and two connected unix stream sockets.
std::pair<Socket, Socket> tcp_pair(Buffers buffers = {});
std::pair<Socket, Socket> unix_pair(int type = SOCK_STREAM);

// A port on 127.0.0.1 (and on [::1]) that was free a moment ago.
std::uint16_t free_port();
bool ipv6_available();

// Bytes in which a hole, a repetition or a swap shows: equal arguments give equal bytes.
std::string pattern(std::size_t size, std::uint64_t seed);

}  // namespace sluice::test

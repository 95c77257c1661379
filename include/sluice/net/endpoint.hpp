#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

namespace sluice {

// How bytes go to an endpoint: only two of the same transport can be relayed to each other (and a file to a
// stream).
enum class Transport {
    stream,     // tcp, unix
    seqpacket,  // unix-seqpacket: connections that keep the boundaries of messages
    datagram,   // udp, unix-dgram: messages without a connection
    file,       // a file that is read or written, and never listens
};

// A parsed address: where a listener binds or a backend is dialled. Plain text inside: making a socket
// address of it (and resolving a name) is work for others, so that reading a configuration touches no
// network.
struct Endpoint {
    enum class Kind {
        tcp,             // host and port
        udp,             // likewise
        unix_stream,     // path
        unix_seqpacket,  // path
        unix_dgram,      // path
        file,            // path
    };

    Kind kind = Kind::tcp;

    // tcp and udp only: an IPv4 or IPv6 address in its canonical form without brackets, or a DNS name in
    // lower case. Empty = every interface, IPv4 and IPv6; only a listener can mean that.
    std::string host;
    // tcp and udp only. 0 = the kernel picks one; only a listener can mean that.
    std::uint16_t port = 0;
    // The last port of a range that begins with `port`; 0 = that one port.
    std::uint16_t port_last = 0;
    // unix and file: a path in the file system; unix also `@name` for the abstract namespace.
    std::string path;
    // file only: `?append` takes what comes and puts it at the end, `?create` makes the file where it is
    // missing (and implies to take). Without either the file is served.
    bool append = false;
    bool create = false;

    [[nodiscard]] Transport transport() const;
    // Has a host and a port.
    [[nodiscard]] bool is_internet() const { return kind == Kind::tcp || kind == Kind::udp; }
    // A host that DNS must resolve before it can be dialled.
    [[nodiscard]] bool is_name() const;
    [[nodiscard]] bool is_unix() const;
    // A unix name that exists in the abstract namespace and not in the file system.
    [[nodiscard]] bool is_abstract() const;
    // How many ports it stands for: 1, but for a range.
    [[nodiscard]] std::uint32_t ports() const { return port_last == 0 ? 1U : port_last - port + 1U; }
    // A file that takes bytes instead of giving them.
    [[nodiscard]] bool is_sink() const { return kind == Kind::file && (append || create); }

    bool operator==(const Endpoint&) const = default;
};

// sun_path holds 108 bytes. A path ends with a NUL there and an abstract name begins with one (written `@`
// here), so either way the text has room for 107.
inline constexpr std::size_t unix_path_bytes_max = 107;

// Reads `host:port`, `[v6]:port`, `:port` (each also after `tcp://` or `udp://`, and each with a range
// `first-last` for the port), `unix:`, `unix-seqpacket:` and `unix-dgram:` before `/path` or `@name`, and
// `file:/path` with `?append`, `?create` or `?append&create`.
// Whether an empty host or port 0 makes sense is for the caller to say. The error says what is wrong with the
// text and what to write instead, but not where it stood.
[[nodiscard]] std::expected<Endpoint, std::string> parse_endpoint(std::string_view text);

// The text that parse_endpoint() reads back to an equal endpoint.
[[nodiscard]] std::string to_string(const Endpoint& endpoint);

// Whether binding one surely takes clients from the other: the same address (or a port of both ranges), or
// `:80` beside `0.0.0.0:80`. Port 0 overlaps nothing. With SO_REUSEPORT the kernel would not complain: it
// would share the clients out.
[[nodiscard]] bool binds_overlap(const Endpoint& one, const Endpoint& other);

}  // namespace sluice

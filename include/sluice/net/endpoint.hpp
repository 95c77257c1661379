#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

namespace sluice {

// A parsed address: where a listener binds or a backend is dialled. Plain text inside: making a socket
// address of it (and resolving a name) is work for others, so that reading a configuration touches no
// network.
struct Endpoint {
    enum class Kind {
        tcp,          // host and port
        unix_stream,  // path
    };

    Kind kind = Kind::tcp;

    // tcp only: an IPv4 or IPv6 address in its canonical form without brackets, or a DNS name in lower case.
    // Empty = every interface, IPv4 and IPv6; only a listener can mean that.
    std::string host;
    // tcp only. 0 = the kernel picks one; only a listener can mean that.
    std::uint16_t port = 0;
    // unix_stream only: a path in the file system, or `@name` for the abstract namespace.
    std::string path;

    // A tcp host that DNS must resolve before it can be dialled.
    [[nodiscard]] bool is_name() const;
    // A unix name that exists in the abstract namespace and not in the file system.
    [[nodiscard]] bool is_abstract() const;

    bool operator==(const Endpoint&) const = default;
};

// sun_path holds 108 bytes. A path ends with a NUL there and an abstract name begins with one (written `@`
// here), so either way the text has room for 107.
inline constexpr std::size_t unix_path_bytes_max = 107;

// Reads `host:port`, `[v6]:port`, `:port` (each also after `tcp://`), `unix:/path` and `unix:@name`.
// Whether an empty host or port 0 makes sense is for the caller to say. The error says what is wrong with the
// text and what to write instead, but not where it stood.
[[nodiscard]] std::expected<Endpoint, std::string> parse_endpoint(std::string_view text);

// The text that parse_endpoint() reads back to an equal endpoint.
[[nodiscard]] std::string to_string(const Endpoint& endpoint);

// Whether binding one surely takes connections from the other: the same address, or `:80` beside
// `0.0.0.0:80`. Port 0 overlaps nothing. With SO_REUSEPORT the kernel would not complain: it would share the
// clients out.
[[nodiscard]] bool binds_overlap(const Endpoint& one, const Endpoint& other);

}  // namespace sluice

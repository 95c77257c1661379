#include "sluice/net/endpoint.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <optional>

namespace sluice {
namespace {

using Result = std::expected<Endpoint, std::string>;

struct Scheme {
    std::string_view text;
    Endpoint::Kind kind;
};
constexpr std::array schemes = {
    Scheme{"tcp://", Endpoint::Kind::tcp},
    Scheme{"udp://", Endpoint::Kind::udp},
    Scheme{"unix:", Endpoint::Kind::unix_stream},
    Scheme{"unix-seqpacket:", Endpoint::Kind::unix_seqpacket},
    Scheme{"unix-dgram:", Endpoint::Kind::unix_dgram},
    Scheme{"file:", Endpoint::Kind::file},
};

std::string_view scheme_of(Endpoint::Kind kind) {
    return std::ranges::find(schemes, kind, &Scheme::kind)->text;
}

bool is_digit(char letter) {
    return letter >= '0' && letter <= '9';
}
bool is_letter(char letter) {
    return (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z');
}

// inet_pton and back: one spelling for each address, so that equal addresses are equal texts.
std::optional<std::string> canonical_address(int family, const std::string& text) {
    // inet_pton would stop at a NUL and believe the rest away.
    if (text.find('\0') != std::string::npos) return std::nullopt;
    in6_addr address{};  // room enough for both families
    std::array<char, INET6_ADDRSTRLEN> canonical{};
    if (inet_pton(family, text.c_str(), &address) != 1) return std::nullopt;
    if (inet_ntop(family, &address, canonical.data(), canonical.size()) == nullptr) return std::nullopt;
    return std::string(canonical.data());
}

// RFC 1123, and the underscore that container platforms put into names of services.
// Returns what is wrong, empty = nothing. REQUIRES: host is not empty.
std::string_view host_name_fault(std::string_view host) {
    // One dot at the end makes a name absolute: the resolver then tries no search domains.
    if (host.ends_with('.')) host.remove_suffix(1);
    if (host.size() > 253) return "it is longer than 253 characters";

    std::string_view rest = host;
    while (true) {
        const std::size_t dot = rest.find('.');
        const std::string_view label = rest.substr(0, dot);
        if (label.empty()) return "a part between its dots is empty";
        if (label.size() > 63) return "a part between its dots is longer than 63 characters";
        if (label.front() == '-' || label.back() == '-') return "a part begins or ends with a hyphen";
        const bool clean = std::ranges::all_of(label, [](char letter) {
            return is_digit(letter) || is_letter(letter) || letter == '-' || letter == '_';
        });
        if (!clean) return "only letters, digits, hyphens, underscores and dots are allowed";
        if (dot == std::string_view::npos) {
            // No top-level domain is a number, so `10.0.0.256` and `127.1` are addresses gone wrong.
            if (std::ranges::all_of(label, is_digit)) return "it looks like an IPv4 address, but is none";
            return {};
        }
        rest.remove_prefix(dot + 1);
    }
}

std::expected<std::uint16_t, std::string> parse_port(std::string_view text, std::string_view whole) {
    if (text.empty())
        return std::unexpected(fmt::format("the address \"{}\" has no port after the colon", whole));
    std::uint32_t port = 0;
    for (const char letter : text) {
        if (!is_digit(letter)) return std::unexpected(fmt::format("\"{}\" is not a port number", text));
        if (port <= 65535) port = port * 10 + static_cast<std::uint32_t>(letter - '0');
    }
    if (port > 65535) return std::unexpected(fmt::format("the port {} is out of range (0 to 65535)", text));
    return static_cast<std::uint16_t>(port);
}

// `443`, or `10000-10099`. Returns what is wrong, empty = nothing.
std::string parse_ports(std::string_view text, std::string_view whole, Endpoint& endpoint) {
    const std::size_t dash = text.find('-');
    if (text.starts_with('-') || text.ends_with('-'))
        return fmt::format("\"{}\" is not a port number, nor a range FIRST-LAST", text);
    const auto first = parse_port(text.substr(0, dash), whole);
    if (!first) return first.error();
    endpoint.port = *first;
    if (dash == std::string_view::npos) return {};
    const auto last = parse_port(text.substr(dash + 1), whole);
    if (!last) return last.error();
    if (*first == 0) return fmt::format("the port range {} begins with 0, which is no port", text);
    if (*last < *first)
        return fmt::format("the port range {} ends before it begins (write {}-{})", text, *last, *first);
    // A range of one port is that port, so that equal endpoints are equal.
    if (*last > *first) endpoint.port_last = *last;
    return {};
}

Result parse_internet(Endpoint::Kind kind, std::string_view text, std::string_view whole) {
    Endpoint endpoint;
    endpoint.kind = kind;
    std::string_view port;

    if (text.starts_with('[')) {
        const std::size_t close = text.find(']');
        if (close == std::string_view::npos)
            return std::unexpected(fmt::format("the address \"{}\" has no closing bracket", whole));
        const std::string host(text.substr(1, close - 1));
        if (host.find('%') != std::string::npos)
            return std::unexpected(
                fmt::format("the address \"{}\" has a zone, which this build does not support", whole));
        const auto address = canonical_address(AF_INET6, host);
        if (!address) return std::unexpected(fmt::format("\"{}\" is not an IPv6 address", host));
        const std::string_view rest = text.substr(close + 1);
        if (!rest.starts_with(':'))
            return std::unexpected(
                fmt::format("the address \"{}\" has no port (write [{}]:PORT)", whole, host));
        endpoint.host = *address;
        port = rest.substr(1);
    } else {
        const std::size_t colon = text.rfind(':');
        if (colon == std::string_view::npos)
            return std::unexpected(
                fmt::format("the address \"{0}\" has no port (write {0}:PORT, or unix:/path "
                            "for a unix socket)",
                            whole));
        const std::string host(text.substr(0, colon));
        if (host.find(':') != std::string::npos) {
            // With brackets left out, the last group of an IPv6 address reads like a port.
            if (canonical_address(AF_INET6, std::string(text)) || canonical_address(AF_INET6, host))
                return std::unexpected(
                    fmt::format("the IPv6 address in \"{}\" needs brackets (write [::1]:PORT)", whole));
            return std::unexpected(fmt::format("the address \"{}\" has more than one colon", whole));
        }
        if (const auto address = canonical_address(AF_INET, host)) {
            endpoint.host = *address;
        } else if (!host.empty()) {
            const std::string_view fault = host_name_fault(host);
            if (!fault.empty())
                return std::unexpected(fmt::format("\"{}\" is not a valid host: {}", host, fault));
            endpoint.host = host;
            for (char& letter : endpoint.host)
                if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
        }
        port = text.substr(colon + 1);
    }

    if (std::string fault = parse_ports(port, whole, endpoint); !fault.empty()) return std::unexpected(fault);
    return endpoint;
}

Result parse_unix(Endpoint::Kind kind, std::string_view path, std::string_view whole) {
    const std::string_view name = path.starts_with('@') ? path.substr(1) : path;
    if (path != name) {
        if (name.empty()) return std::unexpected(fmt::format("the abstract name in \"{}\" is empty", whole));
    } else if (!path.starts_with('/')) {
        // Relative to what, after a restart by another hand?
        return std::unexpected(
            fmt::format("the unix path in \"{}\" is not absolute (write {}/path or {}@name)", whole,
                        scheme_of(kind), scheme_of(kind)));
    } else if (path.ends_with('/')) {
        return std::unexpected(fmt::format("the unix path in \"{}\" names a directory", whole));
    }
    if (path.size() > unix_path_bytes_max)
        return std::unexpected(fmt::format("the unix path in \"{}\" is {} bytes long (at most {})", whole,
                                           path.size(), unix_path_bytes_max));
    Endpoint endpoint;
    endpoint.kind = kind;
    endpoint.path = path;
    return endpoint;
}

Result parse_file(std::string_view text, std::string_view whole) {
    Endpoint endpoint;
    endpoint.kind = Endpoint::Kind::file;
    const std::size_t question = text.find('?');
    endpoint.path = text.substr(0, question);
    if (!endpoint.path.starts_with('/'))
        return std::unexpected(
            fmt::format("the file's path in \"{}\" is not absolute (write file:/path)", whole));
    if (endpoint.path.ends_with('/'))
        return std::unexpected(fmt::format("the path in \"{}\" names a directory", whole));
    if (question == std::string_view::npos) return endpoint;
    std::string_view rest = text.substr(question + 1);
    while (true) {
        const std::size_t end = rest.find('&');
        const std::string_view word = rest.substr(0, end);
        if (word == "append")
            endpoint.append = true;
        else if (word == "create")
            endpoint.create = true;
        else
            return std::unexpected(
                fmt::format("\"{}\" in \"{}\" is unknown (a file takes ?append, ?create or ?append&create)",
                            word, whole));
        if (end == std::string_view::npos) return endpoint;
        rest.remove_prefix(end + 1);
    }
}

}  // namespace

Transport Endpoint::transport() const {
    switch (kind) {
        case Kind::tcp:
        case Kind::unix_stream: return Transport::stream;
        case Kind::unix_seqpacket: return Transport::seqpacket;
        case Kind::udp:
        case Kind::unix_dgram: return Transport::datagram;
        case Kind::file: break;
    }
    return Transport::file;
}

bool Endpoint::is_name() const {
    // parse_internet() lets nothing but IPv6 have a colon, and no name end like an IPv4 address does.
    if (!is_internet() || host.empty() || host.find(':') != std::string::npos) return false;
    return !canonical_address(AF_INET, host);
}

bool Endpoint::is_abstract() const {
    return is_unix() && path.starts_with('@');
}

bool Endpoint::is_unix() const {
    return kind == Kind::unix_stream || kind == Kind::unix_seqpacket || kind == Kind::unix_dgram;
}

Result parse_endpoint(std::string_view text) {
    if (text.empty()) return std::unexpected(std::string("the address is empty"));
    const auto spoils = [](char letter) {
        return static_cast<unsigned char>(letter) <= 0x20 || letter == 0x7f;
    };
    // Blanks in a unix path would be possible, but addresses stand in log lines that are split at blanks.
    if (std::ranges::any_of(text, spoils))
        return std::unexpected(std::string("the address contains blanks or control characters"));

    for (const Scheme& scheme : schemes) {
        if (!text.starts_with(scheme.text)) continue;
        const std::string_view rest = text.substr(scheme.text.size());
        if (scheme.kind == Endpoint::Kind::file) return parse_file(rest, text);
        if (scheme.kind == Endpoint::Kind::tcp || scheme.kind == Endpoint::Kind::udp)
            return parse_internet(scheme.kind, rest, text);
        return parse_unix(scheme.kind, rest, text);
    }
    if (const std::size_t scheme = text.find("://"); scheme != std::string_view::npos)
        return std::unexpected(
            fmt::format("the scheme \"{}\" is unknown (write host:port, tcp://host:port, udp://host:port, "
                        "unix:/path, unix-seqpacket:/path, unix-dgram:/path or file:/path)",
                        text.substr(0, scheme + 3)));
    if (text.starts_with('/') || text.starts_with('@'))
        return std::unexpected(fmt::format("the address \"{0}\" has no kind (write unix:{0})", text));
    return parse_internet(Endpoint::Kind::tcp, text, text);
}

std::string to_string(const Endpoint& endpoint) {
    // tcp is what is meant without a scheme.
    const std::string_view scheme = endpoint.kind == Endpoint::Kind::tcp ? "" : scheme_of(endpoint.kind);
    if (!endpoint.is_internet()) {
        const std::string_view append =
            endpoint.append ? (endpoint.create ? "?append&create" : "?append") : "";
        return fmt::format("{}{}{}", scheme, endpoint.path,
                           endpoint.create && !endpoint.append ? "?create" : append);
    }
    const bool brackets = endpoint.host.find(':') != std::string::npos;
    std::string text = fmt::format("{}{}{}{}:{}", scheme, brackets ? "[" : "", endpoint.host,
                                   brackets ? "]" : "", endpoint.port);
    if (endpoint.port_last != 0) text += fmt::format("-{}", endpoint.port_last);
    return text;
}

bool binds_overlap(const Endpoint& one, const Endpoint& other) {
    // One file, whatever their kinds are; abstract names are counted for each kind of socket.
    if (one.is_unix() && other.is_unix())
        return one.path == other.path && (one.kind == other.kind || !one.is_abstract());
    if (one.kind != other.kind || !one.is_internet()) return false;
    if (one.port == 0 || other.port == 0) return false;
    const auto last = [](const Endpoint& endpoint) { return std::max(endpoint.port, endpoint.port_last); };
    if (one.port > last(other) || other.port > last(one)) return false;
    if (one.host == other.host) return true;
    const auto wildcard = [](const std::string& host) { return host == "0.0.0.0" || host == "::"; };
    return (one.host.empty() && wildcard(other.host)) || (other.host.empty() && wildcard(one.host));
}

}  // namespace sluice

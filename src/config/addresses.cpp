#include "sluice/config/addresses.hpp"

#include "sluice/config/diagnostic.hpp"

#include <fmt/format.h>

namespace sluice::config {

std::expected<Endpoint, std::string> parse_bind(std::string_view text) {
    auto endpoint = parse_endpoint(text);
    if (!endpoint) return endpoint;
    if (endpoint->kind == Endpoint::Kind::file)
        return std::unexpected(
            fmt::format("nobody can connect to the file {}: it can only be a backend", in_quotes(text)));
    constexpr std::string_view mapped = "::ffff:";
    if (endpoint->host.starts_with(mapped) && endpoint->host.find('.') != std::string::npos)
        // bind(2) refuses it on a socket that is for IPv6 only.
        return std::unexpected(fmt::format("cannot bind {}, which is an IPv4 address (write {}:{})",
                                           in_quotes(text), endpoint->host.substr(mapped.size()),
                                           endpoint->port));
    if (!endpoint->is_name()) return endpoint;
    return std::unexpected(
        fmt::format("cannot bind the name {} (write an address, such as 127.0.0.1:{} or :{})",
                    in_quotes(endpoint->host), endpoint->port, endpoint->port));
}

std::expected<Endpoint, std::string> parse_target(std::string_view text) {
    auto endpoint = parse_endpoint(text);
    if (!endpoint || !endpoint->is_internet()) return endpoint;
    if (endpoint->host.empty())
        return std::unexpected(fmt::format("the backend address {} has no host (write HOST:{})",
                                           in_quotes(text), endpoint->port));
    if (endpoint->port == 0)
        return std::unexpected(
            fmt::format("the backend address {} has port 0, which cannot be dialled", in_quotes(text)));
    return endpoint;
}

std::expected<Endpoint, std::string> parse_name_server(std::string_view text) {
    constexpr std::uint16_t dns_port = 53;
    auto endpoint = parse_endpoint(text);
    if (!endpoint) endpoint = parse_endpoint(fmt::format("{}:{}", text, dns_port));
    if (!endpoint) endpoint = parse_endpoint(fmt::format("[{}]:{}", text, dns_port));
    if (!endpoint || endpoint->kind != Endpoint::Kind::tcp || endpoint->host.empty() || endpoint->is_name() ||
        endpoint->port == 0 || text.starts_with("tcp://"))
        return std::unexpected(fmt::format(
            "{} is not the address of a name server (write 10.0.0.53, 10.0.0.53:53 or [2001:db8::53]:53)",
            in_quotes(text)));
    return endpoint;
}

}  // namespace sluice::config

#include "sluice/config/kinds.hpp"

#include "sluice/config/diagnostic.hpp"

#include <fmt/format.h>

namespace sluice::config {
namespace {

const char* described(Transport transport) {
    switch (transport) {
        case Transport::stream: return "a stream (tcp, unix)";
        case Transport::seqpacket: return "sequenced packets (unix-seqpacket)";
        case Transport::datagram: return "datagrams (udp, unix-dgram)";
        case Transport::file: break;
    }
    return "a file";
}

}  // namespace

std::optional<std::string> fault_beside(const Endpoint& first, const Endpoint& other) {
    if (first.transport() == other.transport()) return std::nullopt;
    return fmt::format("{} is {}, but {} beside it is {}: kinds do not mix", in_quotes(to_string(other)),
                       described(other.transport()), in_quotes(to_string(first)),
                       described(first.transport()));
}

std::optional<std::string> fault_towards(const Endpoint& bind, const Endpoint& backend) {
    const bool stream_to_file =
        bind.transport() == Transport::stream && backend.transport() == Transport::file;
    if (bind.transport() != backend.transport() && !stream_to_file)
        return fmt::format("{} is {} and cannot be relayed to {}, which is {}", in_quotes(to_string(bind)),
                           described(bind.transport()), in_quotes(to_string(backend)),
                           described(backend.transport()));
    if (backend.ports() > 1 && backend.ports() != bind.ports())
        return fmt::format(
            "{} has {} port{}, but the backend {} has {}: a range goes to a range of the same size, or to "
            "one port",
            in_quotes(to_string(bind)), bind.ports(), bind.ports() == 1 ? "" : "s",
            in_quotes(to_string(backend)), backend.ports());
    return std::nullopt;
}

}  // namespace sluice::config

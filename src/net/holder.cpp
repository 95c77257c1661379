#include "sluice/net/holder.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>

namespace sluice {

namespace {

namespace fs = std::filesystem;

// In column 4 of the tables of sockets: listening for TCP, not connected for UDP.
constexpr std::string_view tcp_listens = "0A";
constexpr std::string_view udp_unconnected = "07";

// Inodes of the sockets in this state on this port, whatever the address (proc_net_tcp: column 2 is the local
// address in hex, column 10 the inode).
void collect_inodes(const char* table, std::string_view wanted_state, std::uint16_t port,
                    std::set<std::string>& inodes) {
    std::ifstream file(table);
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) {
        std::istringstream words(line);
        std::string index, local, remote, state, queues, timer, retransmits, uid, timeout, inode;
        words >> index >> local >> remote >> state >> queues >> timer >> retransmits >> uid >> timeout >>
            inode;
        const auto colon = local.rfind(':');
        if (state != wanted_state || colon == std::string::npos) continue;
        unsigned number = 0;
        std::from_chars(local.data() + colon + 1, local.data() + local.size(), number, 16);
        if (number == port) inodes.insert(inode);
    }
}

// Column 7 is the inode, column 8 the path, with '@' for the zero byte of abstract names.
void collect_unix_inodes(std::string_view path, std::set<std::string>& inodes) {
    std::ifstream file("/proc/net/unix");
    std::string line;
    std::getline(file, line);
    while (std::getline(file, line)) {
        std::istringstream words(line);
        std::string number, references, protocol, flags, type, state, inode, name;
        words >> number >> references >> protocol >> flags >> type >> state >> inode >> name;
        if (name == path) inodes.insert(inode);
    }
}

std::string command_of(const fs::path& process) {
    std::ifstream file(process / "comm");
    std::string name;
    std::getline(file, name);
    return name;
}

std::optional<std::string> process_with(const std::set<std::string>& inodes) {
    std::error_code ignored;
    for (const auto& process : fs::directory_iterator("/proc", ignored)) {
        const std::string pid = process.path().filename();
        if (pid.empty() || pid.find_first_not_of("0123456789") != std::string::npos) continue;
        std::error_code denied;
        for (const auto& entry : fs::directory_iterator(process.path() / "fd", denied)) {
            const std::string link = fs::read_symlink(entry.path(), denied).string();
            if (!link.starts_with("socket:[")) continue;
            if (inodes.contains(link.substr(8, link.size() - 9)))
                return fmt::format("pid {} ({})", pid, command_of(process.path()));
        }
    }
    return std::nullopt;
}

}  // namespace

std::optional<std::string> find_holder(const SocketAddress& address) {
    std::set<std::string> inodes;
    if (address.family() == AF_UNIX) {
        collect_unix_inodes(to_string(address).substr(sizeof("unix:") - 1), inodes);
    } else {
        collect_inodes("/proc/net/tcp", tcp_listens, address.port(), inodes);
        collect_inodes("/proc/net/tcp6", tcp_listens, address.port(), inodes);
    }
    if (inodes.empty()) return std::nullopt;
    return process_with(inodes);
}

std::optional<std::string> find_datagram_holder(const SocketAddress& address) {
    std::set<std::string> inodes;
    collect_inodes("/proc/net/udp", udp_unconnected, address.port(), inodes);
    collect_inodes("/proc/net/udp6", udp_unconnected, address.port(), inodes);
    if (inodes.empty()) return std::nullopt;
    return process_with(inodes);
}

std::string describe_datagram_holder(const SocketAddress& address) {
    if (const auto holder = find_datagram_holder(address)) return *holder;
    return fmt::format("another process (as root, `ss -uanp 'sport = :{}'` names it)", address.port());
}

std::string describe_holder(const SocketAddress& address) {
    if (const auto holder = find_holder(address)) return *holder;
    if (address.family() == AF_UNIX) return "another process (as root, `ss -xlp` names it)";
    return fmt::format("another process (as root, `ss -tanp 'sport = :{}'` names it)", address.port());
}

}  // namespace sluice

#pragma once

// What kinds of descriptors a process holds, as /proc tells it.

#include <sys/types.h>

#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>

namespace sluice::test {

struct Descriptors {
    std::size_t sockets = 0;
    std::size_t pipes = 0;  // ends: a pipe has two
    std::size_t rings = 0;  // io_uring instances
    std::size_t others = 0;
};

inline Descriptors descriptors_of(pid_t pid) {
    Descriptors result;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
        std::error_code gone;  // it may be closed while we look
        const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
        if (gone) continue;
        if (target.starts_with("socket:"))
            ++result.sockets;
        else if (target.starts_with("pipe:"))
            ++result.pipes;
        else if (target.contains("io_uring"))
            ++result.rings;
        else
            ++result.others;
    }
    return result;
}

}  // namespace sluice::test

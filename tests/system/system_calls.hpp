#pragma once

// What the relay asks of the kernel, seen by strace.

#include "tests/support/folder.hpp"
#include "tests/support/process.hpp"

#include <signal.h>

#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace sluice::test {

// How often a running process made some system calls, counted by strace from here to stop().
class SystemCalls {
  public:
    explicit SystemCalls(pid_t pid)
        : strace_({"strace", "-f", "-c", "-e",
                   "trace=read,write,readv,writev,pread64,pwrite64,recvfrom,recvmsg,sendto,sendmsg,splice,"
                   "sendfile",
                   "-o", folder_.file("counts"), "-p", std::to_string(pid)}) {
        attached_ = strace_.wait_for_text("attached");
    }

    // False where tracing is forbidden; why() says it.
    bool attached() const { return attached_; }
    std::string why() const { return strace_.error(); }

    // Lets the process go, and returns the calls by name.
    std::map<std::string, std::uint64_t> stop() {
        strace_.signal(SIGINT);
        strace_.wait();
        std::map<std::string, std::uint64_t> counts;
        std::istringstream table(read_file(folder_.file("counts")));
        // "100.00    0.001234          12       100         3 splice": errors are left out where there are
        // none.
        for (std::string line; std::getline(table, line);) {
            std::istringstream words(line);
            std::vector<std::string> fields;
            for (std::string word; words >> word;) fields.push_back(word);
            if (fields.size() < 5 || fields[0].find_first_not_of("0123456789.") != std::string::npos)
                continue;
            if (fields.back() != "total") counts[fields.back()] = std::stoull(fields[3]);
        }
        return counts;
    }

  private:
    TemporaryFolder folder_;
    Process strace_;
    bool attached_ = false;
};

inline std::string to_string(const std::map<std::string, std::uint64_t>& counts) {
    std::string text;
    for (const auto& [name, count] : counts) text += " " + name + "=" + std::to_string(count);
    return text;
}

}  // namespace sluice::test

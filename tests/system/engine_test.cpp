// Which engine runs, where io_uring is granted and where it is not.

#include "tests/support/doctest.hpp"
#include "tests/support/process.hpp"
#include "tests/support/relay.hpp"
#include "tests/support/sockets.hpp"
#include "tests/system/descriptors.hpp"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>

namespace sluice::test {
namespace {

// From here on io_uring_setup answers with this error, in this process and what it starts: what a container's
// seccomp profile does. By hand, because it runs between fork and exec, where libseccomp may not allocate.
void refuse_io_uring(std::uint32_t error) {
    const std::array<sock_filter, 4> program{{
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    }};
    sock_fprog filter{};
    filter.len = static_cast<unsigned short>(program.size());
    filter.filter = const_cast<sock_filter*>(program.data());
    // Without it only a privileged process may install a filter.
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) ::_exit(125);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) ::_exit(126);
}

RelayOptions without_io_uring(int error) {
    RelayOptions options;
    options.process.before_exec = [error] { refuse_io_uring(static_cast<std::uint32_t>(error)); };
    return options;
}

std::string yaml_for(const std::string& engine, const std::string& listen, const std::string& backend) {
    return "engine: " + engine + "\nlisteners:\n  - bind: \"" + listen + "\"\n    to: \"" + backend + "\"\n";
}

void check_relays(const std::string& address, Listener& backend) {
    Socket client = connect_to(address);
    Socket upstream = backend.accept();
    client.send_all("question");
    CHECK(upstream.receive_exactly(8) == "question");
    upstream.send_all("answer");
    CHECK(client.receive_exactly(6) == "answer");
    client.shutdown_write();
    CHECK(upstream.receive_to_end().ending == Ending::fin);
    upstream.close();
    CHECK(client.receive_to_end().ending == Ending::fin);
}

// The line of the log that names the engine.
std::string engine_line(const std::string& log) {
    for (const char* name : {"engine epoll", "engine io_uring", "engine=", "engine:", "engine "}) {
        const std::size_t at = log.find(name);
        if (at == std::string::npos) continue;
        const std::size_t start = log.rfind('\n', at) + 1;
        return log.substr(start, log.find('\n', at) - start);
    }
    return "";
}

void check_fallback(int error, const std::string& reason) {
    Listener backend;
    const std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay =
        RelayProcess::with_config(yaml_for("auto", listen, backend.address()), without_io_uring(error));
    check_relays(listen, backend);
    CHECK(descriptors_of(relay.pid()).rings == 0);
    const std::string line = engine_line(relay.log());
    INFO("the log's line: " << line);
    CHECK(line.contains("epoll"));
    CHECK(line.contains("io_uring"));
    CHECK(line.contains(reason));
    relay.stop();
}

TEST_CASE("where io_uring is forbidden (EPERM) the relay runs on epoll and says why") {
    check_fallback(EPERM, "not permitted");
}

TEST_CASE("where io_uring is missing (ENOSYS) the relay runs on epoll and says why") {
    check_fallback(ENOSYS, "not implemented");
}

TEST_CASE("a forced io_uring that is not granted ends the start with the reason") {
    for (const int error : {EPERM, ENOSYS}) {
        Listener backend;
        const std::string listen = "127.0.0.1:" + std::to_string(free_port());
        RelayOptions options = without_io_uring(error);
        options.wait_for_ready = false;
        RelayProcess relay =
            RelayProcess::with_config(yaml_for("io_uring", listen, backend.address()), std::move(options));
        relay.expect_exit(1);
        INFO("its log: " << relay.log());
        CHECK(relay.log().contains("io_uring"));
        CHECK(relay.log().contains(error == EPERM ? "not permitted" : "not implemented"));
    }
}

TEST_CASE("a forced epoll makes no ring, even where one is granted") {
    Listener backend;
    const std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay = RelayProcess::with_config(yaml_for("epoll", listen, backend.address()));
    check_relays(listen, backend);
    CHECK(descriptors_of(relay.pid()).rings == 0);
    CHECK(engine_line(relay.log()).contains("epoll"));
}

TEST_CASE("left to itself the relay takes io_uring where it is granted, and says so") {
    if (!engine_available(Engine::io_uring)) SLUICE_SKIP("this system grants no io_uring");
    Listener backend;
    const std::string listen = "127.0.0.1:" + std::to_string(free_port());
    RelayProcess relay = RelayProcess::with_config(yaml_for("auto", listen, backend.address()));
    check_relays(listen, backend);
    CHECK(descriptors_of(relay.pid()).rings > 0);
    CHECK(engine_line(relay.log()).contains("io_uring"));
}

}  // namespace
}  // namespace sluice::test

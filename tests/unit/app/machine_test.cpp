#include "sluice/app/machine.hpp"

#include "sluice/app/check_command.hpp"
#include "sluice/app/doctor_command.hpp"
#include "sluice/config/load.hpp"
#include "sluice/config/print.hpp"

#include "tests/support/doctest.hpp"

#include <nlohmann/json.hpp>
#include <sys/wait.h>
#include <unistd.h>

namespace sluice {
namespace {

TEST_CASE("numbers are read as /proc writes them") {
    CHECK(number_in("4096\n") == 4096);
    CHECK_FALSE(number_in("max").has_value());
    CHECK_FALSE(number_in("").has_value());
    CHECK(two_numbers_in("32768\t60999") == std::pair<std::uint64_t, std::uint64_t>(32768, 60999));
    CHECK_FALSE(two_numbers_in("32768").has_value());
}

TEST_CASE("a kernel release begins with its version") {
    CHECK(kernel_version_in("6.1.0-18-amd64") == std::pair(6U, 1U));
    CHECK(kernel_version_in("5.15") == std::pair(5U, 15U));
    CHECK_FALSE(kernel_version_in("6").has_value());
    CHECK_FALSE(kernel_version_in("").has_value());
}

TEST_CASE("a cgroup's quota is a share of a period, or none") {
    CHECK(cpu_quota_in("150000 100000") == 1.5);
    CHECK_FALSE(cpu_quota_in("max 100000").has_value());
}

TEST_CASE("splice is tried for real") {
    CHECK(try_splice() == "");
}

TEST_CASE("what the doctor says may be had is what was granted when tried") {
    CHECK_FALSE(low_ports_granted(1).has_value());    // there is none below
    CHECK(low_ports_granted(65'535).value_or(true));  // those are everybody's
    const std::string current = first_line_of("/proc/sys/net/ipv4/tcp_congestion_control").value_or("cubic");
    CHECK(congestion_controls_granted("no_such " + current + " nor_such") == current);
    CHECK(congestion_controls_granted("").empty());
}

TEST_CASE("low ports are refused to a user who may not have them") {
    const auto first = number_in_file("/proc/sys/net/ipv4/ip_unprivileged_port_start").value_or(0);
    if (first < 2) SLUICE_SKIP("here every port is everybody's");
    const pid_t child = ::fork();
    if (child == 0) {
        if (::geteuid() == 0 && ::setresuid(65'534, 65'534, 65'534) != 0) ::_exit(3);
        const auto granted = low_ports_granted(static_cast<std::uint16_t>(first));
        ::_exit(granted ? (*granted ? 1 : 0) : 2);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("findings are lines for people and an object for programs") {
    const std::vector<Finding> findings = {{Finding::Mark::good, "epoll", "works", ""},
                                           {Finding::Mark::fail, "descriptors", "3", "raise them"}};
    CHECK(format_findings(findings) ==
          "ok   epoll              works\nFAIL descriptors        3; raise them\n");
    const auto object = nlohmann::json::parse(format_findings_json(findings));
    CHECK(object["works"] == false);
    CHECK(object["findings"][1]["mark"] == "fail");
}

TEST_CASE("the effective configuration is also JSON, with flags and numbers as such") {
    const std::vector<std::string> targets = {"127.0.0.1:1"};
    const auto object = yaml_to_json(config::print(config::forward("127.0.0.1:80", targets).value()));
    CHECK(object["workers"] == "auto");
    CHECK(object["drain_timeout"] == "30s");
    CHECK(object["access_log"]["enabled"] == true);
    CHECK(object["pools"]["forward"]["retries"] == 2);
    CHECK(yaml_to_json("{a: \"1\", b: 1, c: []}").dump() == "{\"a\":\"1\",\"b\":1,\"c\":[]}");
}

}  // namespace
}  // namespace sluice

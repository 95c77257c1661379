#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace sluice {

// What the machine says about itself. Everything here only looks, or tries something and undoes it.

// The first line of a file; nullopt if it cannot be read.
std::optional<std::string> first_line_of(const std::string& path);

// A whole number in a text such as those of /proc/sys; nullopt if there is none.
std::optional<std::uint64_t> number_in(std::string_view text);
std::optional<std::uint64_t> number_in_file(const std::string& path);

// Two numbers with blanks between, such as "32768 60999".
std::optional<std::pair<std::uint64_t, std::uint64_t>> two_numbers_in(std::string_view text);

// Major and minor of a release such as "6.1.0-18-amd64".
std::optional<std::pair<unsigned, unsigned>> kernel_version_in(std::string_view release);

// The CPUs that a cgroup's "cpu.max" grants, such as 1.5 for "150000 100000"; nullopt for "max ...".
std::optional<double> cpu_quota_in(std::string_view cpu_max);
std::optional<double> cpu_quota();

std::size_t cpus_allowed();

// Moves a few bytes from one TCP connection to another through a pipe. Empty if that worked, else what
// failed.
std::string try_splice();

bool ipv6_works();

// Whether this process may bind ports below `first`: tried, because a capability counts for nothing where it
// is one of another user namespace than the network's (rootless containers). nullopt: all that were tried are
// in use.
std::optional<bool> low_ports_granted(std::uint16_t first);

// Of the congestion controls in this text (blanks between), those that a socket of ours may be given.
std::string congestion_controls_granted(std::string_view names);

// A word such as "docker" or "kubernetes"; empty if this seems not to be a container.
std::string container_kind();

}  // namespace sluice

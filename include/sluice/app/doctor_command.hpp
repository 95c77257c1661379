#pragma once

#include <string>
#include <vector>

namespace sluice {

struct DoctorOptions {
    bool json = false;
};

// `sluice doctor`: what this machine grants, and what to do about what it does not. The exit code: 1 if the
// relay cannot work here at all.
int doctor_command(const DoctorOptions& options);

// One thing that was looked at.
struct Finding {
    enum class Mark {
        good,  // as good as it gets
        warn,  // the relay works, but slower or with less than it could have
        fail,  // the relay cannot work
    } mark = Mark::good;
    std::string name;
    std::string found;
    std::string advice;  // what to do; empty if nothing
};

std::vector<Finding> examine_machine();

// The findings as lines for people, or as a JSON object.
std::string format_findings(const std::vector<Finding>& findings);
std::string format_findings_json(const std::vector<Finding>& findings);

}  // namespace sluice

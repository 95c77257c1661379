#pragma once

#include <string>

namespace sluice {

// The system's word for an errno and, where a person can do something about it, what.
std::string explain_errno(int error);

}  // namespace sluice

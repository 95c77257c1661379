#include "sluice/base/errors.hpp"

#include <doctest/doctest.h>

#include <cerrno>

namespace sluice {
namespace {

TEST_CASE("an errno is explained, with what to do where there is something") {
    CHECK(explain_errno(ENOENT) == "No such file or directory");
    CHECK(explain_errno(EMFILE).find("ulimit -n") != std::string::npos);
    CHECK(explain_errno(ENFILE).find("fs.file-max") != std::string::npos);
    CHECK(explain_errno(4095) == "error 4095");
}

}  // namespace
}  // namespace sluice

#include "sluice/base/errors.hpp"

#include <fmt/format.h>
#include <string.h>

#include <cerrno>

namespace sluice {

std::string explain_errno(int error) {
    switch (error) {
        case EMFILE:
            return "no file descriptor left; raise the limit of open files (ulimit -n, LimitNOFILE=)";
        case ENFILE: return "no file descriptor left in the whole system; raise fs.file-max";
        default: break;
    }
    const char* text = ::strerrordesc_np(error);
    return text != nullptr ? text : fmt::format("error {}", error);
}

}  // namespace sluice

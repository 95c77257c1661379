#pragma once

#include "sluice/account/record.hpp"
#include "sluice/config/config.hpp"

#include <string>

namespace sluice {

// A line of the access log, without its line break. At a session's end, as text:
//
//     time listener client -> pool/backend upload=BYTES download=BYTES duration=SECONDSs connect=SECONDSs
//     path=splice|copy|mixed end=REASON why=REASON error="..."
//
// (in one line; `error` only if an errno stands behind the end, `connect=-` if no backend was reached,
// backend
// `-` if none was chosen.) As JSON the same names, all of them always, with numbers of bytes and seconds, and
// null where there is nothing. Accept and connect have `event=accept` or `event=connect` in place of the
// sums.
std::string format_record(const SessionRecord& record, config::Format format);

// The path that a session's bytes took: `splice` if all of them were spliced, `copy` if none was (or there
// were none), else `mixed`.
const char* path_taken(const SessionRecord& record) noexcept;

}  // namespace sluice

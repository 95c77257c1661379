#pragma once

#include "sluice/config/document.hpp"
#include "sluice/config/fields.hpp"

namespace sluice::config {

// Walks a document along the tables of fields.hpp and fills a draft. It goes on after an error, so that all
// of them are found: a value that cannot be read leaves its member at the default. It never descends deeper
// than the tables do, so aliases that contain themselves end like any wrong type. What holds between
// different parts of a file is for assemble.hpp to see.
void read(Document& document, const Value& file, ConfigDraft& draft);

}  // namespace sluice::config

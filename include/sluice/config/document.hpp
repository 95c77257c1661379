#pragma once

#include "sluice/config/source.hpp"

#include <yaml-cpp/yaml.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::config {

// A value of the file, what messages call it, and where they point when it is at fault: at its key when it is
// missing or empty, at the anchor when an alias stands for it.
struct Value {
    YAML::Node node;
    Place place;
    std::string what;  // `"workers"`, `a listener`
};

// A key of a map and its value.
struct Entry {
    std::string key;
    Place key_place;
    Value value;
};

// One YAML document as a tree of values, and the only place that knows how yaml-cpp behaves. Each step down
// checks what it finds and complains about it. May throw what yaml-cpp throws; load_text() catches it.
class Document {
  public:
    // Both must outlive the document.
    Document(const Source& source, Complaints& complaints) : source_(source), complaints_(complaints) {}

    // The whole file as a value, or nothing after a complaint about its syntax.
    [[nodiscard]] std::optional<Value> parse();

    // What a value holds, or nothing after a complaint that says what was expected.
    [[nodiscard]] const std::string* text(const Value& value, std::string_view expected);
    [[nodiscard]] std::optional<std::vector<Value>> items(const Value& list, std::string_view expected,
                                                          std::string_view item_what);
    [[nodiscard]] std::optional<std::vector<Entry>> entries(const Value& map, std::string_view expected);

    void complain(Place place, std::string_view message) { complaints_.add(place, message); }
    [[nodiscard]] Complaints& complaints() { return complaints_; }

  private:
    [[nodiscard]] Place place_of(const YAML::Mark& mark) const;
    [[nodiscard]] bool has_type(const Value& value, YAML::NodeType::value type, std::string_view expected);
    [[nodiscard]] bool may_visit(const Value& value);
    void complain_syntax(const YAML::Exception& error);

    const Source& source_;
    Complaints& complaints_;
    std::size_t visited_ = 0;
};

// The value of a key, or null.
[[nodiscard]] const Value* find(const std::vector<Entry>& entries, std::string_view key);

}  // namespace sluice::config

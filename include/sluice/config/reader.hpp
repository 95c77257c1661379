#pragma once

#include "sluice/config/fields.hpp"
#include "sluice/config/load.hpp"

#include <yaml-cpp/yaml.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::config {

// Walks a parsed YAML document along the tables of fields.hpp and fills a draft. It goes on after an error,
// so that all of them are found: a value that cannot be read leaves its member at the default. It never
// descends deeper than the tables do, so aliases that contain themselves end like any wrong type. May throw
// what yaml-cpp throws; load_text() catches it.
class Reader {
  public:
    explicit Reader(std::string_view file) : file_(file) {}

    void read(const YAML::Node& document, ConfigDraft& draft);

    void complain(Place place, std::string message);
    [[nodiscard]] bool content() const { return diagnostics_.empty(); }
    // Sorted by place, without repetitions.
    [[nodiscard]] std::vector<Diagnostic> take_diagnostics();

  private:
    // A value and where to point when it is at fault: at its key when the value is missing or empty.
    struct Value {
        YAML::Node node;
        Place place;
        std::string_view key;  // for messages
    };

    struct Entry {
        std::string key;
        Place key_place;
        Value value;
    };

    [[nodiscard]] std::vector<Entry> entries_of(const Value& map);
    [[nodiscard]] Value item_of(const YAML::Node& node, const Value& list) const;
    template <class Struct>
    void read_struct(const Value& value, Struct& into);
    void report_unknown(const std::vector<Entry>& entries, std::span<const std::string_view> keys,
                        std::span<const std::string_view> later);

    // The text of a scalar, or null after a complaint that names what was expected.
    [[nodiscard]] const std::string* text_of(const Value& value, std::string_view expected);
    [[nodiscard]] bool expect_list(const Value& value, std::string_view expected);
    [[nodiscard]] bool expect_map(const Value& value, std::string_view expected);
    void complain_type(const Value& value, std::string_view expected);
    void complain_word(const Value& value, std::string_view word, std::span<const std::string_view> words,
                       std::span<const std::string_view> later);
    [[nodiscard]] bool check_text(const Value& value, std::string_view text, std::size_t bytes_max,
                                  bool blanks);
    [[nodiscard]] std::optional<Endpoint> dialled(const Value& value);

    // One for each form.
    void read_value(const Value& value, Flag, bool& into);
    void read_value(const Value& value, Count form, std::uint32_t& into);
    void read_value(const Value& value, CountOrAuto form, std::uint32_t& into);
    void read_value(const Value& value, Duration form, Milliseconds& into);
    void read_value(const Value& value, Size form, std::uint64_t& into);
    void read_value(const Value& value, Text form, std::string& into);
    void read_value(const Value& value, Name, std::string& into);
    void read_value(const Value& value, Name form, Placed<std::string>& into);
    void read_value(const Value& value, PoolName, Placed<std::string>& into);
    void read_value(const Value& value, BindList, std::vector<Placed<Endpoint>>& into);
    void read_value(const Value& value, Target, Placed<std::optional<Endpoint>>& into);
    void read_value(const Value& value, Target, Endpoint& into);
    template <class Enum>
    void read_value(const Value& value, Choice, Enum& into);
    void read_value(const Value& value, OutputForm, Output& into);
    void read_value(const Value& value, EventList, AccessEvents& into);
    void read_value(const Value& value, ServerList, std::vector<std::string>& into);
    template <class Struct>
    void read_value(const Value& value, Nested, Struct& into);
    void read_value(const Value& value, Nested, Dns& into);
    void read_value(const Value& value, NestedOrOff, AccessLog& into);
    void read_value(const Value& value, DraftList, std::vector<ListenerDraft>& into);
    void read_value(const Value& value, PoolMap, std::vector<Pool>& into);
    void read_value(const Value& value, BackendList, std::vector<Backend>& into);

    std::string file_;
    std::vector<Diagnostic> diagnostics_;
    Timeouts inherited_timeouts_;  // of the whole file, once they are read
};

}  // namespace sluice::config

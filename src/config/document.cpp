#include "sluice/config/document.hpp"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <functional>
#include <map>
#include <sstream>

namespace sluice::config {
namespace {

// More than the good values of any file that is not too large; aliases of aliases would go on for hours.
constexpr std::size_t visited_max = 1'000'000;
// Longer than any text that a key takes: `file:` and a path of PATH_MAX.
constexpr std::size_t text_bytes_max = 4200;

std::string_view name_of(YAML::NodeType::value type) {
    switch (type) {
        case YAML::NodeType::Undefined:
        case YAML::NodeType::Null: return "nothing";
        case YAML::NodeType::Scalar: return "a single value";
        case YAML::NodeType::Sequence: return "a list";
        case YAML::NodeType::Map: return "a map";
    }
    return {};
}

// What the author of a line probably tripped over.
std::string_view hint_for(std::string_view line) {
    const auto has = [&](std::string_view part) { return line.find(part) != std::string_view::npos; };
    // YAML takes the bracket for the beginning of a list, and the star for an alias.
    if (has("]:") && !has("\"")) return " (an address that begins with a bracket needs quotes)";
    if (has("*:")) return " (every interface is :PORT, without a star)";
    if (has("\t")) return " (YAML is indented with blanks, not with tabs)";
    return {};
}

// Notes where a document begins, and takes nothing from it.
class DocumentStart : public YAML::EventHandler {
  public:
    [[nodiscard]] const YAML::Mark& mark() const { return mark_; }

    void OnDocumentStart(const YAML::Mark& mark) override { mark_ = mark; }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}

  private:
    YAML::Mark mark_;
};

// Where a second document begins. Not by YAML::LoadAll(): yaml-cpp 0.7 takes a comma that belongs to nothing
// for an empty document, without ever getting past it, and LoadAll() collects those until the memory is full.
std::optional<YAML::Mark> second_document(const std::string& text) {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    DocumentStart start;
    if (!parser.HandleNextDocument(start) || !parser.HandleNextDocument(start)) return std::nullopt;
    return start.mark();
}

}  // namespace

Place Document::place_of(const YAML::Mark& mark) const {
    if (mark.is_null()) return {};
    return source_.place(static_cast<std::size_t>(mark.line), static_cast<std::size_t>(mark.column));
}

void Document::complain_syntax(const YAML::Exception& error) {
    const Place place = place_of(error.mark);
    const bool deep = dynamic_cast<const YAML::DeepRecursion*>(&error) != nullptr;
    complain(place, fmt::format("YAML syntax: {}{}", deep ? "nested too deeply" : error.msg,
                                hint_for(source_.line(place.line))));
}

std::optional<Value> Document::parse() {
    try {
        const auto second = second_document(source_.text());
        if (!second) return Value{.node = YAML::Load(source_.text()), .place = {1, 1}, .what = "the file"};
        const Place place = place_of(*second);
        complain(place, source_.line(place.line).starts_with("---")
                            ? "a second YAML document begins here (a file may hold one)"
                            : "YAML syntax: this belongs to nothing before it");
    } catch (const YAML::Exception& error) {
        complain_syntax(error);
    }
    return std::nullopt;
}

bool Document::has_type(const Value& value, YAML::NodeType::value type, std::string_view expected) {
    // Such as `!env NAME`: to take it for the word NAME would be a silent mistake. "?" and "!" are yaml-cpp's
    // own, for plain and for quoted text.
    if (const std::string& tag = value.node.Tag(); !tag.empty() && tag != "?" && tag != "!") {
        complain(value.place,
                 fmt::format("{} has the YAML tag {}, which means nothing here", value.what, in_quotes(tag)));
        return false;
    }
    const YAML::NodeType::value found = value.node.Type();
    if (found == type) return true;
    if (found == YAML::NodeType::Null)
        complain(value.place,
                 fmt::format("{} has no value{}", value.what,
                             value.what.starts_with('"') ? " (leave the key out for its default)" : ""));
    else
        complain(value.place, fmt::format("{} must be {}, not {}", value.what, expected, name_of(found)));
    return false;
}

bool Document::may_visit(const Value& value) {
    visited_ += value.node.size();
    if (visited_ <= visited_max) return !complaints_.full();
    complain({}, "the file's aliases repeat too much of it");
    return false;
}

const std::string* Document::text(const Value& value, std::string_view expected) {
    if (!has_type(value, YAML::NodeType::Scalar, expected)) return nullptr;
    const std::string& text = value.node.Scalar();
    if (text.size() <= text_bytes_max) return &text;
    complain(value.place, fmt::format("{} is {} bytes long", value.what, text.size()));
    return nullptr;
}

std::optional<std::vector<Value>> Document::items(const Value& list, std::string_view expected,
                                                  std::string_view item_what) {
    if (!has_type(list, YAML::NodeType::Sequence, expected) || !may_visit(list)) return std::nullopt;
    std::vector<Value> items;
    for (const auto& node : list.node) {
        // The mark of an empty item is that of whatever comes next.
        if (node.IsNull())
            complain(list.place, fmt::format("item {} of {} is empty", items.size() + 1, list.what));
        items.push_back({.node = node, .place = place_of(node.Mark()), .what = std::string(item_what)});
    }
    std::erase_if(items, [](const Value& item) { return item.node.IsNull(); });
    return items;
}

std::optional<std::vector<Entry>> Document::entries(const Value& map, std::string_view expected) {
    if (!has_type(map, YAML::NodeType::Map, expected) || !may_visit(map)) return std::nullopt;
    std::vector<Entry> entries;
    std::map<std::string, int, std::less<>> lines;
    for (const auto& pair : map.node) {
        const Place key_place = place_of(pair.first.Mark());
        if (!pair.first.IsScalar()) {
            complain(key_place, fmt::format("a key must be plain text, not {}", name_of(pair.first.Type())));
            continue;
        }
        const std::string& key = pair.first.Scalar();
        const auto [first, fresh] = lines.emplace(key, key_place.line);
        if (!fresh) {
            complain(key_place,
                     fmt::format("duplicate key {} (first in line {})", in_quotes(key), first->second));
            continue;
        }
        // The mark of an empty value is that of whatever comes next.
        const Place place = pair.second.IsNull() ? key_place : place_of(pair.second.Mark());
        entries.push_back({.key = key,
                           .key_place = key_place,
                           .value = {.node = pair.second, .place = place, .what = in_quotes(key)}});
    }
    return entries;
}

const Value* find(const std::vector<Entry>& entries, std::string_view key) {
    const auto found = std::ranges::find(entries, key, &Entry::key);
    return found == entries.end() ? nullptr : &found->value;
}

}  // namespace sluice::config

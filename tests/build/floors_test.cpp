// The architecture as a test: reads every file of include/sluice and src and holds it against the floors of
// the design. The checker is itself checked on made-up trees, because one that finds nothing looks like a
// clean tree.

#include "tests/support/doctest.hpp"
#include "tests/support/folder.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::test {
namespace {

constexpr std::size_t lines_max = 600;

// What each floor may look at besides itself. Siblings do not see each other. `config` is plain data, so
// `upstream` and `account`, which are told by it where to dial and whom to name, may look at it.
const std::map<std::string, std::set<std::string>> floors = {
    {"base", {}},
    {"net", {"base"}},
    {"flow", {"base", "net"}},
    {"reactor", {"base", "net"}},
    {"prelude", {"base", "net"}},
    {"config", {"base", "net"}},
    {"upstream", {"base", "net", "config"}},
    {"account", {"base", "net", "config"}},
    {"session", {"base", "net", "flow", "reactor", "prelude", "config", "upstream", "account"}},
    {"datagram", {"base", "net", "flow", "reactor", "prelude", "config", "upstream", "account"}},
    {"relay",
     {"base", "net", "flow", "reactor", "prelude", "config", "upstream", "account", "session", "datagram"}},
    {"control",
     {"base", "net", "flow", "reactor", "prelude", "config", "upstream", "account", "session", "datagram",
      "relay"}},
    {"app",
     {"base", "net", "flow", "reactor", "prelude", "config", "upstream", "account", "session", "datagram",
      "relay", "control"}},
};

// Implementations of one interface: each has the header of the interface instead of one of its own.
const std::map<std::string, std::string> headers_shared = {
    {"src/session/dialling.cpp", "include/sluice/session/session.hpp"},
    {"src/reactor/epoll.cpp", "include/sluice/reactor/reactor.hpp"},
    {"src/reactor/uring.cpp", "include/sluice/reactor/reactor.hpp"},
};

// Paths relative to the top of the repository, and what stands in the files.
using Tree = std::map<std::string, std::string>;

std::vector<std::string> parts_of(const std::string& path) {
    std::vector<std::string> parts;
    std::istringstream stream(path);
    for (std::string part; std::getline(stream, part, '/');) parts.push_back(part);
    return parts;
}

// The floor that a path belongs to: src/FLOOR/..., include/sluice/FLOOR/...; empty when it is on none.
std::string floor_of(const std::string& path) {
    const std::vector<std::string> parts = parts_of(path);
    if (parts.size() == 3 && parts[0] == "src") return parts[1];
    if (parts.size() == 4 && parts[0] == "include" && parts[1] == "sluice") return parts[2];
    return "";
}

// The name between quotes or angle brackets, when the line is an include; empty when it is none.
std::string included_by(std::string_view line) {
    const auto skip_blanks = [&] {
        const std::size_t start = line.find_first_not_of(" \t");
        line.remove_prefix(start == std::string_view::npos ? line.size() : start);
    };
    skip_blanks();
    if (!line.starts_with('#')) return "";
    line.remove_prefix(1);
    skip_blanks();
    if (!line.starts_with("include")) return "";
    line.remove_prefix(std::string_view("include").size());
    skip_blanks();
    if (line.empty() || (line.front() != '"' && line.front() != '<')) return "";
    const char end = line.front() == '"' ? '"' : '>';
    return std::string(line.substr(0, line.find(end, 1) + 1));
}

// What is wrong with one include of a file on a floor; empty when it is fine. `included` is with its quotes.
std::string include_complaint(const std::string& floor, const std::string& included) {
    const bool quoted = included.front() == '"';
    const std::string name = included.substr(1, included.size() - 2);
    const std::vector<std::string> parts = parts_of(name);
    // A quoted name without a folder is an internal header beside the file.
    if (parts.front() != "sluice")
        return quoted && parts.size() > 1 ? included + " goes around the floors: include \"sluice/...\"" : "";
    if (!quoted) return included + ": our own headers stand in quotes";
    if (parts.size() != 3) return included + " stands on no floor";
    const std::string& target = parts[1];
    if (!floors.contains(target)) return included + " is on an unknown floor";
    if (target == floor || floors.at(floor).contains(target)) return "";
    return included + ": " + floor + " may not look at " + target;
}

std::string header_of(const std::string& path, const std::string& floor) {
    const auto shared = headers_shared.find(path);
    if (shared != headers_shared.end()) return shared->second;
    return "include/sluice/" + floor + "/" + std::filesystem::path(path).stem().string() + ".hpp";
}

// The mirror rule. A source file may have its header beside it instead, when only its floor's own sources use
// it; on the top floor there is nobody above to need one.
bool has_header(const Tree& tree, const std::string& path, const std::string& floor) {
    const std::filesystem::path file(path);
    if (file.extension() != ".cpp" || floor == "app") return true;
    return tree.contains(header_of(path, floor)) ||
           tree.contains(std::filesystem::path(path).replace_extension(".hpp").string());
}

std::vector<std::string> complaints_about(const Tree& tree) {
    std::vector<std::string> complaints;
    for (const auto& [path, text] : tree) {
        const std::string floor = floor_of(path);
        if (!floors.contains(floor)) {
            complaints.push_back(path + ": stands on no floor of the design");
            continue;
        }
        std::istringstream stream(text);
        std::size_t line_number = 0;
        for (std::string line; std::getline(stream, line);) {
            ++line_number;
            const std::string included = included_by(line);
            if (included.size() <= 2) continue;
            if (const std::string complaint = include_complaint(floor, included); !complaint.empty())
                complaints.push_back(path + ":" + std::to_string(line_number) + ": " + complaint);
        }
        if (line_number > lines_max)
            complaints.push_back(path + ": " + std::to_string(line_number) + " lines, more than " +
                                 std::to_string(lines_max) + ": it probably holds two ideas");
        if (!has_header(tree, path, floor))
            complaints.push_back(path + ": has no header " + header_of(path, floor));
    }
    return complaints;
}

Tree read_tree(const std::filesystem::path& top) {
    Tree tree;
    for (const char* folder : {"include/sluice", "src"})
        for (const auto& entry : std::filesystem::recursive_directory_iterator(top / folder)) {
            const std::string extension = entry.path().extension().string();
            if (extension == ".hpp" || extension == ".cpp" || extension == ".h" || extension == ".cc")
                tree[entry.path().lexically_relative(top).string()] = read_file(entry.path());
        }
    return tree;
}

std::string joined(const std::vector<std::string>& lines) {
    std::string text;
    for (const std::string& line : lines) text += line + "\n";
    return text;
}

std::string only_complaint(const Tree& tree) {
    const std::vector<std::string> complaints = complaints_about(tree);
    REQUIRE_MESSAGE(complaints.size() == 1, joined(complaints));
    return complaints.front();
}

TEST_CASE("every file of this repository looks down only, has its mirror and holds one idea") {
    const Tree tree = read_tree(SLUICE_SOURCE_DIR);
    CHECK(tree.contains("include/sluice/base/check.hpp"));
    CHECK(tree.contains("src/base/check.cpp"));
    const std::vector<std::string> complaints = complaints_about(tree);
    CHECK_MESSAGE(complaints.empty(), joined(complaints));
}

TEST_CASE("each floor stands on floors only, and no two see each other") {
    for (const auto& [floor, below] : floors)
        for (const std::string& target : below) {
            REQUIRE(floors.contains(target));
            CHECK_FALSE(floors.at(target).contains(floor));
            // What may be looked at may be looked at by those above, too.
            for (const std::string& deeper : floors.at(target)) CHECK(below.contains(deeper));
        }
}

TEST_CASE("looking down, at oneself and at other people's headers is fine") {
    CHECK(complaints_about(
              {{"include/sluice/net/pipe.hpp", "#pragma once\n#include <vector>\n"},
               {"src/net/pipe.cpp",
                "#include \"sluice/net/pipe.hpp\"\n#include <fcntl.h>\n#include <spdlog/spdlog.h>\n"
                "#include \"sluice/base/check.hpp\"\n#include \"detail.hpp\"\n"},
               {"src/net/detail.hpp", "#include \"sluice/net/pipe.hpp\"\n"},
               {"src/app/main.cpp", "#include \"sluice/relay/worker.hpp\"\n"},
               {"include/sluice/upstream/pool.hpp", "#include \"sluice/config/config.hpp\"\n"}})
              .empty());
}

TEST_CASE("looking up is found, with file, line and floor") {
    CHECK(only_complaint(
              {{"include/sluice/net/pipe.hpp", "#pragma once\n\n#include \"sluice/flow/flow.hpp\"\n"}}) ==
          "include/sluice/net/pipe.hpp:3: \"sluice/flow/flow.hpp\": net may not look at flow");
}

TEST_CASE("looking sideways is found") {
    for (const auto& [floor, target] :
         std::vector<std::pair<std::string, std::string>>{{"flow", "reactor"},
                                                          {"reactor", "flow"},
                                                          {"upstream", "flow"},
                                                          {"config", "upstream"},
                                                          {"session", "datagram"}}) {
        const std::string complaint =
            only_complaint({{"include/sluice/" + floor + "/x.hpp",
                             "  #  include \"sluice/" + target + "/x.hpp\"  // why\n"}});
        CHECK(complaint.ends_with(floor + " may not look at " + target));
    }
}

TEST_CASE("ways around the floors are found") {
    for (const std::string include : {"\"../flow/flow.hpp\"", "\"flow/flow.hpp\"", "<sluice/base/check.hpp>",
                                      "\"sluice/attic/x.hpp\"", "\"sluice/check.hpp\""})
        only_complaint({{"include/sluice/net/x.hpp", "#include " + include + "\n"}});
}

TEST_CASE("a source file without its header is found, except in app") {
    CHECK(only_complaint({{"src/net/pipe.cpp", ""}}) ==
          "src/net/pipe.cpp: has no header include/sluice/net/pipe.hpp");
    only_complaint({{"src/reactor/epoll.cpp", ""}});
    CHECK(complaints_about({{"src/app/main.cpp", ""},
                            {"src/config/reader.hpp", ""},
                            {"src/config/reader.cpp", ""},
                            {"include/sluice/reactor/reactor.hpp", ""},
                            {"src/reactor/epoll.cpp", ""}})
              .empty());
}

TEST_CASE("a file on no floor, or below a floor, is found") {
    only_complaint({{"src/attic/x.hpp", ""}});
    only_complaint({{"src/x.hpp", ""}});
    only_complaint({{"include/sluice/net/deep/x.hpp", ""}});
}

TEST_CASE("a file of more than 600 lines is found, one of 600 is not") {
    std::string text;
    for (std::size_t line = 0; line < lines_max; ++line) text += "\n";
    CHECK(complaints_about({{"include/sluice/net/x.hpp", text}}).empty());
    CHECK(only_complaint({{"include/sluice/net/x.hpp", text + "\n"}}).find("601 lines") != std::string::npos);
}

}  // namespace
}  // namespace sluice::test

#pragma once

#include "sluice/config/config.hpp"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::config {

// One finding about a configuration, in words for its author.
struct Diagnostic {
    std::string file;
    Place place;  // line 0 = about the file as a whole
    std::string message;
};

// `conf/sluice.yaml:12:5: unknown key "ballance" (did you mean "balance"?)`
[[nodiscard]] std::string to_string(const Diagnostic& diagnostic);

// A word from a file, fit for a message: a whole file in a wrong place should not become one. (Not `quoted`:
// for a std::string that would be std::quoted.)
[[nodiscard]] std::string in_quotes(std::string_view word);

// What is wrong with one file, collected while reading goes on.
class Complaints {
  public:
    explicit Complaints(std::string_view file) : file_(file) {}

    // Control characters in the message are written out: it is going to a terminal.
    void add(Place place, std::string_view message);

    [[nodiscard]] bool empty() const { return diagnostics_.empty(); }
    [[nodiscard]] std::size_t size() const { return diagnostics_.size(); }
    // Nobody reads further than this: whoever complains in a loop may leave it.
    [[nodiscard]] bool full() const;

    // In the order of the file, without repetitions; where there were too many, the last one says so.
    [[nodiscard]] std::vector<Diagnostic> take();

  private:
    std::string file_;
    std::vector<Diagnostic> diagnostics_;
};

}  // namespace sluice::config

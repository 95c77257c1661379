#pragma once

#include "sluice/config/diagnostic.hpp"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::config {

// The text of a configuration and where things stand in it. What is inside is text: UTF-8 without control
// characters other than tabs and line ends, and without a byte order mark.
class Source {
  public:
    // Reads a file, or a pipe until its end. Never waits for somebody to open a pipe's other end.
    [[nodiscard]] static std::expected<Source, Diagnostic> read(const std::string& path);
    // `name` stands in the place of a path.
    [[nodiscard]] static std::expected<Source, Diagnostic> of(std::string_view text, std::string_view name);

    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const std::string& text() const { return text_; }

    // What stands so many bytes after the beginning of a line; all count from 0. The column of the answer
    // counts characters, as editors do. It takes the same short time wherever that is.
    [[nodiscard]] Place place(std::size_t line, std::size_t bytes) const;

    // The text of a line without its end; the first line is 1. Empty when there is no such line.
    [[nodiscard]] std::string_view line(int number) const;

  private:
    Source(std::string_view text, std::string_view name);

    // The characters that begin before this byte of the text.
    [[nodiscard]] std::size_t characters_before(std::size_t byte) const;

    std::string name_;
    std::string text_;
    std::vector<std::size_t> lines_;               // the byte at which each begins
    std::vector<std::uint32_t> block_characters_;  // the characters that begin before each block
};

}  // namespace sluice::config

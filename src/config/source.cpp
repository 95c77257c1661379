#include "sluice/config/source.hpp"

#include "sluice/config/characters.hpp"
#include "sluice/net/owned_fd.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace sluice::config {
namespace {

// Room for fifty thousand backends with names. yaml-cpp needs up to 500 bytes of memory for one byte of text.
constexpr std::size_t file_bytes_max = std::size_t{4} << 20;
constexpr std::size_t block_bytes = 64;

bool begins_character(char byte) {
    return (static_cast<unsigned char>(byte) & 0xc0) != 0x80;
}

// The byte of the first character that cannot stand in a configuration; the text's size = all can.
std::size_t find_garbage(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size()) {
        const Character character = first_character(text.substr(at));
        // A carriage return alone ends a line for some editors and not for yaml-cpp.
        const bool line_end =
            character.code == '\n' || (character.code == '\r' && text.substr(at).starts_with("\r\n"));
        if (character.bytes == 0 || (is_control(character.code) && !line_end && character.code != '\t'))
            break;
        at += character.bytes;
    }
    return at;
}

}  // namespace

Source::Source(std::string_view text, std::string_view name) : name_(name), text_(text), lines_{0} {
    std::uint32_t characters = 0;
    // One step past the end, which is a place, too.
    for (std::size_t at = 0; at <= text_.size(); ++at) {
        if (at % block_bytes == 0) block_characters_.push_back(characters);
        if (at == text_.size()) break;
        if (begins_character(text_[at])) ++characters;
        if (text_[at] == '\n') lines_.push_back(at + 1);
    }
}

std::size_t Source::characters_before(std::size_t byte) const {
    const std::size_t block = byte / block_bytes;
    const std::string_view rest = std::string_view(text_).substr(block * block_bytes, byte % block_bytes);
    return block_characters_[block] + static_cast<std::size_t>(std::ranges::count_if(rest, begins_character));
}

Place Source::place(std::size_t line, std::size_t bytes) const {
    const std::size_t begin = lines_[std::min(line, lines_.size() - 1)];
    const std::size_t at = std::min(begin + bytes, text_.size());
    return {static_cast<int>(line + 1),
            static_cast<int>(characters_before(at) - characters_before(begin) + 1)};
}

std::string_view Source::line(int number) const {
    if (number < 1 || static_cast<std::size_t>(number) > lines_.size()) return {};
    const std::string_view rest =
        std::string_view(text_).substr(lines_[static_cast<std::size_t>(number) - 1]);
    return rest.substr(0, rest.find_first_of("\r\n"));
}

std::expected<Source, Diagnostic> Source::of(std::string_view text, std::string_view name) {
    const auto refused = [&](Place place, std::string message) {
        return std::unexpected(
            Diagnostic{.file = std::string(name), .place = place, .message = std::move(message)});
    };
    if (text.size() > file_bytes_max)
        return refused({}, fmt::format("the file is larger than {} bytes", file_bytes_max));
    constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
    if (text.starts_with(byte_order_mark)) text.remove_prefix(byte_order_mark.size());
    if (const std::size_t garbage = find_garbage(text); garbage < text.size()) {
        const Source before(text.substr(0, garbage), name);
        const std::size_t line = before.lines_.size() - 1;
        return refused(before.place(line, garbage - before.lines_.back()),
                       "not text: a control character, or a byte that is not UTF-8");
    }
    return Source(text, name);
}

std::expected<Source, Diagnostic> Source::read(const std::string& path) {
    const auto refused = [&](std::string_view reason) {
        return std::unexpected(Diagnostic{
            .file = path, .place = {}, .message = fmt::format("cannot read the file: {}", reason)});
    };
    const auto failed = [&](int error) { return refused(std::generic_category().message(error)); };

    // NONBLOCK for the opening alone, which for a pipe would wait until somebody opens it for writing. One
    // who already waits for us to open it counts as a writer from then on (fifo(7)).
    const OwnedFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!file.valid()) return failed(errno);
    struct stat status{};
    if (::fstat(file.get(), &status) != 0 || ::fcntl(file.get(), F_SETFL, 0) != 0) return failed(errno);

    std::string text;
    std::array<char, 65536> chunk{};
    while (text.size() <= file_bytes_max) {
        const ssize_t bytes = ::read(file.get(), chunk.data(), chunk.size());
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes < 0) return failed(errno);
        if (bytes == 0) break;
        text.append(chunk.data(), static_cast<std::size_t>(bytes));
    }
    if (text.empty() && S_ISFIFO(status.st_mode)) return refused("it is a pipe into which nobody writes");
    return of(text, path);
}

}  // namespace sluice::config

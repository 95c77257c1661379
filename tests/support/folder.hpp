#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace sluice::test {

// A folder of its own under the system's temporary folder; it and what is in it go with the object.
// Its path is short, because the path of a unix socket may have 107 characters only.
class TemporaryFolder {
  public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;

    const std::filesystem::path& path() const { return path_; }
    std::string file(std::string_view name) const { return (path_ / name).string(); }

    // Writes the file anew and returns its path.
    std::string write(std::string_view name, std::string_view text) const;

  private:
    std::filesystem::path path_;
};

// The whole file; empty when there is none.
std::string read_file(const std::filesystem::path& path);

}  // namespace sluice::test

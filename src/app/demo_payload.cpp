#include "sluice/app/demo_payload.hpp"

#include "sluice/base/errors.hpp"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <random>

namespace sluice {

std::expected<DemoPayload, std::string> DemoPayload::make() {
    DemoPayload payload;
    payload.bytes_.resize(size);
    std::mt19937_64 random(size);  // any seed: the bytes only must not repeat within the payload
    for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
        const std::uint64_t word = random();
        std::memcpy(payload.bytes_.data() + at, &word, sizeof(word));
    }
    payload.file_ = OwnedFd(::memfd_create("sluice-demo", MFD_CLOEXEC));
    std::size_t written = 0;
    while (payload.file_.valid() && written < size) {
        const ssize_t result = ::write(payload.file_.get(), payload.bytes_.data() + written, size - written);
        if (result <= 0) break;
        written += static_cast<std::size_t>(result);
    }
    if (written < size)
        return std::unexpected(
            fmt::format("cannot make a file of 4 MiB in memory: {}", explain_errno(errno)));
    return payload;
}

ssize_t DemoPayload::send(int socket, std::uint64_t position) const noexcept {
    auto offset = static_cast<off_t>(position % size);
    return ::sendfile(socket, file_.get(), &offset, size - static_cast<std::size_t>(offset));
}

ssize_t DemoReader::receive(int socket) noexcept {
    const std::uint64_t in_round = position_ % compared_every;
    const std::uint64_t compared = position_ < compared_every ? compared_at_first : compared_bytes;
    if (in_round >= compared) {
        const ssize_t dropped = ::recv(socket, nullptr, compared_every - in_round, MSG_TRUNC);
        if (dropped > 0) position_ += static_cast<std::uint64_t>(dropped);
        return dropped;
    }
    const std::size_t at = position_ % DemoPayload::size;
    const std::size_t room = std::min({compared - in_round, buffer_.size(), DemoPayload::size - at});
    const ssize_t received = ::recv(socket, buffer_.data(), room, 0);
    if (received > 0) {
        const auto bytes = static_cast<std::size_t>(received);
        if (std::memcmp(buffer_.data(), payload_->bytes().data() + at, bytes) != 0) intact_ = false;
        position_ += bytes;
    }
    return received;
}

}  // namespace sluice

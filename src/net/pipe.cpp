#include "sluice/net/pipe.hpp"

#include "sluice/base/check.hpp"
#include "sluice/net/capability.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <unistd.h>

#include <fstream>
#include <utility>

namespace sluice {

std::optional<Pipe> Pipe::open(std::size_t size) noexcept {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return std::nullopt;
    OwnedFd read_end(ends[0]);
    OwnedFd write_end(ends[1]);
    int granted = ::fcntl(write_end.get(), F_GETPIPE_SZ);
    // Asked for only where it changes something: the default is 64 KiB already.
    if (granted < 0 || std::cmp_not_equal(granted, size))
        granted = ::fcntl(write_end.get(), F_SETPIPE_SZ, static_cast<int>(size));
    if (granted < 0 || std::cmp_less(granted, size)) return std::nullopt;
    return Pipe(std::move(read_end), std::move(write_end), static_cast<std::size_t>(granted));
}

namespace {

bool in_first_user_namespace() {
    // The first user namespace maps every id onto itself.
    std::ifstream map("/proc/self/uid_map");
    std::uint64_t inside = 1, outside = 1, count = 0;
    return map >> inside >> outside >> count && inside == 0 && outside == 0 && count == 0xffffffffU;
}

}  // namespace

PipeBudget PipeBudget::of_this_system() {
    constexpr std::size_t plenty = std::size_t{1} << 30;
    std::ifstream file("/proc/sys/fs/pipe-user-pages-soft");
    std::uint64_t pages = 0;
    if (!(file >> pages)) pages = 16384;  // the kernel's default (PIPE_DEF_BUFFERS * INR_OPEN_CUR)
    const bool exempt = pages == 0 || (in_first_user_namespace() &&
                                       (has_capability(CAP_SYS_RESOURCE) || has_capability(CAP_SYS_ADMIN)));
    if (exempt) return {plenty, true};
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return {pages * page / 4 * 3, false};
}

PipePool::PipePool(std::size_t budget) : budget_(budget) {
    for (auto& pipes : idle_) pipes.reserve(idle_max_of_a_size);
}

std::size_t PipePool::wanted_size_index() const noexcept {
    if (leased_ + sizes[0] <= budget_ / 2) return 0;
    if (leased_ + sizes[1] <= budget_ / 4 * 3) return 1;
    return 2;
}

std::optional<Pipe> PipePool::take_idle(std::size_t index) noexcept {
    if (idle_[index].empty()) return std::nullopt;
    Pipe pipe = std::move(idle_[index].back());
    idle_[index].pop_back();
    idle_bytes_ -= pipe.size();
    return pipe;
}

void PipePool::drop_idle_until_fits(std::size_t size) noexcept {
    for (std::size_t index = sizes.size(); index-- > 0;)
        while (leased_ + idle_bytes_ + size > budget_ && take_idle(index).has_value()) {
        }
}

std::optional<Pipe> PipePool::lease() noexcept {
    const std::size_t wanted = wanted_size_index();
    std::optional<Pipe> pipe = take_idle(wanted);
    if (!pipe && leases_until_retry_ > 0) {
        --leases_until_retry_;
    } else if (!pipe) {
        bool asked = false;
        for (std::size_t index = wanted; index < sizes.size() && !pipe; ++index) {
            drop_idle_until_fits(sizes[index]);
            if (leased_ + idle_bytes_ + sizes[index] > budget_) continue;
            pipe = Pipe::open(sizes[index]);
            asked = true;
        }
        // Asking costs 5 us; whoever holds the user's pipes will hold them for a while.
        if (!pipe && asked) leases_until_retry_ = 256;
    }
    for (std::size_t index = 0; index < sizes.size() && !pipe; ++index) pipe = take_idle(index);
    if (pipe)
        leased_ += pipe->size();
    else
        ++refusals_;
    return pipe;
}

void PipePool::give_back(Pipe pipe) noexcept {
    SLUICE_CHECK(leased_ >= pipe.size());
    leased_ -= pipe.size();
    for (std::size_t index = 0; index < sizes.size(); ++index) {
        if (pipe.size() != sizes[index] || idle_[index].size() == idle_max_of_a_size) continue;
        idle_bytes_ += pipe.size();
        idle_[index].push_back(std::move(pipe));
        return;
    }
}

void PipePool::drop_idle() noexcept {
    for (auto& pipes : idle_) pipes.clear();
    idle_bytes_ = 0;
}

void PipePool::forfeit(Pipe pipe) noexcept {
    SLUICE_CHECK(leased_ >= pipe.size());
    leased_ -= pipe.size();
}

}  // namespace sluice
